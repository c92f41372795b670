// Degrading a clean picture: Algorithm 1 with chosen or drawn strengths, or Real-ESRGAN.

import { $, degrade, prompt as ask, scenePicture } from "./api.js";
import { Sliders } from "./prompt.js";

const VERBS = { blur: "Blur", downsample: "Downsample", noise: "Noise", jpeg: "JPEG" };

// `pictures` are the page's pictures; `use` takes a restoration prompt.
export class Degrading {
  constructor({ pictures, model, use, failed }) {
    Object.assign(this, { pictures, model, failed });
    this.sliders = new Sliders($("degrade-sliders"), { numbers: true, verbs: VERBS });
    this.sliders.fragments = [{ kind: "blur", number: 2 }];
    const pipeline = $("pipeline");
    pipeline.addEventListener("change", () => ($("degrade-sliders").hidden = pipeline.value !== "chosen"));
    $("degrade-dice").addEventListener("click", () => {
      $("degrade-seed").value = Math.floor(Math.random() * 2 ** 31);
      this.#degrade();
    });
    $("degrade-do").addEventListener("click", () => this.#degrade());
    $("use-paired").addEventListener("click", () => use($("paired").querySelector("span").textContent));
  }

  async #degrade() {
    const { current } = this.pictures;
    try {
      if (!current) throw new Error("Choose a picture first.");
      const query = { pipeline: $("pipeline").value, seed: $("degrade-seed").valueAsNumber || 0 };
      const model = this.model();
      if (query.pipeline === "chosen") {
        const { fragments } = this.sliders;
        if (fragments.length) query.prompt = (await ask({ fragments })).prompt;
      }
      // A picture that was chosen is clean until it is degraded here.
      const clean = current.truth ?? current.degraded;
      const made = current.scene === undefined
        ? await degrade(clean, { ...query, model })
        : await scenePicture(current.scene, { ...query, model });
      this.pictures.set({ ...current, degraded: made.blob, truth: clean, query, prompt: undefined });
      $("paired").hidden = false;
      $("paired").querySelector("span").textContent = made.prompt;
    } catch (error) {
      this.failed(error);
    }
  }
}
