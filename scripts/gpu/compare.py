"""What `check.sh` found, in a line or a few.

    compare.py losses CPU/metrics.jsonl GPU/metrics.jsonl
    compare.py step MEASUREMENT.json
    compare.py kernels CUBECL.log
"""

import json
import statistics
import sys
from pathlib import Path


def losses(cpu: str, gpu: str) -> None:
    """The losses of the same steps on two devices."""
    one, other = ([json.loads(line) for line in Path(file).read_text().splitlines()] for file in (cpu, gpu))
    pairs = [(a["loss"], b["loss"]) for a, b in zip(one, other) if "loss" in a and "loss" in b]
    if not pairs:
        raise SystemExit("no step was taken on both devices")
    for first, last in [(0, 10), (len(pairs) // 2, len(pairs))]:
        errors = [abs(a - b) / a for a, b in pairs[first:last]]
        means = [sum(values) / len(values) for values in zip(*pairs[first:last])]
        print(
            f"result: steps {first} to {first + len(errors)}: mean loss {means[0]:.5f} on the CPU, {means[1]:.5f} on the "
            f"device; largest relative difference of a step {max(errors):.2e}"
        )


def step(file: str) -> None:
    """A measurement of `spire bench`."""
    values = json.loads(Path(file).read_text())
    seconds = statistics.median(values["seconds"])
    rate = values["flops"] / seconds
    peak = values["peak"]["flops_per_second"]
    print(
        f"result: {Path(file).stem}: {seconds:.3f} s for {values['images']} images, {values['images'] / seconds:.1f} images/s, "
        f"{rate / 1e12:.2f} TFLOP/s, {rate / peak:.1%} of the peak, {values['memory']['bytes'] / 1e9:.2f} GB"
    )


def kernels(file: str) -> None:
    """The ten kernels that took the most time, from the last table of CubeCL's profile."""
    rows = []
    for line in Path(file).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if cells[0] == "Name":
            rows = []
        elif len(cells) == 4 and cells[3].endswith("%") and cells[0] != "Total":
            rows.append(cells)
    if not rows:
        raise SystemExit(f"{file} has no profile")
    for name, duration, count, share in rows[:10]:
        print(f"result: {share}, {duration} in {count} starts: {name}")


if __name__ == "__main__":
    {"losses": losses, "step": step, "kernels": kernels}[sys.argv[1]](*sys.argv[2:])
