"""Cases `blur-kernels`, `blur-resize` and `jpeg`: BasicSR's kernels, torch's resizing, Pillow's JPEG."""

import importlib.util
import io
import json
import math
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy
import torch
import torchvision.transforms.functional
from numpy.random import Generator
from PIL import Image
from torch.nn.functional import conv2d, interpolate, pad

import bundle
from bundle import whole
from photographs import photograph

KINDS = "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc"


def basicsr_module(name: str) -> ModuleType:
    """Loads a single file of BasicSR: the whole package needs an old torchvision."""
    sys.modules.setdefault("torchvision.transforms.functional_tensor", torchvision.transforms.functional)
    package = importlib.util.find_spec("basicsr")
    if package is None:
        sys.exit("degradations need BasicSR: pip install --no-deps --no-build-isolation basicsr==1.4.2")
    path = Path(package.origin).parent / name
    spec = importlib.util.spec_from_file_location(f"basicsr_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_kernel(random: Generator, kind: str) -> dict:
    sigma_x = random.uniform(0.2, 3)
    return {
        "kind": kind,
        "size": 2 * whole(random, 3, 10) + 1,
        "sigma_x": sigma_x,
        "sigma_y": random.uniform(0.2, 3) if kind.endswith("aniso") else sigma_x,
        # For sinc the cutoff frequency, in radians.
        "theta": random.uniform(math.pi / 5, math.pi) if kind == "sinc" else random.uniform(-math.pi, math.pi),
        "beta": random.uniform(0.5, 4),
    }


def kernel(basicsr: ModuleType, spec: dict) -> numpy.ndarray:
    size, sigma_x, sigma_y, theta, beta = (spec[key] for key in ("size", "sigma_x", "sigma_y", "theta", "beta"))
    isotropic = not spec["kind"].endswith("aniso")
    match spec["kind"].split("_")[0]:
        case "sinc":
            return basicsr.circular_lowpass_kernel(theta, size)
        case "generalized":
            return basicsr.bivariate_generalized_Gaussian(size, sigma_x, sigma_y, theta, beta, isotropic=isotropic)
        case "plateau":
            return basicsr.bivariate_plateau(size, sigma_x, sigma_y, theta, beta, isotropic=isotropic)
        case _:
            return basicsr.bivariate_Gaussian(size, sigma_x, sigma_y, theta, isotropic=isotropic)


def blur_kernels(out: Path, random: Generator) -> None:
    basicsr = basicsr_module("data/degradations.py")
    specs = [draw_kernel(random, kind) for kind in KINDS for _ in range(4)]
    tensors = {f"out.kernel.{i}": torch.from_numpy(kernel(basicsr, spec)).float() for i, spec in enumerate(specs)}
    folder = out / "case-blur-kernels"
    source = f"BasicSR {version('basicsr')} degradations.py; for sinc, theta is the cutoff in radians"
    bundle.case(folder, "blur-kernels", tensors, source=source)
    (folder / "kernels.json").write_text(json.dumps(specs, indent=1))


def blur_resize(out: Path, random: Generator) -> None:
    # MATLAB resizes by a factor; choose one that gives whole pixels.
    height, width = 12 * whole(random, 2, 11), 12 * whole(random, 2, 11)
    image = torch.stack([pixels(photograph(random, height, width)) for _ in range(whole(random, 1, 3))]) / 255
    weights = torch.from_numpy(random.uniform(0, 1, [2 * whole(random, 0, 10) + 1] * 2)).float()
    weights /= weights.sum()
    margin = len(weights) // 2
    padded = pad(image, [margin] * 4, mode="reflect")
    tensors = {
        "in.image": image,
        "in.kernel": weights,
        "out.blurred": conv2d(padded, weights.expand(3, 1, -1, -1), groups=3),
    }
    for mode in ("area", "bilinear", "bicubic"):
        size = whole(random, 5, 2 * height), whole(random, 5, 2 * width)
        corners = None if mode == "area" else False
        tensors[f"out.{mode}"] = interpolate(image, size, mode=mode, align_corners=corners)
    imresize = basicsr_module("utils/matlab_functions.py").imresize
    factor = float(random.choice([1 / 4, 1 / 3, 1 / 2, 2, 3]))
    tensors["out.bicubic_antialiased"] = torch.stack([imresize(picture, factor) for picture in image])
    source = (
        f"torch {version('torch')}: F.pad(reflect) and conv2d; F.interpolate (area, bilinear, bicubic; align_corners "
        f"false, no antialias); BasicSR {version('basicsr')}: imresize as MATLAB's (bicubic_antialiased)"
    )
    bundle.case(out / "case-blur-resize", "blur-resize", tensors, source=source)


def jpeg(out: Path, random: Generator) -> None:
    height, width = whole(random, 16, 150), whole(random, 16, 150)
    pictures = [photograph(random, height, width) for _ in range(whole(random, 1, 3))]
    tensors = {"in.image": torch.stack([pixels(picture) for picture in pictures])}
    for quality in random.choice(numpy.arange(5, 101), 5, replace=False):
        decoded = [pixels(through_jpeg(picture, int(quality))) for picture in pictures]
        tensors[f"out.jpeg.{quality}"] = torch.stack(decoded)
    source = (
        f"Pillow {version('pillow')} (libjpeg-turbo), subsampling 4:2:0; tolerance is on the relative RMS difference "
        "of decoded pixels"
    )
    bundle.case(out / "case-jpeg", "jpeg", tensors, tolerance=0.02, source=source)


def pixels(picture: numpy.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


def through_jpeg(picture: numpy.ndarray, quality: int) -> numpy.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=quality, subsampling="4:2:0")
    return numpy.array(Image.open(file))
