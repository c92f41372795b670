"""Generates weights by a formula, so that a model of full size takes a few kilobytes and is equal on every machine.

Element i of a tensor is the i-th number of a SplitMix64 stream that starts from the tensor's name and the seed.
`spire-model/src/weights/formula.rs` computes the same bits.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy
import torch

GOLDEN = numpy.uint64(0x9E3779B97F4A7C15)
MIX_1 = numpy.uint64(0xBF58476D1CE4E5B9)
MIX_2 = numpy.uint64(0x94D049BB133111EB)
CHUNK = 1 << 20


def fnv1a(text: str) -> int:
    """FNV-1a, 64 bits, over UTF-8."""
    state = 0xCBF29CE484222325
    for byte in text.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def uniform(state: int, start: int, stop: int) -> numpy.ndarray:
    """The numbers `start` to `stop` of the stream, in [-1, 1) with 24 bits."""
    z = numpy.arange(start + 1, stop + 1, dtype=numpy.uint64) * GOLDEN + numpy.uint64(state)
    z = (z ^ (z >> numpy.uint64(30))) * MIX_1
    z = (z ^ (z >> numpy.uint64(27))) * MIX_2
    z ^= z >> numpy.uint64(31)
    return (z >> numpy.uint64(40)) * 2.0**-23 - 1.0


def values(name: str, shape: tuple[int, ...], seed: int, gain: float = 1.0) -> torch.Tensor:
    """The tensor called `name`: matrices and kernels of the gain, scales and variances about 1, biases about 0, single
    numbers about ln 100."""
    state = fnv1a(name) ^ seed
    flat = numpy.empty(math.prod(shape), numpy.float32)
    for start in range(0, len(flat), CHUNK):
        stop = min(start + CHUNK, len(flat))
        u = uniform(state, start, stop)
        if len(shape) >= 2:
            u *= gain * math.sqrt(3 / math.prod(shape[1:]))
        elif name.endswith((".weight", ".running_var")):
            u = 1 + 0.1 * u
        elif not shape:
            # CLIP's temperature: the logarithm of 100, where training keeps it.
            u = math.log(100) + 0.1 * u
        else:
            u *= 0.02
        flat[start:stop] = u
    return torch.from_numpy(flat).reshape(shape)


def unfilled(model: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A network whose weights are filled later: without the slow initialisation, so it must have no buffers that it needs."""
    with torch.device("meta"):
        built = model()
    return built.to_empty(device="cpu").eval()


def fill(tensors: dict[str, torch.Tensor], seed: int, gain: float = 1.0) -> None:
    """Overwrites the tensors of a state dict in place."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values(name, tuple(tensor.shape), seed, gain))


def save(path: Path, shapes: dict[str, tuple[int, ...]], seed: int, gain: float = 1.0) -> None:
    """Writes the file that replaces the weights of a folder."""
    tensors = {name: list(shape) for name, shape in sorted(shapes.items())}
    formula = {"formula": "splitmix64", "seed": seed, "gain": gain, "tensors": tensors}
    path.write_text(json.dumps(formula, separators=(",", ":")))
