"""SwinIR, BSRNet and SCUNet at their published sizes: the seconds of one pass, in turn with the official code in PyTorch.

    reference-venv/bin/python scripts/reference/make.py OUT --official official --full restoration --kinds swinir,bsrnet,scunet
    reference-venv/bin/python scripts/bench/networks.py OUT --official official --spire target/release/spire

Both sides have computed a pass in the same process before. Measure on a quiet machine: other programs slow the two sides differently.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1] / "reference"))
import formula  # noqa: E402
import official  # noqa: E402
import restoration  # noqa: E402

KINDS = ("swinir", "bsrnet", "scunet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, help="what scripts/reference/make.py wrote")
    parser.add_argument("--official", type=Path, required=True, help="folder with the repositories")
    parser.add_argument("--spire", type=Path, required=True)
    parser.add_argument("--threads", default="1,2", help="threads of both sides, in turn")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    official.folder = options.official
    torch.set_grad_enabled(False)
    for threads in map(int, options.threads.split(",")):
        for kind in KINDS:
            network, image = in_pytorch(options.bundles, kind)
            measure = {
                "PyTorch": lambda: of_pytorch(network, image, threads),
                "spire": lambda: of_spire(options.spire, options.bundles / f"case-{kind}-published", threads),
            }
            seconds = {name: [] for name in measure}
            for round in range(options.rounds):
                # Neither side is always the first.
                for name in list(measure)[:: 1 if round % 2 == 0 else -1]:
                    seconds[name].append(measure[name]())
            medians = {name: statistics.median(values) for name, values in seconds.items()}
            listed = "; ".join(f"{name} {medians[name]:.2f} ({min(values):.2f}, {max(values):.2f})" for name, values in seconds.items())
            print(f"{kind}, {threads} threads: {listed}; ratio {medians['spire'] / medians['PyTorch']:.2f}", flush=True)


def in_pytorch(bundles: Path, kind: str):
    """The official network with the bundle's weights, and the bundle's picture; their output agrees with the bundle's."""
    tensors = load_file(bundles / f"case-{kind}-published" / "tensors.safetensors")
    seed = json.loads((bundles / f"{kind}-published" / "model.formula.json").read_text())["seed"]
    # SCUNet prints its settings.
    with contextlib.redirect_stdout(io.StringIO()):
        network = restoration.published_network(kind).eval()
    formula.fill(dict(network.named_parameters()), seed)
    difference = (network(tensors["in.image"]) - tensors["out.image"]).abs().max().item()
    if difference > 1e-4 * tensors["out.image"].abs().max().item():
        sys.exit(f"{kind}: PyTorch's output differs from the bundle's by {difference}")
    return network, tensors["in.image"]


def of_pytorch(network, image, threads: int) -> float:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    network(image)
    return time.perf_counter() - start


def of_spire(spire: Path, case: Path, threads: int) -> float:
    """The faster of two passes of one process: the first one pays for fresh memory."""
    command = [spire, "verify", "--json", "-q", case, case]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    report = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    return min(found(json.loads(report)))


def found(report) -> list[float]:
    """Every value called `seconds`."""
    if isinstance(report, list):
        return [value for part in report for value in found(part)]
    if isinstance(report, dict):
        own = [report["seconds"]] if "seconds" in report else []
        return own + found(list(report.values()))
    return []


main()
