// Walks: which strengths or prompts, and the grid of the pictures of a job.

import { $, cellPicture, element } from "./api.js";
import { KINDS } from "./prompt.js";

// The keys of an order, in the order of a prompt: the first of a walk's two has the rows.
export const TASKS = { deblur: "blur", upsample: "downsample", denoise: "noise", dejpeg: "jpeg" };
const NAMES = Object.keys(TASKS);
const FIELDS = ["walk-row-task", "walk-column-task", "walk-row-most", "walk-column-most", "walk-rows", "walk-columns", "semantics"];

const words = (axis) => KINDS[TASKS[$(`walk-${axis}-task`).value]];

function setTasks(axis, names) {
  const select = $(`walk-${axis}-task`);
  const before = select.value;
  select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: KINDS[TASKS[name]].verb })));
  if (names.includes(before)) select.value = before;
  return select.value !== before;
}

// The slider of an axis goes over the range of its task; a new task begins at twice its usual number.
function setRange(axis, isNew) {
  const range = $(`walk-${axis}-most`);
  const { min, max, step, start } = words(axis);
  Object.assign(range, { min, max, step });
  if (isNew) range.value = 2 * start;
}

function show() {
  for (const axis of ["row", "column"]) $(`walk-${axis}-value`).textContent = words(axis).shown($(`walk-${axis}-most`).valueAsNumber);
}

// Columns walk through a task that comes after that of the rows.
function taskChosen(axis) {
  const others = NAMES.slice(NAMES.indexOf($("walk-row-task").value) + 1);
  const changed = setTasks("column", others);
  setRange("row", axis === "row");
  setRange("column", axis === "column" || changed);
  show();
}

export function startWalks(changed) {
  setTasks("row", NAMES.slice(0, -1));
  setTasks("column", NAMES.slice(1));
  $("walk-column-task").value = "denoise";
  setRange("row", true);
  setRange("column", true);
  show();
  for (const id of FIELDS) {
    $(id).addEventListener("input", () => {
      if (id.endsWith("-task")) taskChosen(id === "walk-row-task" ? "row" : "column");
      show();
      changed();
    });
  }
}

export const walkForm = () => Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));

export function setWalkForm(values) {
  for (const id of FIELDS) {
    if (values[id] === undefined) continue;
    $(id).value = values[id];
    if (id.endsWith("-task")) taskChosen(id === "walk-row-task" ? "row" : "column");
  }
  show();
}

// `count` numbers from 0, which leaves the request out, to `most`, rounded as prompts are.
function numbers(axis, count) {
  const { step, min } = words(axis);
  const decimals = step < 0.1 ? 2 : step < 1 ? 1 : 0;
  const most = $(`walk-${axis}-most`).valueAsNumber;
  // A factor starts at 1, strengths at 0.
  const low = min === 1 && decimals === 1 ? 1 : 0;
  return Array.from({ length: count }, (_, i) => (i === 0 ? 0 : Number((low + ((most - low) * i) / (count - 1)).toFixed(decimals))));
}

// The part of an order that makes it a walk of this mode.
export function walkFields(mode) {
  if (mode === "strengths") {
    return {
      [$("walk-row-task").value]: numbers("row", $("walk-rows").valueAsNumber),
      [$("walk-column-task").value]: numbers("column", $("walk-columns").valueAsNumber),
    };
  }
  const semantics = $("semantics").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!semantics.length) throw new Error("Write at least one semantic prompt, one a line.");
  return { semantics };
}

// The pictures of a job with several, each filled as it is done. `chosen` is called with the number of a picture.
export class Cells {
  constructor(chosen) {
    this.box = $("cells");
    this.chosen = chosen;
  }

  // Shows a job; `urls` are the pictures' addresses once they are kept by the page.
  show(job, urls) {
    const cells = job?.cells ?? [];
    if (cells.length < 2) return this.box.replaceChildren();
    if (this.box.dataset.job !== job.id || this.box.children.length !== cells.length) {
      this.box.dataset.job = job.id;
      this.box.style.gridTemplateColumns = `repeat(${job.columns}, minmax(5.5rem, ${job.columns < 3 ? "14rem" : "1fr"}))`;
      this.box.replaceChildren(...cells.map((cell, i) => this.#button(cell, i)));
    }
    cells.forEach((cell, i) => {
      const button = this.box.children[i];
      const image = button.querySelector("img");
      const address = urls?.[i] ?? (cell.version ? cellPicture(job.id, i, cell.version) : "");
      image.hidden = !address;
      if (address && image.getAttribute("src") !== address) image.src = address;
      button.classList.toggle("coming", !cell.done);
      button.disabled = !address;
      const figures = [];
      if (cell.psnr !== undefined) figures.push(`${cell.psnr.toFixed(1)} dB`);
      if (cell.sharpness !== undefined) figures.push(`sharpness ${cell.sharpness.toFixed(3)}, noise ${cell.noise_level.toFixed(3)}`);
      button.querySelector(".measured").textContent = figures.join(", ");
    });
  }

  mark(n) {
    [...this.box.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === n)));
  }

  #button(cell, i) {
    const image = element("img", { alt: "", hidden: true });
    const texts = [element("small", { textContent: cell.title }), element("small", { className: "measured" })];
    const button = element("button", { type: "button", disabled: true, aria: { pressed: "false" } }, element("span", { className: "shown" }, image), ...texts);
    button.addEventListener("click", () => this.chosen(i));
    return button;
  }
}
