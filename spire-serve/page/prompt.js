// Four tasks with switch and slider, and the prompt that they write. The server writes and reads prompts: there is one
// implementation, the one that training uses.

import { element, prompt as ask } from "./api.js";

// The kinds of degradation: words, and the range of the slider.
export const KINDS = {
  blur: { verb: "Deblur", what: "sigma in pixels", min: 0.1, max: 8, step: 0.1, start: 2, shown: (n) => `σ ${n.toFixed(1)}` },
  downsample: { verb: "Upsample", what: "factor", min: 1, max: 12, step: 0.1, start: 4, shown: (n) => `${n.toFixed(1)}×` },
  noise: { verb: "Denoise", what: "sigma, 1 being white", min: 0.01, max: 0.5, step: 0.01, start: 0.1, shown: (n) => `σ ${n.toFixed(2)}` },
  jpeg: { verb: "Dejpeg", what: "JPEG quality", min: 1, max: 100, step: 1, start: 40, shown: (n) => `q ${n.toFixed(0)}` },
};

// Switches and sliders in `box`. `numbers`: every task must have its number. `changed` is called after a change by hand.
export class Sliders {
  constructor(box, { numbers, verbs, changed }) {
    this.rows = Object.entries(KINDS).map(([kind, words]) => {
      const name = verbs?.[kind] ?? words.verb;
      const on = element("input", { type: "checkbox" });
      const range = element("input", { type: "range", min: words.min, max: words.max, step: words.step, value: words.start, aria: { label: `${name}: ${words.what}` } });
      const amount = numbers
        ? element("output", { className: "amount" })
        : element("button", { className: "amount", type: "button", title: "With the number, or without" });
      const line = element("div", { className: "slider", data: { kind } }, element("label", { className: "switch" }, on, name), range, amount);
      box.append(line);
      const row = { kind, words, on, range, amount, line, numbered: true, trained: undefined };
      on.addEventListener("change", () => this.#byHand(changed));
      range.addEventListener("input", () => {
        on.checked = true;
        row.numbered = true;
        this.#byHand(changed);
      });
      if (!numbers) {
        amount.addEventListener("click", () => {
          row.numbered = !(on.checked && row.numbered);
          on.checked = true;
          this.#byHand(changed);
        });
      }
      return row;
    });
    this.#show();
  }

  #byHand(changed) {
    this.#show();
    changed?.();
  }

  // What the switches and sliders say.
  get fragments() {
    return this.rows.filter(({ on }) => on.checked).map(({ kind, range, numbered }) => ({ kind, number: numbered ? range.valueAsNumber : null }));
  }

  // Moves switches and sliders. A number outside the slider moves it to its end.
  set fragments(fragments) {
    for (const row of this.rows) {
      const fragment = fragments.findLast(({ kind }) => kind === row.kind);
      row.on.checked = Boolean(fragment);
      if (fragment) row.numbered = fragment.number !== null;
      if (fragment?.number != null) row.range.value = fragment.number;
    }
    this.#show();
  }

  // Marks the trained ranges on the sliders.
  set trained(trained) {
    for (const row of this.rows) {
      row.trained = trained.find(({ kind }) => kind === row.kind)?.range ?? null;
      const place = (value) => `${Math.min(Math.max((value - row.words.min) / (row.words.max - row.words.min), 0), 1) * 100}%`;
      const [low, high] = row.trained ?? [row.words.min, row.words.min];
      row.range.style.setProperty("--low", place(low));
      row.range.style.setProperty("--high", place(high));
      row.range.title = row.trained ? `Trained from ${low} to ${high}` : "Not trained";
    }
    this.#show();
  }

  #show() {
    for (const { words, on, range, amount, line, numbered, trained } of this.rows) {
      const value = range.valueAsNumber;
      const text = numbered ? words.shown(value) : "any";
      amount.textContent = text;
      range.setAttribute("aria-valuetext", text);
      if (amount.tagName === "BUTTON") {
        amount.setAttribute("aria-pressed", String(numbered));
        amount.setAttribute("aria-label", `${words.verb} with its number: ${text}`);
      }
      const outside = trained && (value < trained[0] - 1e-6 || value > trained[1] + 1e-6);
      line.classList.toggle("off", !on.checked);
      line.classList.toggle("outside", on.checked && trained !== undefined && (trained === null || (numbered && outside)));
    }
  }
}

// The sliders and the text of the restoration prompt, each following the other.
export class RestorationPrompt {
  constructor({ sliders, text, problem, untrained, model, changed }) {
    Object.assign(this, { text, problem, untrained, model, changed });
    this.sliders = new Sliders(sliders, { numbers: false, changed: () => this.#write() });
    text.addEventListener("input", () => this.#read());
  }

  get value() {
    return this.text.value;
  }

  // Sets the text as if it had been typed.
  set value(text) {
    this.text.value = text;
    this.#read();
  }

  // "Remove all degradation".
  removeAll() {
    this.sliders.fragments = [];
    return this.#write();
  }

  // Sliders have moved: the server writes the text.
  async #write() {
    const answer = await this.#ask({ fragments: this.sliders.fragments });
    if (answer) this.text.value = answer.prompt;
  }

  // The text has changed: the server reads it, and the sliders follow.
  async #read() {
    const answer = await this.#ask({ prompt: this.text.value });
    if (answer) this.sliders.fragments = answer.fragments;
  }

  // Asks the server; the answer to the latest question counts. `undefined` if it is not this one, or a problem.
  async #ask(question) {
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    this.changed();
    try {
      const answer = await ask({ ...question, model: this.model() }, asking.signal);
      if (asking !== this.asking) return undefined;
      this.#tell("", answer.untrained);
      return answer;
    } catch (error) {
      if (error.name !== "AbortError") this.#tell(error.message, []);
      return undefined;
    } finally {
      if (asking === this.asking) this.changed();
    }
  }

  #tell(problem, untrained) {
    this.problem.hidden = !problem;
    this.problem.textContent = problem;
    this.text.setAttribute("aria-invalid", String(Boolean(problem)));
    this.untrained.replaceChildren(...untrained.map((sentence) => element("li", { textContent: sentence })));
  }
}
