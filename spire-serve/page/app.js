// The page: joins the parts, sends orders and shows their jobs.

import { $, cancel, cellBlob, cellPicture, element, follow, models, restore } from "./api.js";
import { Compare } from "./compare.js";
import { Degrading } from "./degrade.js";
import { History } from "./history.js";
import { Pictures } from "./picture.js";
import { RestorationPrompt } from "./prompt.js";
import { Settings, command, link } from "./settings.js";
import { Cells, setWalkForm, startWalks, walkFields, walkForm } from "./walk.js";

const EXAMPLES = ["a panda by the bamboo", "a photo of a lion", "a red tomato", "a sailboat on the sea"];
const REMOVE_ALL = "Remove all degradation";

const site = await models();
const settings = new Settings(site);
const model = () => settings.model.name;
const compare = new Compare(showRight);
const history = new History(recall);
const cells = new Cells((n) => compare.choose(null, `cell-${n}`));
const prompt = new RestorationPrompt({
  sliders: $("sliders"), text: $("restoration"), problem: $("restoration-problem"), untrained: $("untrained"), model, changed: () => {},
});
const pictures = new Pictures({ model, changed: pictureChanged, failed: fail });
const degrading = new Degrading({ pictures, model, failed: fail, use: (text) => (prompt.value = text) });

let running = null; // the job that is being followed
let shown = null; // the result on the stage: { snapshot, job, urls }
let inputUrls = {}; // addresses of the degraded and the clean picture

const mode = () => document.querySelector("input[name=mode]:checked").value;

function setMode(value) {
  document.querySelector(`input[name=mode][value="${value}"]`)?.click();
}

