"""Cases `lpips`, `frechet` and `psnr-ssim`."""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy
import torch
import torchvision.transforms.functional
from cleanfid.fid import frechet_distance
from lpips import LPIPS
from numpy.random import Generator
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import bundle
from bundle import choice, new_seed, whole
from photographs import distorted, photograph


def lpips(out: Path, random: Generator) -> None:
    """The published importances on random backbones: their trained weights would have to be downloaded."""
    for net in ("alex", "vgg"):
        torch.manual_seed(new_seed(random))
        model = LPIPS(net=net, pnet_rand=True, verbose=False).eval()
        # `lins` lists the layers `lin0` to `lin4` a second time.
        weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("lins.")}
        folder = out / f"lpips-{net}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / "model.safetensors")

        height, width = whole(random, 48, 120), whole(random, 48, 120)
        pictures = [photograph(random, height, width) for _ in range(whole(random, 1, 3))]
        x, y = (
            torch.stack([torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1 for picture in batch])
            for batch in (pictures, [distorted(random, picture) for picture in pictures])
        )
        tensors = {"in.x": x, "in.y": y, "out.distance": model(x, y).flatten()}
        source = f"lpips {version('lpips')} LPIPS(net={net}), random backbone, range [-1, 1]"
        bundle.case(out / f"case-lpips-{net}", "lpips", tensors, folder, source=source)


def frechet(out: Path, random: Generator) -> None:
    features = whole(random, 8, 40)

    def draw() -> numpy.ndarray:
        rows = random.standard_normal((whole(random, 2 * features, 8 * features), features))
        rows = rows @ random.standard_normal((features, features)) + random.standard_normal(features)
        return rows.astype(numpy.float32)

    a, b = draw(), draw()
    statistics = [(x.mean(0), numpy.cov(x, rowvar=False)) for x in (a.astype(float), b.astype(float))]
    distance = frechet_distance(*statistics[0], *statistics[1])
    tensors = {"in.a": torch.from_numpy(a), "in.b": torch.from_numpy(b), "out.distance": torch.tensor([distance])}
    source = f"clean-fid {version('clean-fid')} frechet_distance on float64 features"
    bundle.case(out / "case-frechet", "frechet", tensors, tolerance=1e-3, source=source)


def psnr_ssim(out: Path, random: Generator) -> None:
    # The package asks for a module that torchvision has no more.
    sys.modules.setdefault("torchvision.transforms.functional_tensor", torchvision.transforms.functional)
    from basicsr.metrics import psnr_ssim as basicsr

    tensors = {}
    for i in range(3):
        reference = photograph(random, whole(random, 16, 200), whole(random, 16, 200))
        other = distorted(random, reference) if i else choice(random, reference[::-1], reference[:, ::-1]).copy()
        ssim = structural_similarity(
            reference, other, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        psnr = peak_signal_noise_ratio(reference, other)
        tensors |= {f"in.reference.{i}": torch.from_numpy(reference), f"in.distorted.{i}": torch.from_numpy(other)}
        tensors |= {f"out.psnr.{i}": torch.tensor([psnr]), f"out.ssim.{i}": torch.tensor([ssim])}
        # BasicSR takes OpenCV's order of colours.
        pair, border = (reference[..., ::-1], other[..., ::-1]), whole(random, 0, 2)
        for name, function in (("psnr", basicsr.calculate_psnr), ("ssim", basicsr.calculate_ssim)):
            value = function(*pair, crop_border=border, test_y_channel=True)
            tensors[f"out.{name}_y.{i}.{border}"] = torch.tensor([value])
    source = (
        f"scikit-image {version('scikit-image')}: PSNR of RGB levels; SSIM with gaussian_weights, sigma 1.5, "
        f"use_sample_covariance=False, mean of the channels; of Y by BasicSR {version('basicsr')}"
    )
    bundle.case(out / "case-psnr-ssim", "psnr-ssim", tensors, source=source)
