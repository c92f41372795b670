"""Real-ESRGAN's second-order degradation with BasicSR's functions, for one picture on one CPU thread.

Settings and order are those of `train_realesrnet_x4plus.yml`, as in `real_esrgan.rs`. Kernels, noise and JPEG are
BasicSR's, blur and resize PyTorch's, as in Real-ESRGAN. Three things differ from Real-ESRGAN, as in the Rust program: the
clean picture is not sharpened, JPEG is a real codec instead of a differentiable one, and the result is resized to the
original size.
"""

import importlib.util
import math
import random
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

import cv2
import numpy
import torch
import torchvision.transforms.functional
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

KINDS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
KIND_PROBABILITIES = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
KERNEL_SIZES = range(7, 22, 2)
LARGEST_KERNEL = max(KERNEL_SIZES)
GENERALIZED_BETA = 0.5, 4
PLATEAU_BETA = 1, 2
SINC_PROBABILITY = 0.1
SECOND_BLUR_PROBABILITY = 0.8
FINAL_SINC_PROBABILITY = 0.8
GAUSSIAN_NOISE_PROBABILITY = 0.5
GRAY_NOISE_PROBABILITY = 0.4
JPEG_QUALITY = 30, 95
SCALE = 4


@dataclass(frozen=True)
class Order:
    """What differs between the first pass and the second."""

    blur_sigma: tuple[float, float]
    resize_probabilities: tuple[float, float, float]
    resize_factor: tuple[float, float]
    noise_sigma: tuple[float, float]
    poisson_scale: tuple[float, float]


FIRST = Order((0.2, 3), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3))
SECOND = Order((0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5))


def installed() -> ModuleType:
    """Loads only BasicSR's `degradations.py`: the whole package needs an old torchvision."""
    sys.modules.setdefault("torchvision.transforms.functional_tensor", torchvision.transforms.functional)
    try:
        # Found by its distribution, because this file has the name of the package.
        path = distribution("basicsr").locate_file("basicsr/data/degradations.py")
    except PackageNotFoundError:
        sys.exit("BasicSR is missing: pip install --no-deps --no-build-isolation basicsr==1.4.2")
    spec = importlib.util.spec_from_file_location("basicsr_degradations", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


basicsr = installed()


def one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # BasicSR passes floats to OpenCV's encoder, which warns that it rounds them.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def seed(number: int) -> None:
    """Seeds all three random generators, because BasicSR uses all of them."""
    random.seed(number)
    numpy.random.seed(number)
    torch.manual_seed(number)


@torch.no_grad()
def degrade(clean: Tensor) -> Tensor:
    """`clean`, `[1, 3, height, width]` in RGB and [0, 1], degraded, at its original size."""
    height, width = clean.shape[2:]
    # All three kernels are drawn first, as in Real-ESRGAN's data set, even if the second is not used.
    first_kernel, second_kernel, final_kernel = blur_kernel(FIRST), blur_kernel(SECOND), ringing_kernel()

    out = blur(clean, first_kernel)
    out = interpolate(out, scale_factor=factor(FIRST), mode=mode())
    out = jpeg(add_noise(out, FIRST))

    if chance(SECOND_BLUR_PROBABILITY):
        out = blur(out, second_kernel)
    scale = factor(SECOND) / SCALE
    out = interpolate(out, size=(int(height * scale), int(width * scale)), mode=mode())
    out = add_noise(out, SECOND)

    small = height // SCALE, width // SCALE
    if chance(0.5):
        out = blur(interpolate(out, size=small, mode=mode()), final_kernel)
        out = jpeg(out)
    else:
        out = jpeg(out)
        out = blur(interpolate(out, size=small, mode=mode()), final_kernel)

    stored = (out * 255).round().clamp(0, 255) / 255
    return interpolate(stored, size=(height, width), mode="bicubic").clamp(0, 1)


def blur_kernel(order: Order) -> Tensor:
    size = random.choice(KERNEL_SIZES)
    if chance(SINC_PROBABILITY):
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return padded(basicsr.circular_lowpass_kernel(numpy.random.uniform(lowest, math.pi), size))
    return padded(
        basicsr.random_mixed_kernels(
            KINDS,
            KIND_PROBABILITIES,
            size,
            order.blur_sigma,
            order.blur_sigma,
            (-math.pi, math.pi),
            GENERALIZED_BETA,
            PLATEAU_BETA,
            noise_range=None,
        )
    )


def ringing_kernel() -> Tensor:
    """The final sinc filter; if it is skipped, an identity kernel, which is still applied."""
    if chance(FINAL_SINC_PROBABILITY):
        size = random.choice(KERNEL_SIZES)
        return padded(basicsr.circular_lowpass_kernel(numpy.random.uniform(math.pi / 3, math.pi), size))
    return padded(numpy.ones((1, 1)))


def padded(kernel: numpy.ndarray) -> Tensor:
    """Pads all kernels to the largest size, so that they can be batched."""
    kernel = numpy.pad(kernel, (LARGEST_KERNEL - len(kernel)) // 2)
    return torch.from_numpy(kernel).float()


def blur(picture: Tensor, kernel: Tensor) -> Tensor:
    """BasicSR's `filter2D` of a batch of one: the channels are its batch."""
    planes = pad(picture, [LARGEST_KERNEL // 2] * 4, mode="reflect").transpose(0, 1)
    return conv2d(planes, kernel[None, None]).transpose(0, 1)


def factor(order: Order) -> float:
    smallest, largest = order.resize_factor
    ranges = (1, largest), (smallest, 1), (1, 1)
    return numpy.random.uniform(*random.choices(ranges, order.resize_probabilities)[0])


def mode() -> str:
    return random.choice(["area", "bilinear", "bicubic"])


def add_noise(picture: Tensor, order: Order) -> Tensor:
    if chance(GAUSSIAN_NOISE_PROBABILITY):
        return basicsr.random_add_gaussian_noise_pt(picture, order.noise_sigma, GRAY_NOISE_PROBABILITY)
    return basicsr.random_add_poisson_noise_pt(picture, order.poisson_scale, GRAY_NOISE_PROBABILITY)


def jpeg(picture: Tensor) -> Tensor:
    """BasicSR's JPEG (OpenCV, 4:2:0), with an integer quality, as this OpenCV requires."""
    quality = random.randint(*JPEG_QUALITY)
    return to_tensor(basicsr.add_jpg_compression(to_bgr(picture), quality))


def to_tensor(bgr: numpy.ndarray) -> Tensor:
    """From OpenCV's `[height, width, 3]`, BGR, to `[1, 3, height, width]`, RGB, as floats."""
    return torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None].float().contiguous()


def to_bgr(picture: Tensor) -> numpy.ndarray:
    """The way back from `to_tensor`."""
    return cv2.cvtColor(picture[0].permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)


def chance(probability: float) -> bool:
    return numpy.random.uniform() < probability
