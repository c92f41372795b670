"""Compares speed and distribution of the Real-ESRGAN degradation in the Rust program and in BasicSR.

Both use the same photographs, one thread and one core, in turn. See README.md.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy
import skimage.data
from PIL import Image, ImageOps
from scipy.stats import ks_2samp
from torch import Tensor

import basicsr

SIZE = 512
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spire", type=Path, help="the Rust program; without it, only BasicSR is measured")
    parser.add_argument("--pictures", type=Path, help="a folder of photographs; default: those of scikit-image")
    parser.add_argument("--samples", type=int, default=200, help="pictures per round of the timing; 0: no timing")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timing")
    parser.add_argument("--distribution", type=int, default=2000, help="pictures whose PSNR is compared; 0: none")
    parser.add_argument("--core", type=int, help="CPU core; default: the last")
    args = parser.parse_args()
    if args.spire and not args.spire.is_file():
        parser.error(f"--spire {args.spire}: no such file")

    # Inherited by the Rust program.
    core = max(os.sched_getaffinity(0)) if args.core is None else args.core
    os.sched_setaffinity(0, {core})
    basicsr.one_thread()
    with tempfile.TemporaryDirectory() as folder:
        photographs, squares = prepare(args.pictures, Path(folder))
        if args.samples:
            compare_speed(args.spire, photographs, args.samples, args.rounds)
        if args.distribution:
            compare_distributions(args.spire, squares, args.distribution)


def prepare(pictures: Path | None, out: Path) -> tuple[Path, Path]:
    """Writes a folder of JPEG files at the photographs' resolution, and one of their centres at 512 by 512 in PNG,
    which every reader reads alike."""
    photographs, squares = out / "photographs", out / "squares"
    photographs.mkdir()
    squares.mkdir()
    for name, picture in (of_folder(pictures) if pictures else of_skimage()).items():
        enlargement = max(1, SIZE / min(picture.size))
        whole = picture.resize([round(side * enlargement) for side in picture.size], Image.Resampling.LANCZOS)
        whole.save(photographs / f"{name}.jpg", quality=95, subsampling="4:2:0")
        ImageOps.fit(picture, (SIZE, SIZE), Image.Resampling.LANCZOS).save(squares / f"{name}.png")
        for folder in (photographs, squares):
            (folder / f"{name}.txt").write_text("a photograph")
    return photographs, squares


def of_skimage() -> dict[str, Image.Image]:
    """The colour photographs that scikit-image contains without a download."""
    names = "astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket"
    photographs = {name: getattr(skimage.data, name)() for name in names}
    photographs["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    return {name: Image.fromarray(pixels) for name, pixels in photographs.items()}


def of_folder(folder: Path) -> dict[str, Image.Image]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        sys.exit(f"{folder}: no pictures")
    return {f"{i:05}": Image.open(path).convert("RGB") for i, path in enumerate(paths)}


def compare_speed(spire: Path | None, photographs: Path, samples: int, rounds: int) -> None:
    """Milliseconds from the file to the degraded picture: read, crop at random, degrade.

    By the clock, and of the core's own work: the latter is what to trust where other programs use the core too.
    """
    times = {"BasicSR": [], "Rust": []}
    time_basicsr(photographs, 5, seed=rounds)  # what happens once: torch's start, the files into memory
    for seed in range(rounds):
        times["BasicSR"].append(time_basicsr(photographs, samples, seed))
        if spire:
            times["Rust"].append(time_rust(spire, photographs, samples, seed))

    print(f"Milliseconds a picture of {SIZE} x {SIZE}: median (lowest to highest) of {rounds} rounds of {samples}")
    for kind, what in enumerate(("by the clock", "of CPU time")):
        medians = {}
        for name, measured in times.items():
            if measured:
                of_kind = [milliseconds[kind] for milliseconds in measured]
                medians[name] = statistics.median(of_kind)
                spread = f"({min(of_kind):.1f} to {max(of_kind):.1f})"
                print(f"  {name:8}{medians[name]:8.1f} {spread:18} {what}")
        if spire:
            print(f"  BasicSR takes {medians['BasicSR'] / medians['Rust']:.2f} times as long {what}")


def time_basicsr(photographs: Path, samples: int, seed: int) -> tuple[float, float]:
    """Milliseconds per picture: wall time and CPU time."""
    paths = sorted(photographs.glob("*.jpg"))
    basicsr.seed(seed)
    start, cpu_start = time.perf_counter(), time.process_time()
    for i in range(samples):
        basicsr.degrade(random_square(read(paths[i % len(paths)])))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    return 1000 * wall / samples, 1000 * cpu / samples


def time_rust(spire: Path, photographs: Path, samples: int, seed: int) -> tuple[float, float]:
    """The same for the Rust program: wall time as it reports it, CPU time with its start-up."""
    cpu_start = children_cpu()
    stats = rust_stats(spire, photographs, "random", samples, seed)
    cpu = children_cpu() - cpu_start
    return 1000 / number(stats, "images_per_second", positive=True), 1000 * cpu / samples


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compare_distributions(spire: Path | None, squares: Path, samples: int) -> None:
    """Whether the PSNR of degraded pictures has the same mean, and the same distribution."""
    paths = sorted(squares.glob("*.png"))
    # Every photograph equally often. The Rust program uses all of them before it repeats one.
    samples = math.ceil(samples / len(paths)) * len(paths)
    basicsr.seed(0)
    clean = [read(path) for path in paths]
    psnr = {"BasicSR": [decibels(picture, basicsr.degrade(picture)) for picture in clean * (samples // len(clean))]}
    if spire:
        psnr["Rust"] = rust_psnr(spire, squares, samples)

    print(f"PSNR of {samples} degraded pictures in dB: mean and standard deviation, with their standard errors")
    for name, values in psnr.items():
        mean, deviation, mean_error, deviation_error = moments(values)
        print(f"  {name:8}{mean:8.3f} ± {mean_error:.3f}{deviation:10.3f} ± {deviation_error:.3f}")
    if spire:
        ours, theirs = moments(psnr["Rust"]), moments(psnr["BasicSR"])
        for name, value, error in (("mean", 0, 2), ("standard deviation", 1, 3)):
            difference, unit = ours[value] - theirs[value], math.hypot(ours[error], theirs[error])
            print(f"  Difference of the {name}: {difference:+.3f}, {difference / unit:+.2f} standard errors")
        test = ks_2samp(psnr["Rust"], psnr["BasicSR"])
        print(f"  Kolmogorov-Smirnov: {test.statistic:.4f}, p = {test.pvalue:.3f}")


def moments(values: list[float]) -> tuple[float, float, float, float]:
    """Mean and standard deviation, then the standard error of each, without assuming a normal distribution."""
    values = numpy.asarray(values)
    count, mean, deviation = len(values), values.mean(), values.std(ddof=1)
    fourth = ((values - mean) ** 4).mean()
    deviation_error = math.sqrt(max(fourth - deviation**4, 0) / count) / (2 * deviation)
    return mean, deviation, deviation / math.sqrt(count), deviation_error


def decibels(clean: Tensor, degraded: Tensor) -> float:
    return -10 * math.log10((clean - degraded).square().mean().item())


def read(path: Path) -> Tensor:
    return basicsr.to_tensor(cv2.imread(str(path))) / 255


def random_square(picture: Tensor) -> Tensor:
    top, left = (numpy.random.randint(side - SIZE + 1) for side in picture.shape[2:])
    return picture[:, :, top : top + SIZE, left : left + SIZE]


def rust_psnr(spire: Path, squares: Path, samples: int) -> list[float]:
    psnr = rust_stats(spire, squares, "center", samples, seed=0).get("psnr")
    if not isinstance(psnr, dict) or not isinstance(psnr.get("values"), list):
        sys.exit('spire data stats: its JSON has no list "psnr": {"values": […]}')
    values = psnr["values"]
    if len(values) != samples:
        sys.exit(f'spire data stats: "psnr" has {len(values)} values for {samples} samples')
    if not all(is_number(value) for value in values):
        sys.exit('spire data stats: not every value of "psnr" is a finite number')
    if abs(number(psnr, "mean") - statistics.fmean(values)) > 0.01:
        sys.exit(f'spire data stats: the mean of "psnr", {psnr["mean"]}, is not that of its values')
    return values


def rust_stats(spire: Path, folder: Path, crop: str, samples: int, seed: int) -> dict:
    """The Rust program's figures for samples of the Real-ESRGAN pipeline from `folder`."""
    config = folder.with_suffix(".toml")
    # A JSON string is a valid TOML string.
    config.write_text(
        f"""\
[run]
seed = {seed}

[data]
size = {SIZE}
crop = "{crop}"
workers = 0

[data.source]
kind = "folder"
path = {json.dumps(str(folder))}

[degradation]
parameterized_share = 0.0
"""
    )
    arguments = ["--samples", str(samples), "--threads", "1", "--json"]
    command = [str(spire.resolve()), "data", "stats", str(config), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {run.returncode}\n{run.stderr.strip()}")
    try:
        stats = json.loads(run.stdout)
    except json.JSONDecodeError as error:
        sys.exit(f"{' '.join(command)}: no JSON: {error}\n{run.stdout[:500]}")
    if not isinstance(stats, dict):
        sys.exit(f"{' '.join(command)}: JSON, but not an object\n{run.stdout[:500]}")
    if stats.get("broken"):
        sys.exit(f"spire data stats: it could not read {stats['broken']}")
    return stats


def number(table: dict, key: str, positive: bool = False) -> float:
    value = table.get(key)
    if not is_number(value) or (positive and value <= 0):
        sys.exit(f'spire data stats: "{key}" is {value!r}, not a {"positive" if positive else "finite"} number')
    return float(value)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


if __name__ == "__main__":
    main()
