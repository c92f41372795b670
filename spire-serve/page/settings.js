// The settings under "More", the models, links and commands.

import { $, element } from "./api.js";
import { TASKS } from "./walk.js";

// The fields whose defaults come from the model: the page's name and the name in the model's sampling settings.
const OF_MODEL = {
  steps: "steps", guidance: "guidance_scale", sampler: "sampler", strength: "strength", start: "start",
  control_scale: "control_scale", control_start: "control_start", control_end: "control_end", colour_fix: "colour_fix", tile: "tile", negative: "negative",
};
const OWN = { seed: "0", variants: "1", upscale: "1" };
const TEXTS = ["sampler", "start", "colour_fix", "negative"];

export class Settings {
  constructor(site) {
    this.site = site;
    const options = (values) => values.map((value) => element("option", { value, textContent: value }));
    $("sampler").replaceChildren(...options(site.samplers));
    $("colour_fix").replaceChildren(...options(site.colour_fixes));
    if (site.models.length > 1) {
      const choice = ({ name }, i) =>
        element("label", {}, element("input", { type: "checkbox", name: "model", value: name, checked: i === 0 }), name);
      $("models").append(...site.models.map(choice));
      $("models").hidden = false;
    }
    $("defaults").addEventListener("click", () => this.reset());
    this.reset();
  }

  // The chosen models' names; the first if none is.
  get models() {
    const chosen = [...document.querySelectorAll("#models input:checked")].map(({ value }) => value);
    return chosen.length ? chosen : [this.site.models[0].name];
  }

  // The model whose ranges and defaults the page shows.
  get model() {
    return this.site.models.find(({ name }) => name === this.models[0]);
  }

  // The defaults as text.
  get #defaults() {
    const { sampling } = this.model;
    const of = Object.entries(OF_MODEL).map(([name, key]) => [name, String(sampling[key] ?? "")]);
    return { ...Object.fromEntries(of), ...OWN };
  }

  reset() {
    for (const [name, value] of Object.entries(this.#defaults)) $(name).value = value;
  }

  // What differs from the defaults, as text.
  get changed() {
    const differs = ([name, value]) => $(name).value !== value && ($(name).value !== "" || name === "negative");
    return Object.fromEntries(Object.entries(this.#defaults).filter(differs).map(([name]) => [name, $(name).value]));
  }

  set changed(values) {
    this.reset();
    for (const name of Object.keys(this.#defaults)) if (values[name] !== undefined) $(name).value = values[name];
    if (Object.keys(this.changed).some((name) => name !== "seed")) $("more").open = true;
  }

  set models(names) {
    for (const box of document.querySelectorAll("#models input")) box.checked = names.includes(box.value);
  }

  // The fields of an order.
  get fields() {
    const value = ([name, text]) => [name, TEXTS.includes(name) ? text : Number(text)];
    return { models: this.models, ...Object.fromEntries(Object.entries(this.changed).map(value)) };
  }
}

// One word of a POSIX shell.
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// The command that makes the same picture from the file `NAME.png`.
export function command(snapshot, site) {
  const { order, name } = snapshot;
  const model = site.models.find((model) => model.name === order.models[0]);
  const file = (ending) => quoted(`${name}${ending}.png`);
  const words = (names) =>
    names.filter((key) => order[key] !== undefined).map((key) => `--${key.replaceAll("_", "-")} ${quoted(String(order[key]))}`);
  const options = model.options ? [model.options] : [];
  const sampling = ["negative", "steps", "guidance", "sampler", "strength", "start", "control_scale", "control_start", "control_end", "colour_fix", "tile"];
  if (order.semantics) {
    const prompts = order.semantics.map((prompt) => `--semantic ${quoted(prompt)}`);
    return ["spire walk", file(""), "-o", file("-walk"), ...options, ...prompts, ...words(["restoration", ...sampling, "seed"])].join(" ");
  }
  const walked = Object.keys(TASKS).filter((task) => order[task]);
  if (walked.length) {
    const lists = walked.map((task) => `--${task} ${order[task].join(",")}`);
    return ["spire walk", file(""), "-o", file("-walk"), ...options, ...lists, ...words(["semantic", ...sampling, "seed"])].join(" ");
  }
  const keys = ["semantic", "restoration", ...sampling, "upscale", "seed", "variants"];
  return ["spire restore", file(""), "-o", file("-restored"), ...options, ...words(keys)].join(" ");
}

// A snapshot of the page as the part of an address after "#".
export function link({ mode, form, picture }) {
  const pairs = { mode, ...form };
  if (picture?.scene !== undefined) {
    pairs.scene = picture.scene;
    pairs.degraded = JSON.stringify(picture.query);
  }
  const said = Object.entries(pairs).filter(([, value]) => value !== "" && value !== undefined);
  return new URLSearchParams(said.map(([name, value]) => [name, Array.isArray(value) ? JSON.stringify(value) : value])).toString();
}
