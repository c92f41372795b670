// The results of this visit, as thumbnails that bring their settings back.

import { $, element } from "./api.js";

// Older results are forgotten: their pictures take memory.
const MOST = 40;

export class History {
  // `chosen` is called with an entry.
  constructor(chosen) {
    this.entries = [];
    this.count = 0;
    this.chosen = chosen;
  }

  // `entry`: { snapshot, job, urls }.
  add(entry) {
    entry.number = ++this.count;
    this.entries.unshift(entry);
    for (const { urls } of this.entries.splice(MOST)) urls.forEach((url) => URL.revokeObjectURL(url));
    this.current = entry;
    this.show();
  }

  show() {
    $("history-section").hidden = !this.entries.length;
    $("history").replaceChildren(...this.entries.map((entry) => this.#button(entry)));
  }

  #button(entry) {
    const { number, snapshot, urls } = entry;
    const said = snapshot.form.semantic || "no semantic prompt";
    const texts = [`${number}: ${said}`, snapshot.form.restoration];
    const button = element(
      "button", { type: "button", title: texts.join("\n"), aria: { label: `Result ${texts.join(", ")}` } },
      element("span", { className: "shown" }, element("img", { src: urls.at(-1), alt: "" })),
      ...texts.map((textContent) => element("small", { textContent })),
    );
    if (entry === this.current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      this.current = entry;
      this.show();
      this.chosen(entry);
    });
    return button;
  }
}
