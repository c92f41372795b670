// The picture to restore: chosen, dropped, pasted, a sample, or a new scene of the illustrated world.

import { $, element, scene as describe, scenePath, scenePicture } from "./api.js";

// Samples: scenes of the illustrated world that no training has seen, and how they are degraded.
const SAMPLES = [
  { scene: 12, query: { prompt: "Deblur with sigma 2.0" } },
  { scene: 3, query: { prompt: "Denoise with sigma 0.15" } },
  { scene: 8, query: { prompt: "Upsample to 4.0x" } },
  { scene: 21, query: { prompt: "Dejpeg with quality 20" } },
  { scene: 30, query: { prompt: "Deblur with sigma 1.5; Denoise with sigma 0.08; Dejpeg with quality 40" } },
  { scene: 40, query: { pipeline: "real_esrgan", seed: 3 } },
];

// `current`: { name, degraded, truth, caption, scene, query }; blobs, `truth` null if it is unknown. A picture with `scene`
// can be made again from a link.
export class Pictures {
  constructor({ model, changed, failed }) {
    Object.assign(this, { model, changed, failed, current: null });
    const input = $("file");
    input.addEventListener("change", () => this.#open(input.files[0]));
    document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
      if (file) this.#open(file);
    });
    this.#listenForDrops();
    $("new-scene").addEventListener("click", () => {
      const scene = Math.floor(Math.random() * 2 ** 31);
      this.open(scene, { pipeline: "drawn", seed: scene });
    });
  }

  // Shows the samples.
  start() {
    const buttons = SAMPLES.map((sample, i) => {
      const name = sample.query.prompt ?? "Real-ESRGAN";
      const image = element("img", { src: scenePath(sample.scene, sample.query), alt: "", width: 64, height: 64 });
      const button = element("button", { type: "button", title: name, aria: { label: `Sample ${i + 1}: ${name}`, pressed: "false" } }, image);
      button.addEventListener("click", () => this.openSample(i));
      return button;
    });
    $("samples").replaceChildren(...buttons);
  }

  openSample(i) {
    return this.open(SAMPLES[i].scene, SAMPLES[i].query);
  }

  // Opens a scene, degraded as the query says.
  async open(scene, query) {
    try {
      const model = this.model();
      const [described, made, truth] = await Promise.all([
        describe(scene, model), scenePicture(scene, { ...query, model }), scenePicture(scene, { model }),
      ]);
      // The prompt that names what was done; Real-ESRGAN's steps can't be named.
      const prompt = made.steps || made.prompt;
      this.set({ name: `scene-${scene}`, degraded: made.blob, truth: truth.blob, caption: described.caption, scene, query, prompt });
    } catch (error) {
      this.failed(error);
    }
  }

  async #open(file) {
    if (!file) return;
    const name = file.name.replace(/\.[^.]*$/, "") || "picture";
    this.set({ name, degraded: file, truth: null });
    $("file").value = "";
  }

  set(picture) {
    this.current = picture;
    const { name, scene, caption, query } = picture;
    $("picture-name").textContent = scene === undefined ? name : `A scene: ${caption}.`;
    SAMPLES.forEach((sample, i) => {
      const pressed = sample.scene === scene && JSON.stringify(sample.query) === JSON.stringify(query);
      $("samples").children[i]?.setAttribute("aria-pressed", String(pressed));
    });
    this.changed(picture);
  }

  #listenForDrops() {
    const drop = $("drop");
    const holds = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      drop.classList.add("over");
    });
    for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      this.#open(event.dataTransfer.files[0]);
    });
  }
}