function fail(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

// The stage.

function pictureChanged(picture) {
  $("problem").hidden = true;
  Object.values(inputUrls).forEach((url) => URL.revokeObjectURL(url));
  inputUrls = { degraded: URL.createObjectURL(picture.degraded) };
  if (picture.truth) inputUrls.truth = URL.createObjectURL(picture.truth);
  if (picture.caption !== undefined && !picture.keepPrompts) $("semantic").value = picture.caption;
  if (picture.prompt && !picture.keepPrompts) prompt.value = picture.prompt;
  warnOfSmall();
  shown = null;
  showViews();
  compare.choose("degraded", picture.truth ? "truth" : "degraded");
}

// The picture's width and height; none if the browser can't read its format.
async function sizeOf(blob) {
  const bitmap = await createImageBitmap(blob).catch(() => null);
  const size = { width: bitmap?.width, height: bitmap?.height };
  bitmap?.close();
  return size;
}

// Warns of a picture that is much smaller than those on which the model was trained.
async function warnOfSmall() {
  const picture = pictures.current;
  if (!picture) return;
  picture.size ??= sizeOf(picture.degraded); // decoded once, not with every change of the form
  const { width, height } = await picture.size;
  if (picture !== pictures.current) return;
  const { side } = settings.model;
  const shorter = Math.min(width, height);
  const isSmall = 4 * shorter * Number($("upscale").value) < 3 * side;
  const sentence =
    `The picture has ${width}×${height} pixels, and the model was trained on ${side}×${side}: it distorts objects that are smaller ` +
    `than it knows them. Under More, enlarge by ${Math.ceil(side / shorter)}.`;
  $("small").replaceChildren(...(isSmall ? [element("li", { textContent: sentence })] : []));
}

// Fills the choices of the stage: the input, the result, and what else this visit made.
function showViews() {
  const views = [];
  const add = (key, label, url) => url && views.push({ key, label, url });
  add("degraded", "Degraded", inputUrls.degraded);
  const others = history.entries.filter((entry) => entry !== shown);
  for (const { number, urls, job } of others) {
    urls.forEach((url, i) => add(`${number}-${i}`, `Result ${number}${urls.length > 1 ? `: ${job.cells[i].title}` : ""}`, url));
  }
  add("truth", "Clean", inputUrls.truth);
  shown?.job.cells.forEach((cell, i) => {
    const url = shown.urls?.[i] ?? (cell.version ? cellPicture(shown.job.id, i, cell.version) : null);
    const number = shown.number ? `Result ${shown.number}` : "Restored";
    add(`cell-${i}`, shown.job.cells.length > 1 ? `${number}: ${cell.title}` : number, url);
  });
  compare.choices = views;
  cells.show(shown?.job, shown?.urls);
}

function showRight() {
  const right = compare.right;
  $("result-actions").hidden = !right;
  if (!right) return;
  const cell = /^cell-(\d+)$/.exec(right.key);
  const n = cell ? Number(cell[1]) : -1;
  cells.mark(n);
  const name = pictures.current?.name ?? "picture";
  $("download").href = right.url;
  $("download").download = { degraded: `${name}.png`, truth: `${name}-clean.png` }[right.key] ?? `${name}-restored.png`;
  const { psnr, ssim, title } = shown?.job.cells[n] ?? {};
  const figures = [];
  if (shown?.job.cells.length > 1 && title) figures.push(["Picture", title]);
  if (psnr !== undefined) figures.push(["PSNR", `${psnr.toFixed(2)} dB`]);
  if (ssim !== undefined) figures.push(["SSIM", ssim.toFixed(3)]);
  const pair = ([term, text]) => element("div", {}, element("dt", { textContent: term }), element("dd", { textContent: text }));
  $("figures").replaceChildren(...figures.map(pair));
}

// Orders and jobs.

// The page as it is now: the form as text, the picture, and the order that they make.
function snapshot() {
  const form = { semantic: $("semantic").value, restoration: prompt.value, ...settings.changed };
  if (settings.site.models.length > 1) form.models = settings.models;
  if (mode() !== "restore") Object.assign(form, walkForm());
  const order = { ...settings.fields };
  if (form.semantic) order.semantic = form.semantic;
  if (form.restoration !== REMOVE_ALL) order.restoration = form.restoration;
  if (mode() !== "restore") {
    Object.assign(order, walkFields(mode()), { models: settings.models.slice(0, 1) });
    delete order.variants;
  }
  return { mode: mode(), form, picture: pictures.current, name: pictures.current?.name ?? "picture", order };
}

async function submit() {
  if (running) return;
  $("problem").hidden = true;
  try {
    if (!pictures.current) throw new Error("Choose a picture first: a sample, or one of yours.");
    const taken = snapshot();
    const { degraded, truth } = pictures.current;
    running = {};
    setRunning(true);
    tell("Sending the picture…", null);
    running = await restore({ picture: degraded, truth }, { ...taken.order, while_followed: true });
    shown = { snapshot: taken, job: running, urls: null };
    showViews();
    if (innerWidth <= 860) $("result").scrollIntoView({ block: "start" });
    let last = -1;
    const job = await follow(running.id, (job) => {
      if (shown.snapshot !== taken) return;
      shown.job = job;
      report(job);
      showViews();
      // The stage follows the picture that is being made.
      const at = job.cells.findIndex((cell, i) => cell.version && (!cell.done || i === job.cells.length - 1));
      if (at >= 0 && at !== last) compare.choose("degraded", `cell-${(last = at)}`);
    });
    await end(job, taken);
  } catch (error) {
    fail(error);
  } finally {
    running = null;
    setRunning(false);
  }
}

async function end(job, taken) {
  if (job.state === "failed") throw new Error(job.error);
  if (job.state !== "done") {
    shown = null;
    showViews();
    compare.choose("degraded", "degraded");
    throw new Error("Cancelled.");
  }
  // The server forgets its pictures; the page keeps them for this visit.
  const blobs = await Promise.all(job.cells.map((_, i) => cellBlob(job.id, i)));
  const entry = { snapshot: taken, job, urls: blobs.map((blob) => URL.createObjectURL(blob)) };
  const right = $("right").value;
  shown = entry;
  history.add(entry);
  showViews();
  compare.choose("degraded", right);
}

function setRunning(is) {
  $("go").disabled = is;
  $("cancel").hidden = !is;
  $("progress").hidden = !is;
}

function tell(text, share) {
  $("status").textContent = text;
  if (share === null) $("bar").removeAttribute("value");
  else $("bar").value = share;
}

function report(job) {
  if (job.state === "waiting") {
    const others = job.ahead === 1 ? "1 job is" : `${job.ahead} jobs are`;
    return tell(job.ahead ? `Waiting: ${others} before this one` : "Waiting for the model", null);
  }
  const total = job.cells.filter(({ restoration }) => restoration !== null).length;
  const done = job.cells.filter((cell) => cell.done && cell.restoration !== null).length;
  const now = job.cells.find((cell) => !cell.done);
  const share = total ? (done + (now?.steps ? now.step / now.steps : 0)) / total : 1;
  const parts = [];
  if (total > 1) parts.push(`picture ${Math.min(done + 1, total)} of ${total}`);
  if (now?.steps) parts.push(`step ${now.step} of ${now.steps}`);
  if (job.seconds_left != null) parts.push(job.seconds_left < 10 ? `${job.seconds_left.toFixed(1)} s left` : `${Math.round(job.seconds_left)} s left`);
  return tell(parts.join(" · "), share);
}

// Cancelling: the job's last event ends `submit`.
function stop() {
  if (running?.id) cancel(running.id).catch(fail);
}

// Settings that come back: from the history, or from a link.

function apply({ mode, form }) {
  setMode(mode ?? "restore");
  $("semantic").value = form.semantic ?? "";
  prompt.value = form.restoration ?? REMOVE_ALL;
  if (form.models) settings.models = form.models;
  settings.changed = form;
  setWalkForm(form);
  warnOfSmall();
}

function recall(entry) {
  apply(entry.snapshot);
  const { picture } = entry.snapshot;
  if (picture !== pictures.current) pictures.set({ ...picture, keepPrompts: true });
  shown = entry;
  showViews();
  compare.choose("degraded", `cell-${entry.urls.length - 1}`);
}

function openLink() {
  if (location.hash.length < 2) return false;
  const form = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const { scene, degraded } = form;
  try {
    if (form.models) form.models = JSON.parse(form.models);
    apply({ mode: form.mode, form });
    if (scene !== undefined) {
      pictures.open(Number(scene), JSON.parse(degraded ?? "{}")).then(() => apply({ mode: form.mode, form }));
    }
  } catch {
    fail(new Error("This link is not complete: some settings could not be read."));
  }
  return scene !== undefined;
}

async function copy(text, note) {
  try {
    await navigator.clipboard.writeText(text);
    $("copied").textContent = note;
  } catch {
    // Browsers allow it on https and localhost only.
    $("copied").textContent = text;
  }
}

// The theme: the system's, until the button is used.
function startTheme() {
  const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const show = () => ($("theme").textContent = dark() ? "Light" : "Dark");
  const kept = localStorage.getItem("theme");
  if (kept) document.documentElement.dataset.theme = kept;
  $("theme").addEventListener("click", () => {
    localStorage.setItem("theme", (document.documentElement.dataset.theme = dark() ? "light" : "dark"));
    show();
  });
  show();
}

function start() {
  startTheme();
  startWalks(() => {});
  $("version").textContent = `SPIRE ${site.version}.`;
  $("semantics").value = "a lion\na tiger\na panda";
  const example = (text) => {
    const button = element("button", { type: "button", textContent: text });
    button.addEventListener("click", () => ($("semantic").value = text));
    return button;
  };
  $("examples").replaceChildren(...EXAMPLES.map(example));
  $("remove-all").addEventListener("click", () => prompt.removeAll());
  for (const input of document.querySelectorAll("input[name=mode]")) {
    input.addEventListener("change", () => {
      $("walk-strengths").hidden = mode() !== "strengths";
      $("walk-semantics").hidden = mode() !== "semantics";
      // A walk brings the prompts that it walks through.
      $("restoration-card").hidden = mode() === "strengths";
      $("semantic-card").hidden = mode() === "semantics";
      $("go").textContent = mode() === "restore" ? "Restore" : "Walk";
    });
  }
  const modelChanged = () => {
    prompt.sliders.trained = degrading.sliders.trained = settings.model.trained;
    prompt.value = prompt.value || REMOVE_ALL;
    warnOfSmall();
  };
  $("models").addEventListener("change", modelChanged);
  $("upscale").addEventListener("input", warnOfSmall);
  $("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("cancel").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("controls").requestSubmit();
    else if (event.key === "Escape") stop();
  });
  $("copy-command").addEventListener("click", () => copy(command(shown?.snapshot ?? snapshot(), site), "Copied the command"));
  $("copy-link").addEventListener("click", () => {
    const taken = shown?.snapshot ?? snapshot();
    const address = `${location.origin}/#${link(taken)}`;
    const whole = taken.picture?.scene !== undefined;
    copy(address, whole ? "Copied the link" : "Copied a link to the settings; your picture is not part of it");
  });
  window.addEventListener("hashchange", openLink);
  modelChanged();
  pictures.start();
  showViews();
  if (!openLink()) pictures.openSample(0);
  document.documentElement.dataset.ready = "true";
}

start();
