"""Compares the time of restoration, and its pictures, in the Rust program and in PyTorch with diffusers.

Both start from the same noise, texts and degraded pictures. They take DDIM steps with guidance on the semantic prompt: the
conditional and unconditional pass in one batch, the branch once for both. Then they decode. Texts are encoded
beforehand. See README.md.
"""

import inspect
import json
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor

import twin
from twin import spire_diffusers

# Mean difference of pictures in [0, 1].
TOLERANCE = {"f32": 1e-4, "bf16": 5e-2}


class Restoration:
    def __init__(self, bench: twin.Bench):
        self.bench = bench
        self.ready = False

    def prepare(self, config: dict) -> None:
        bench, base = self.bench, Path(config["model"]["base"])
        self.sampling = config["evaluate"]["sampling"]
        fixed = {"sampler": "ddim", "strength": 1.0, "start": "noise", "colour_fix": "none", "quality_prompts": "none", "positive": ""}
        fixed |= {"control_scale": 1.0, "control_start": 0.0, "control_end": 1.0}
        if any(self.sampling[key] != value for key, value in fixed.items()) or "clip_guidance" in self.sampling:
            raise SystemExit(f"evaluate.sampling must have {fixed} and no clip_guidance: others are not here")
        self.guided = self.sampling["guidance_scale"] != 1.0
        self.unet = bench.unet(base)
        self.control = bench.control().to(bench.dtype).eval()
        self.vae = bench.move(vae(base / "vae").to(bench.dtype).eval())
        self.scheduler = scheduler(base / "scheduler")
        self.inputs = bench.inputs()
        if not isinstance(self.control, spire_diffusers.SpireControl) or self.control.settings.get("prompts", "decoupled") != "decoupled":
            raise SystemExit("the branch must modulate, and its prompts be decoupled: others are not here")
        self.predict = bench.compiled(spire_diffusers.predict_embedded)
        self.ready = True

    @torch.no_grad()
    def restore(self) -> Tensor:
        dtype, inputs = self.bench.dtype, self.inputs
        embedded = self.control.embed(spire_diffusers.condition(self.control, inputs["degraded"]).to(dtype))
        restoration = inputs["restoration"].to(dtype)
        semantic = [inputs["negative"], inputs["semantic"]] if self.guided else [inputs["semantic"]]
        semantic = torch.cat(semantic).to(dtype)
        latent = inputs["noise"]
        self.scheduler.set_timesteps(self.sampling["steps"], device=self.bench.device)
        for timestep in self.scheduler.timesteps:
            noisy = latent.to(dtype)
            output = self.predict(self.unet, self.control, noisy, timestep, semantic, restoration, embedded).float()
            if self.guided:
                without, told = output.chunk(2)
                output = without + self.sampling["guidance_scale"] * (told - without)
            latent = self.scheduler.step(output, timestep, latent).prev_sample
        latent = (latent / self.vae.config.scaling_factor).to(dtype)
        pictures = self.vae.decode(latent).sample.float().clamp(-1, 1)
        self.bench.wait()
        return pictures

    def __call__(self, measurement: dict) -> list[float]:
        """Seconds of the measured restorations."""
        if not self.ready:
            self.prepare(measurement["config"])
        seconds = []
        for _ in range(self.bench.args.warmup + self.bench.args.steps):
            start = time.perf_counter()
            pictures = self.restore()
            seconds.append(time.perf_counter() - start)
        error = (pictures - self.inputs["restored"]).abs().mean().item() / 2
        print(f"the pictures differ by {255 * error:.4f} of 255 on average")
        if error > TOLERANCE[self.bench.args.precision]:
            raise SystemExit("that is too much to be the same restoration")
        return seconds[self.bench.args.warmup :]


def vae(folder: Path) -> AutoencoderKL:
    """As the Rust program does, without block types: all blocks have the same type."""
    levels = len(AutoencoderKL.load_config(folder)["block_out_channels"])
    types = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    return twin.part(AutoencoderKL, folder, **types)


def scheduler(folder: Path) -> DDIMScheduler:
    """DDIM with the folder's settings; missing or null settings have DDIM's defaults."""
    known = inspect.signature(DDIMScheduler.__init__).parameters
    config = json.loads((folder / "scheduler_config.json").read_text())
    return DDIMScheduler(**{key: value for key, value in config.items() if key in known and value is not None})


if __name__ == "__main__":
    args = twin.parser(__doc__).parse_args()
    args.changes.insert(0, "evaluate.sampling.start=noise")  # another start is not here
    twin.run("restore", args, Restoration)
