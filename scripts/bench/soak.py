"""Checks that memory does not grow over many samples from tar shards.

Writes shards of crops from scikit-image's photographs, runs `spire data stats` on them, and records its memory every
second. Needs Linux.

    soak.py --spire target/release/spire [--samples 100000] [--plot soak.png]
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy
import skimage.data
from PIL import Image

SHARDS = 40
SAMPLES = 500  # in a shard
SIDE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spire", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="write memory over time as a picture")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder))
        config = write_config(Path(folder))
        command = [args.spire, "data", "stats", config, "-n", str(args.samples), "--threads", str(args.threads), "--json"]
        memory, stats = watch([str(part) for part in command])
    report(memory, stats)
    if args.plot:
        plot(memory, args.plot)


def write_shards(folder: Path) -> None:
    names = "astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket"
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    random = numpy.random.default_rng(0)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:06}.tar", "w") as tar:
            for i in range(SAMPLES):
                picture = photographs[random.integers(len(photographs))]
                width, height = (int(random.integers(SIDE, min(side, 400) + 1)) for side in picture.size)
                left = int(random.integers(picture.width - width + 1))
                top = int(random.integers(picture.height - height + 1))
                file = io.BytesIO()
                picture.crop((left, top, left + width, top + height)).save(file, "JPEG", quality=90)
                key = f"{shard * SAMPLES + i:09}"
                for name, data in ((f"{key}.jpg", file.getvalue()), (f"{key}.txt", f"photograph {key}".encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def write_config(folder: Path) -> Path:
    config = folder / "soak.toml"
    shards = json.dumps(f"{folder}/{{000000..{SHARDS - 1:06}}}.tar")
    source = f'[data.source]\nkind = "webdataset"\nshards = {shards}\n'
    config.write_text(f'[data]\nsize = {SIDE}\ncrop = "random"\n{source}')
    return config


def watch(command: list[str]) -> tuple[list[float], dict]:
    """Resident memory in MiB every second, and the output of the program."""
    memory = []
    with tempfile.TemporaryFile("w+") as out:
        program = subprocess.Popen(command, stdout=out)
        while program.poll() is None:
            memory.append(resident(program.pid))
            if len(memory) % 60 == 0:
                print(f"{len(memory)} s: {memory[-1]:.0f} MiB", file=sys.stderr)
            time.sleep(1)
        if program.returncode != 0:
            sys.exit(f"{command[0]}: exit status {program.returncode}")
        out.seek(0)
        return [value for value in memory if value], json.load(out)


def resident(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * 4096 / 2**20


def report(memory: list[float], stats: dict) -> None:
    speed = f"{stats['images_per_second']:.0f} a second on {stats['threads']} threads"
    print(f"{stats['samples']} samples of {stats['pictures']} pictures, {len(stats['broken'])} broken, {speed}")
    print("Resident memory in MiB, mean and most, by tenths of the time:")
    for tenth in numpy.array_split(numpy.array(memory), 10):
        print(f"  {tenth.mean():8.1f} {tenth.max():8.1f}")


def plot(memory: list[float], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3))
    axes.plot(memory)
    axes.set(xlabel="seconds", ylabel="resident memory, MiB", ylim=(0, 1.3 * max(memory)))
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
