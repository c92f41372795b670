// Calls to the server, and small helpers for the page's elements.

export const $ = (id) => document.getElementById(id);

// An element with properties and children. Text is always text: no markup is made from it.
export function element(tag, properties = {}, ...children) {
  const { data = {}, aria = {}, ...others } = properties;
  const made = Object.assign(document.createElement(tag), others);
  for (const [name, value] of Object.entries(aria)) made.setAttribute(name === "role" ? "role" : `aria-${name}`, value);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

// Each visit has its own turns in the server's queue.
const visit = crypto.randomUUID?.() ?? String(Math.random()).slice(2);

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { "X-Visit": visit, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is spire serve still running?");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const message = error ? error[0].toUpperCase() + error.slice(1) : `The server answered ${response.status}`;
  throw Object.assign(new Error(`${message}.`.replace(/\.\.$/, ".")), { status: response.status });
}

const asJson = (value) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });

export function form(files, fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    body.append(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  for (const [name, blob] of Object.entries(files)) if (blob) body.append(name, blob, `${name}.png`);
  return { method: "POST", body };
}

export const models = async () => (await call("/api/models")).json();
export const prompt = async (value, signal) => (await call("/api/prompt", { ...asJson(value), signal })).json();
export const scene = async (n, model) => (await call(`/api/scenes/${n}?${new URLSearchParams({ model })}`)).json();
export const restore = async (files, fields) => (await call("/api/restore", form(files, fields))).json();
export const cancel = (id) => call(`/api/jobs/${id}`, { method: "DELETE" });
export const cellPicture = (id, n, version) => `/api/jobs/${id}/pictures/${n}?${version}`;
export const cellBlob = async (id, n) => (await call(`/api/jobs/${id}/pictures/${n}`)).blob();

// A degraded picture, the steps taken, and the prompt that training would pair with it.
async function degraded(path, options) {
  const response = await call(path, options);
  const { headers } = response;
  return { blob: await response.blob(), steps: headers.get("x-steps"), prompt: headers.get("x-restoration-prompt") };
}
export const scenePath = (n, query) => `/api/scenes/${n}/picture?${new URLSearchParams(query)}`;
export const scenePicture = (n, query) => degraded(scenePath(n, query));
export const degrade = (blob, fields) => degraded("/api/degrade", form({ picture: blob }, fields));

// Calls `seen` with every state of a job, to its last one.
export function follow(id, seen) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`/api/jobs/${id}/events`);
    source.onmessage = ({ data }) => {
      const job = JSON.parse(data);
      seen(job);
      if (!["waiting", "running"].includes(job.state)) {
        source.close();
        resolve(job);
      }
    };
    source.onerror = () => {
      // A lost connection is opened again by the browser; a job that is gone is not.
      if (source.readyState === EventSource.CLOSED) reject(new Error("The job is gone."));
    };
  });
}
