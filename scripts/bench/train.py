"""Compares the time of a training step, and its loss, in the Rust program and in PyTorch with diffusers.

Both compute forward and backward pass, clipping, AdamW and the moving average from the same noisy latents, texts, pictures
and weights. PyTorch uses SDPA and fused AdamW; in bf16, autocast over float32 weights. A round counts only if the loss of
every step agrees with the Rust program's. See README.md.
"""

import copy
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import twin
from twin import spire_diffusers

# Both sides of a few steps in float32; bfloat16 rounds differently in either.
TOLERANCE = {"f32": 1e-4, "bf16": 2e-2}
NAMES = ["noisy", "timesteps", "semantic", "restoration", "degraded", "target"]


class Training:
    def __init__(self, bench: twin.Bench):
        self.bench = bench
        self.ready = False

    def prepare(self, config: dict) -> None:
        """Loads the models, and the batches that the first round of the Rust program wrote."""
        bench = self.bench
        self.settings = config["train"]
        if self.settings.get("min_snr_gamma"):
            raise SystemExit("train.min_snr_gamma is not here")
        self.unet = bench.unet(Path(config["model"]["base"]))
        self.control = bench.control().train()
        self.average = [parameter.detach().clone() for parameter in self.control.parameters()]
        self.start = copy.deepcopy(self.control.state_dict())
        inputs = bench.inputs()
        batches = [[inputs[f"{i}.{name}"] for name in NAMES] for i in range(self.settings["accumulate"])]
        if bench.args.together:
            batches = [[torch.cat(tensors) for tensors in zip(*batches)]]
        self.batches = batches
        self.loss = bench.compiled(self.loss)
        self.ready = True

    def loss(self, noisy: Tensor, times: Tensor, semantic: Tensor, restoration: Tensor, degraded: Tensor, target: Tensor):
        autocast = self.bench.args.precision != "f32"
        with torch.autocast(self.bench.device.type, self.bench.dtype, enabled=autocast):
            picture = spire_diffusers.condition(self.control, degraded)
            predicted = spire_diffusers.predict(self.unet, self.control, noisy, times, semantic, restoration, picture)
        return (predicted.float() - target).square().mean()

    def step(self, optimizer: torch.optim.Optimizer, number: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in self.batches:
            loss = self.loss(*batch) / len(self.batches)
            loss.backward()
            total += loss.item()
        parameters = list(self.control.parameters())
        nn.utils.clip_grad_norm_(parameters, self.settings["max_grad_norm"])
        optimizer.step()
        decay = min(self.settings["ema_decay"], (1 + number) / (10 + number))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, parameters, 1 - decay)
        self.bench.wait()
        return total

    def __call__(self, measurement: dict) -> list[float]:
        """Seconds of the measured steps."""
        if not self.ready:
            self.prepare(measurement["config"])
        self.control.load_state_dict(self.start)
        decay = self.settings["weight_decay"]
        optimizer = torch.optim.AdamW(self.control.parameters(), lr=0.0, weight_decay=decay, fused=True)
        seconds = []
        for number, expected in enumerate(measurement["trained"]):
            optimizer.param_groups[0]["lr"] = expected["learning_rate"]
            start = time.perf_counter()
            loss = self.step(optimizer, number)
            seconds.append(time.perf_counter() - start)
            error = abs(loss - expected["loss"]) / expected["loss"]
            if error > TOLERANCE[self.bench.args.precision]:
                raise SystemExit(f"step {number}: the loss is {loss} here and {expected['loss']} there")
        print(f"the loss of the last step is {loss:.7f} here and {expected['loss']:.7f} there")
        return seconds[self.bench.args.warmup :]


def main() -> None:
    parser = twin.parser(__doc__)
    parser.add_argument("--together", action="store_true", help="PyTorch takes the batches of a step as one")
    twin.run("train", parser.parse_args(), Training)


if __name__ == "__main__":
    main()
