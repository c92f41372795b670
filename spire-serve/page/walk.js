// Walks: which strengths or prompts, and the grid of the pictures of a job.

import { $, cellPicture, element } from "./api.js";

const FIELDS = ["walk-deblur", "walk-denoise", "walk-rows", "walk-columns", "semantics"];

export function startWalks(changed) {
  const show = () => {
    $("walk-deblur-value").textContent = `σ ${$("walk-deblur").value}`;
    $("walk-denoise-value").textContent = `σ ${$("walk-denoise").value}`;
  };
  for (const id of FIELDS) $(id).addEventListener("input", () => { show(); changed(); });
  show();
}

export const walkForm = () => Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));

export function setWalkForm(values) {
  for (const id of FIELDS) if (values[id] !== undefined) $(id).value = values[id];
  $("walk-deblur").dispatchEvent(new Event("input"));
}

// `count` strengths from 0 to `most`, rounded as prompts are.
const strengths = (most, count, decimals) =>
  Array.from({ length: count }, (_, i) => Number(((most * i) / Math.max(count - 1, 1)).toFixed(decimals)));

// The part of an order that makes it a walk of this mode.
export function walkFields(mode) {
  if (mode === "strengths") {
    const number = (id) => $(id).valueAsNumber;
    return { deblur: strengths(number("walk-deblur"), number("walk-rows"), 1), denoise: strengths(number("walk-denoise"), number("walk-columns"), 2) };
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
