"""Writing bundles: a case is a folder with `case.toml` and `tensors.safetensors`, beside a folder with the weights."""

import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

import formula

LIBRARIES = ", ".join(f"{name} {version(name)}" for name in ("diffusers", "transformers", "torch")) + ", float32 CPU"


def case(
    folder: Path,
    kind: str,
    tensors: dict | None = None,
    weights: Path | None = None,
    tolerance: float = 1e-4,
    source: str = LIBRARIES,
    **more,
) -> None:
    """Writes one case. `more` are further keys of `case.toml`."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"kind": kind, "tolerance": tolerance, "source": source}
    if weights is not None:
        keys["weights"] = Path(os.path.relpath(weights, folder)).as_posix()
    # Strings and numbers have the same form in JSON and TOML.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in (keys | more).items()]
    (folder / "case.toml").write_text("".join(lines))
    if tensors is not None:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "tensors.safetensors")


def weights(
    folder: Path, config, stem: str, tensors: dict[str, torch.Tensor], seed: int | None = None, gain: float = 1.0
) -> Path:
    """Writes `config.json` and the weights; with a seed, their formula instead."""
    folder.mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config, indent=2)
    (folder / "config.json").write_text(text + "\n")
    if seed is None:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / f"{stem}.safetensors")
    else:
        formula.save(folder / f"{stem}.formula.json", {name: tensor.shape for name, tensor in tensors.items()}, seed, gain)
    return folder


def timed(function: Callable, runs: int = 2) -> tuple:
    """The result, and keys for `case.toml`: seconds on the clock and CPU seconds of all cores, each the best of `runs`, since
    the first run pays for fresh memory."""
    times = []
    for _ in range(runs):
        start = time.perf_counter(), time.process_time()
        result = function()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    seconds, cpu_seconds = (round(min(column), 3) for column in zip(*times, strict=True))
    return result, {"torch_seconds": seconds, "torch_cpu_seconds": cpu_seconds}


def new_seed(random: numpy.random.Generator) -> int:
    return int(random.integers(2**63))


def normal(random: numpy.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(random.standard_normal(shape, dtype=numpy.float32))


def picture(random: numpy.random.Generator, *shape: int) -> torch.Tensor:
    """Independent values in [-1, 1)."""
    return torch.from_numpy(random.uniform(-1, 1, shape).astype(numpy.float32))


def choice(random: numpy.random.Generator, *options):
    return options[random.integers(len(options))]


def whole(random: numpy.random.Generator, low: int, high: int) -> int:
    """An integer from `low` to `high`, both included."""
    return int(random.integers(low, high + 1))
