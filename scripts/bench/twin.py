"""Shared by `train.py` and `restore.py`: the Rust program's measurements, and the same model in PyTorch with diffusers."""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "reference"))
import formula  # noqa: E402
import spire_diffusers  # noqa: E402

# It warns of every conversion to bfloat16.
logging.set_verbosity_error()

STEM = "diffusion_pytorch_model"
PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16}


def parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration of a run")
    parser.add_argument("--spire", type=Path, required=True, help="the Rust program")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=3, help="each measures the Rust program, then PyTorch")
    parser.add_argument("--steps", type=int, default=10, help="steps of each side per round")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the measured ones")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32", help="float type of the frozen model and the branch")
    parser.add_argument("--device", default="flex", help="flex (the CPU), cuda:0, …")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch on a CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--channels-last", action="store_true")
    return parser


class Bench:
    """Both sides of a comparison: one round after the other, the Rust program first."""

    def __init__(self, what: str, args: argparse.Namespace, folder: Path):
        self.what, self.args, self.folder = what, args, folder
        self.dump = folder / "dump"
        self.device = torch.device("cpu" if args.device == "flex" else args.device)
        self.dtype = PRECISIONS[args.precision]
        torch.set_num_threads(args.threads)

    def spire(self, dump: bool = False) -> dict:
        """A measurement of the Rust program; the first one also writes its inputs."""
        file = self.folder / "measurement.json"
        args = self.args
        changes = [
            f"run.device={args.device}",
            f"model.precision={args.precision}",
            f"model.control_precision={args.precision}",
            *args.changes,
        ]
        command = [args.spire.resolve(), "bench", self.what, args.config, "--json", file]
        command += ["--steps", str(args.steps), "--warmup", str(args.warmup)]
        command += [word for change in changes for word in ("--set", change)]
        if dump:
            command += ["--dump", self.dump]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(file.read_text())

    def inputs(self) -> dict[str, Tensor]:
        return {name: self.move(tensor) for name, tensor in load_file(self.dump / "inputs.safetensors").items()}

    def unet(self, base: Path) -> UNet2DConditionModel:
        unet = part(UNet2DConditionModel, base / "unet").requires_grad_(False).eval()
        return self.move(unet.to(self.dtype))

    def control(self) -> nn.Module:
        """The branch in float32."""
        return self.move(spire_diffusers.load_branch(self.dump / "control"))

    def move(self, what):
        """A tensor or a module on the requested device, in the requested layout."""
        last = self.args.channels_last and (isinstance(what, nn.Module) or what.dim() == 4)
        layout = {"memory_format": torch.channels_last} if last else {}
        return what.to(self.device, **layout)

    def compiled(self, function):
        return torch.compile(function) if self.args.compile else function

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self) -> int:
        """Peak bytes of the device, or of this process with all imports."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])

    def compare(self, twin) -> None:
        """Runs the rounds and prints their figures and the ratio; `twin(measurement)` returns the seconds of PyTorch's steps."""
        rust, torch_seconds, ratios = [], [], []
        for i in range(self.args.rounds):
            measurement = self.spire(dump=i == 0)
            seconds = twin(measurement)
            gc.collect()
            rust += measurement["seconds"]
            torch_seconds += seconds
            ratios.append(statistics.median(seconds) / statistics.median(measurement["seconds"]))
            print(
                f"round {i + 1}: spire {statistics.median(measurement['seconds']):.4f} s, PyTorch "
                f"{statistics.median(seconds):.4f} s: {ratios[-1]:.2f} times as long",
                flush=True,
            )
        images, flops = measurement["images"], measurement["flops"]
        for name, seconds, memory in [
            ("spire", rust, measurement["memory"]["bytes"]),
            ("PyTorch", torch_seconds, self.peak()),
        ]:
            below, median, above = quartiles(seconds)
            print(
                f"{name:8} {median:.4f} s (quartiles {below:.4f} and {above:.4f}), {images / median:.2f} images/s, "
                f"{flops / median / 1e9:.1f} GFLOP/s, {memory / 1e6:.0f} MB at most"
            )
        peak = measurement["peak"]
        print(f"A product of matrices reached {peak['flops_per_second'] / 1e9:.1f} GFLOP/s in {peak['precision']}.")
        print(f"PyTorch takes {statistics.median(ratios):.2f} times as long (median of {len(ratios)} rounds).")


def run(what: str, args: argparse.Namespace, prepare) -> None:
    """`prepare(bench)` returns the argument of [`Bench.compare`]."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(what, args, Path(folder))
        bench.compare(prepare(bench))


def quartiles(seconds: list[float]) -> tuple[float, float, float]:
    if len(seconds) == 1:
        return (seconds[0],) * 3
    return tuple(statistics.quantiles(seconds, n=4, method="inclusive"))


def part(kind: type, folder: Path, **settings) -> nn.Module:
    """A diffusers model in float32 from a folder with weights or with their formula; `settings` are
    added to its configuration."""
    described = folder / f"{STEM}.formula.json"
    if not described.exists():
        return kind.from_pretrained(folder, torch_dtype=torch.float32, **settings)
    model = kind.from_config(kind.load_config(folder), **settings)
    description = json.loads(described.read_text())
    formula.fill(model.state_dict(), description["seed"], description.get("gain", 1.0))
    return model
