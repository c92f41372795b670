"""Cases `lpips`, `fid`, `pillow-resize`, `frechet` and `psnr-ssim`."""

import math
import sys
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy
import torch
import torchvision.transforms.functional
from cleanfid.fid import frechet_distance
from cleanfid.inception_pytorch import fid_inception_v3
from cleanfid.resize import build_resizer
from lpips import LPIPS
from numpy.random import Generator
from PIL import Image
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import bundle
import formula
from bundle import choice, new_seed, whole
from photographs import distorted, photograph, real

# Keeps the size of activations through rectified linear units.
INCEPTION_GAIN = math.sqrt(2)


def lpips(out: Path, random: Generator) -> None:
    """The published linear layers on random backbones, whose trained weights would have to be downloaded."""
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


def fid(out: Path, random: Generator) -> None:
    """Inception with generated weights; the trained ones would have to be downloaded."""
    with mock.patch("cleanfid.inception_pytorch.load_state_dict_from_url", return_value=None), mock.patch(
        "torch.nn.Module.load_state_dict"
    ):
        network = fid_inception_v3().eval()
    seed = new_seed(random)
    tensors = {n: t for n, t in network.state_dict().items() if t.is_floating_point() and not n.startswith("fc.")}
    formula.fill(tensors, seed, INCEPTION_GAIN)
    weights = bundle.weights(out / "inception", {}, "model", tensors, seed, INCEPTION_GAIN)

    network.fc, network.dropout = torch.nn.Identity(), torch.nn.Identity()
    normalise = {"clean": lambda x: (x - 128) / 128, "legacy_pytorch": lambda x: 2 * (x / 255) - 1}
    clean = [real(random, whole(random, 60, 180), whole(random, 60, 180)) for _ in range(whole(random, 3, 5))]
    pictures = {"clean": clean, "restored": [distorted(random, picture) for picture in clean]}
    outputs = {f"in.{name}.{i}": torch.from_numpy(picture) for name, s in pictures.items() for i, picture in enumerate(s)}
    for mode, scaled in normalise.items():
        name = mode.removesuffix("_pytorch")
        resize, statistics = build_resizer(mode), []
        for which, some in pictures.items():
            resized = [torch.from_numpy(resize(picture).astype(numpy.float32)).permute(2, 0, 1) for picture in some]
            features = network(scaled(torch.stack(resized)))
            outputs |= {f"out.features.{name}.{which}.{i}": row.clone() for i, row in enumerate(features)}
            rows = features.double().numpy()
            statistics += [rows.mean(0), numpy.cov(rows, rowvar=False)]
        outputs[f"out.fid.{name}"] = torch.tensor([frechet_distance(*statistics)])
    source = f"clean-fid {version('clean-fid')}: build_resizer, fid_inception_v3, frechet_distance; torch {version('torch')}"
    bundle.case(out / "case-fid", "fid", outputs, weights, tolerance=1e-3, source=source)


def pillow_resize(out: Path, random: Generator) -> None:
    tensors = {}
    for i in range(4):
        source = real(random, whole(random, 20, 150), whole(random, 20, 150))
        size = whole(random, 5, 120), whole(random, 5, 120)
        planes = [Image.fromarray(source[..., c].astype(numpy.float32)) for c in range(3)]
        values = numpy.stack([plane.resize(size, Image.Resampling.BICUBIC) for plane in planes], axis=2)
        levels = numpy.asarray(Image.fromarray(source).resize(size, Image.Resampling.BICUBIC))
        tensors[f"in.image.{i}"] = torch.from_numpy(source)
        tensors |= {f"out.levels.{i}": torch.from_numpy(levels.copy()), f"out.values.{i}": torch.from_numpy(values)}
    source = f"pillow {version('pillow')}: Image.resize, BICUBIC, modes RGB and F"
    bundle.case(out / "case-pillow-resize", "pillow-resize", tensors, tolerance=1e-6, source=source)


def frechet(out: Path, random: Generator) -> None:
    """Covariances of full rank, of fewer rows than features, and of features that are nearly linear combinations of others."""
    features = whole(random, 8, 40)
    many, few = (2 * features, 8 * features), (3, features // 2)
    mixed = random.standard_normal((features, features))
    thin = random.standard_normal((features, features // 3)) @ random.standard_normal((features // 3, features))
    cases = {
        "": (many, mixed),
        "-singular": (few, mixed),
        "-near-singular": (many, thin + 1e-5 * mixed),
    }
    for name, (rows, mixing) in cases.items():

        def draw() -> numpy.ndarray:
            drawn = random.standard_normal((whole(random, *rows), features))
            return (drawn @ mixing + random.standard_normal(features)).astype(numpy.float32)

        a, b = draw(), draw()
        statistics = [(x.mean(0), numpy.cov(x, rowvar=False)) for x in (a.astype(float), b.astype(float))]
        distance = frechet_distance(*statistics[0], *statistics[1])
        tensors = {"in.a": torch.from_numpy(a), "in.b": torch.from_numpy(b), "out.distance": torch.tensor([distance])}
        source = f"clean-fid {version('clean-fid')} frechet_distance on float64 features, scipy {version('scipy')} sqrtm"
        bundle.case(out / f"case-frechet{name}", "frechet", tensors, tolerance=1e-4, source=source)


def psnr_ssim(out: Path, random: Generator) -> None:
    # The package imports a module that torchvision no longer has.
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
        # BasicSR expects OpenCV's order of colours (BGR).
        pair, border = (reference[..., ::-1], other[..., ::-1]), whole(random, 0, 2)
        for name, function in (("psnr", basicsr.calculate_psnr), ("ssim", basicsr.calculate_ssim)):
            value = function(*pair, crop_border=border, test_y_channel=True)
            tensors[f"out.{name}_y.{i}.{border}"] = torch.tensor([value])
    source = (
        f"scikit-image {version('scikit-image')}: PSNR of RGB levels; SSIM with gaussian_weights, sigma 1.5, "
        f"use_sample_covariance=False, mean of the channels; of Y by BasicSR {version('basicsr')}"
    )
    bundle.case(out / "case-psnr-ssim", "psnr-ssim", tensors, source=source)
