// Two pictures on top of each other, with a slider between them, and zoom by whole factors.

import { $, element } from "./api.js";

export class Compare {
  // `changed` is called when another picture is chosen.
  constructor(changed) {
    this.views = [];
    this.changed = changed;
    this.zoom = "fit";
    this.stage = $("stage");
    for (const side of ["left", "right"]) $(side).addEventListener("change", () => this.#show());
    for (const [id, by] of [["zoom-in", 1], ["zoom-out", -1]]) $(id).addEventListener("click", () => this.#step(by));
    $("zoom-fit").addEventListener("click", () => this.#scale("fit"));
    $("under").addEventListener("load", () => this.#scale(this.zoom));
    new ResizeObserver(() => this.#scale(this.zoom)).observe($("frame"));
    this.#listenForDrags();
    $("frame").addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.#step(event.deltaY < 0 ? 1 : -1);
    }, { passive: false });
  }

  // The pictures to choose from: [{ key, label, url }]. Keeps the choice where it still exists.
  set choices(views) {
    this.views = views;
    for (const side of ["left", "right"]) {
      const before = $(side).value;
      $(side).replaceChildren(...views.map(({ key, label }) => element("option", { value: key, textContent: label })));
      const kept = views.some(({ key }) => key === before);
      $(side).value = kept ? before : (side === "left" ? views[0]?.key : views.at(-1)?.key) ?? "";
    }
    this.#show();
  }

  // Chooses pictures by their keys.
  choose(left, right) {
    if (left) $("left").value = left;
    if (right) $("right").value = right;
    this.#show();
  }

  get right() {
    return this.views.find(({ key }) => key === $("right").value);
  }

  #show() {
    const view = (side) => this.views.find(({ key }) => key === $(side).value);
    const [left, right] = [view("left"), view("right")];
    this.stage.hidden = !right;
    $("views").hidden = !right;
    $("empty").hidden = Boolean(right);
    if (!right) return;
    for (const [id, shown] of [["over", left ?? right], ["under", right]]) {
      if ($(id).getAttribute("src") !== shown.url) $(id).src = shown.url;
      $(id).alt = shown.label;
    }
    this.changed?.();
  }

  // The largest factor that fits: whole, or a fraction for pictures that are larger than the frame.
  #fitting() {
    const { naturalWidth, naturalHeight } = $("under");
    const most = Math.min($("frame").clientWidth / naturalWidth, Math.min(innerHeight * 0.68, 900) / naturalHeight);
    return most >= 1 ? Math.min(Math.floor(most), 12) : most;
  }

  #scale(zoom) {
    const { naturalWidth, naturalHeight } = $("under");
    if (!naturalWidth) return;
    this.zoom = zoom;
    const factor = zoom === "fit" ? this.#fitting() : zoom;
    // Pixels of the screen, so that a picture's pixel is always a whole number of them.
    const ratio = factor < 1 ? factor : Math.max(1, Math.round(factor * devicePixelRatio)) / devicePixelRatio;
    this.stage.style.width = `${naturalWidth * ratio}px`;
    this.stage.style.height = `${naturalHeight * ratio}px`;
    this.stage.classList.toggle("whole", factor >= 1);
    $("zoom").textContent = factor >= 1 ? `${factor}×` : `${Math.round(factor * 100)} %`;
  }

  #step(by) {
    const now = this.zoom === "fit" ? this.#fitting() : this.zoom;
    const next = by > 0 ? Math.floor(now) + 1 : Math.ceil(now) - 1;
    this.#scale(Math.min(Math.max(next, 1), 32));
  }

  #cut(percent) {
    const cut = Math.min(Math.max(percent, 0), 100);
    this.stage.style.setProperty("--cut", `${cut}%`);
    $("cut").setAttribute("aria-valuenow", Math.round(cut));
    $("cut").setAttribute("aria-valuetext", `${Math.round(cut)} percent`);
    this.at = cut;
  }

  #listenForDrags() {
    this.at = 50;
    const place = (event) => {
      const { left, width } = this.stage.getBoundingClientRect();
      this.#cut(((event.clientX - left) / width) * 100);
    };
    this.stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.stage.setPointerCapture(event.pointerId);
      place(event);
      $("cut").focus({ preventScroll: true });
      event.preventDefault();
    });
    this.stage.addEventListener("pointermove", (event) => {
      if (this.stage.hasPointerCapture(event.pointerId)) place(event);
    });
    $("cut").addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: this.at - 2, ArrowDown: this.at - 2, ArrowRight: this.at + 2, ArrowUp: this.at + 2, Home: 0, End: 100, PageUp: this.at + 10, PageDown: this.at - 10 };
      if (event.key === "+" || event.key === "=") this.#step(1);
      else if (event.key === "-") this.#step(-1);
      else if (event.key in moves) this.#cut(moves[event.key]);
      else return;
      event.preventDefault();
    });
  }
}
