"""Loads a trained control branch into PyTorch and checks that it computes the same function.

    python control_in_pytorch.py runs/tiny/control assets/tiny --bundle OUT
    spire verify OUT

Writes the prediction of the branch with its base UNet on random inputs as a bundle for `spire verify`. A branch with
fusion `add` is a ControlNet, which diffusers' own class loads. Pictures are in [0, 1]; `spire_torch.condition` takes them to
the range that the branch was trained on, its `conditioning_range`.
Needs `reference/requirements.txt`.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy
import torch
from diffusers import ControlNetModel

sys.path.insert(0, str(Path(__file__).parent / "reference"))

import denoiser
import spire_torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("control", type=Path, help="folder of the branch")
    parser.add_argument("base", type=Path, help="folder of the base model (with unet/) or of its UNet")
    parser.add_argument("--bundle", type=Path, required=True, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_grad_enabled(False)
    random = numpy.random.default_rng(arguments.seed)
    base = arguments.base / "unet" if (arguments.base / "unet").is_dir() else arguments.base
    unet, control = spire_torch.load(arguments.control, base)
    config = control.config if isinstance(control, ControlNetModel) else control.settings
    given = denoiser.spire_inputs(random, unet, config)
    # The bundle has the network's own input, as pictures in [0, 1] become it.
    picture = torch.rand(given["degraded"].shape, generator=torch.Generator().manual_seed(arguments.seed))
    given["degraded"] = spire_torch.condition(control, picture)
    shutil.copytree(base, arguments.bundle / "weights" / "unet", dirs_exist_ok=True)
    shutil.copytree(arguments.control, arguments.bundle / "weights" / "control", dirs_exist_ok=True)
    outputs = denoiser.spire_outputs(unet, control, given)
    denoiser.write(arguments.bundle / "case-spire", "spire", given, outputs, arguments.bundle / "weights")
    print(f"{arguments.bundle}: {', '.join(f'{name} {list(tensor.shape)}' for name, tensor in given.items())}")


if __name__ == "__main__":
    main()
