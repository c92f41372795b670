"""Compares the time of FID's features, and the distance, in the Rust program and in clean-fid.

Both read the same PNG files and use the same network with generated weights. See README.md.
"""

import argparse
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy
import skimage.data
import torch
from cleanfid.fid import frechet_distance, get_files_features
from cleanfid.inception_pytorch import fid_inception_v3
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "reference"))
import formula  # noqa: E402

SEED = 7
GAIN = math.sqrt(2)
EVALUATION = """
name = "fid"
output = "out"
weights = "weights"
metrics = ["fid"]
batch_size = {batch}
threads = {threads}
benchmarks = [{{ title = "bench", folder = "benchmark" }}]
methods = [{{ name = "Degraded", kind = "input" }}]
"""
RECIPE = """
name = "benchmark"
count = {count}
size = 512
source = {{ kind = "folder", path = "{photographs}", uncaptioned = true }}
degradation = {{ kind = "parameterized" }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spire", type=Path, required=True, help="the Rust program")
    parser.add_argument("--pictures", type=int, default=32, help="clean pictures; as many degraded ones are added")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    network = inception()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        benchmark(args, folder, network)
        ratios = []
        for _ in range(args.rounds):
            ours, distance = rust(args, folder)
            theirs, reference = python(args, folder, network)
            ratios.append([a / b for a, b in zip(theirs, ours)])
            print(
                f"spire {1e3 * ours[0]:.0f} ms ({1e3 * ours[1]:.0f} ms of CPU time), clean-fid {1e3 * theirs[0]:.0f} ms "
                f"({1e3 * theirs[1]:.0f} ms) a picture; FID {distance:.2f} and {reference:.2f}",
                flush=True,
            )
    clock, cpu = (sorted(column)[len(ratios) // 2] for column in zip(*ratios))
    print(f"clean-fid takes {clock:.2f} times as long by the clock, {cpu:.2f} times in CPU time (medians of {args.rounds})")


def inception() -> torch.nn.Module:
    with mock.patch("cleanfid.inception_pytorch.load_state_dict_from_url"), mock.patch("torch.nn.Module.load_state_dict"):
        network = fid_inception_v3().eval()
    network.fc, network.dropout = torch.nn.Identity(), torch.nn.Identity()
    formula.fill({n: t for n, t in network.state_dict().items() if t.is_floating_point()}, SEED, GAIN)
    return network


def benchmark(args: argparse.Namespace, folder: Path, network: torch.nn.Module) -> None:
    photographs = folder / "photographs"
    photographs.mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        picture = Image.fromarray(getattr(skimage.data, name)())
        enlarged = picture.resize([max(512, round(side * 512 / min(picture.size))) for side in picture.size])
        for i in range(math.ceil(args.pictures / 4)):
            enlarged.rotate(i, Image.Resampling.BICUBIC).save(photographs / f"{name}-{i}.png")
    (folder / "weights").mkdir()
    shapes = {n: tuple(t.shape) for n, t in network.state_dict().items() if t.is_floating_point()}
    formula.save(folder / "weights" / "pt_inception-2015-12-05-6726825d.formula.json", shapes, SEED, GAIN)
    (folder / "recipe.toml").write_text(RECIPE.format(count=args.pictures, photographs=photographs))
    (folder / "eval.toml").write_text(EVALUATION.format(batch=args.batch, threads=args.threads))
    subprocess.run([args.spire.resolve(), "benchmark", "make", "recipe.toml", "-o", "benchmark"], cwd=folder, check=True)


def rust(args: argparse.Namespace, folder: Path) -> tuple[tuple[float, float], float]:
    """Wall and CPU seconds per picture, from files to features; and the distance.

    A second run finds all features and does the rest: starting, loading the network, checksums and the distance.
    """
    subprocess.run(["rm", "-rf", folder / "out"], check=True)
    runs = []
    for _ in range(2):
        before, start = children(), time.perf_counter()
        said = subprocess.run(
            [args.spire.resolve(), "eval", "eval.toml"], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
        runs.append((time.perf_counter() - start, children() - before))
    distance = float(re.search(r"\| Degraded \| ([0-9.]+)", said)[1])
    return tuple((first - second) / (2 * args.pictures) for first, second in zip(*runs)), distance


def python(args: argparse.Namespace, folder: Path, network: torch.nn.Module) -> tuple[tuple[float, float], float]:
    """The same for clean-fid, in a process that has loaded the network."""
    before, start = children() + own(), time.perf_counter()
    features = [
        get_files_features(
            sorted(map(str, (folder / "benchmark" / which).iterdir())),
            lambda batch: network((batch - 128) / 128),
            num_workers=args.threads,
            batch_size=args.batch,
            device=torch.device("cpu"),
            verbose=False,
        )
        for which in ("clean", "degraded")
    ]
    clock, cpu = time.perf_counter() - start, children() + own() - before
    statistics = [(rows.mean(0), numpy.cov(rows.astype(float), rowvar=False)) for rows in features]
    pictures = 2 * args.pictures
    return (clock / pictures, cpu / pictures), frechet_distance(*statistics[0], *statistics[1])


def children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def own() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
