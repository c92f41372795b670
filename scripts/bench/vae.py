"""What a model's VAE keeps of noise and of blur, and how well it holds clean pictures: the limit of every restoration by the model.
Pictures are encoded and decoded by diffusers; nothing is restored. Needs the environment of scripts/reference.

    spire benchmark make configs/benchmarks/tiny-parameterized.toml -o benchmarks/tiny-parameterized
    python scripts/bench/vae.py assets/tiny/vae benchmarks/tiny-parameterized/clean
"""

import argparse
import pathlib

import numpy
import torch
from diffusers import AutoencoderKL
from PIL import Image
from scipy.ndimage import gaussian_filter

LUMA = numpy.array([0.299, 0.587, 0.114])


def noise(picture):
    """The standard deviation of the luma's noise, as the metric `noise` measures it."""
    y = picture @ LUMA
    details = numpy.abs(y[0::2, 0::2] - y[0::2, 1::2] - y[1::2, 0::2] + y[1::2, 1::2]) / 2
    return numpy.median(details) / 0.6745


def sharpness(picture):
    """The 99th percentile of the luma's gradient, as the metric `sharpness` measures it."""
    y = gaussian_filter(picture @ LUMA, 1.0)
    across, down = y[1:-1, 2:] - y[1:-1, :-2], y[2:, 1:-1] - y[:-2, 1:-1]
    return numpy.percentile(numpy.hypot(across, down) / 2, 99)


def psnr(picture, clean):
    return -10 * numpy.log10(((picture - clean) ** 2).mean())


def decoded(vae, picture):
    with torch.no_grad():
        pixels = torch.tensor(picture.transpose(2, 0, 1)[None] * 2 - 1, dtype=torch.float32)
        pixels = vae.decode(vae.encode(pixels).latent_dist.mode()).sample[0]
    return ((pixels.numpy().transpose(1, 2, 0) + 1) / 2).clip(0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vae")
    parser.add_argument("folder", help="clean pictures, of an even number of pixels per side")
    parser.add_argument("--count", type=int, default=256)
    options = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(options.vae).eval()
    files = sorted(pathlib.Path(options.folder).glob("*.png"))[: options.count]
    pictures = [numpy.asarray(Image.open(file).convert("RGB")).astype(float) / 255 for file in files]
    random = numpy.random.default_rng(1)

    def row(name, degrade):
        degraded = [degrade(picture).clip(0, 1) for picture in pictures]
        through = [decoded(vae, picture) for picture in degraded]
        mean = lambda measure, pictures: numpy.mean([measure(picture) for picture in pictures])
        near = numpy.mean([psnr(*pair) for pair in zip(through, pictures)])
        figures = [mean(noise, degraded), mean(noise, through), mean(sharpness, degraded), mean(sharpness, through)]
        print(f"| {name} | " + " | ".join(f"{figure:.4f}" for figure in figures) + f" | {near:.2f} dB |")

    print(f"{len(pictures)} pictures\n")
    print("| | noise | decoded | sharpness | decoded | PSNR of the decoded to the clean pictures |")
    print("|---|---|---|---|---|---|")
    row("clean", lambda picture: picture)
    for sigma in [0.02, 0.05, 0.1, 0.25]:
        row(f"noise of {sigma}", lambda picture: picture + random.normal(0, sigma, picture.shape))
    for sigma in [0.5, 1, 2, 3]:
        row(f"blur of {sigma} pixels", lambda picture: gaussian_filter(picture, [sigma, sigma, 0]))


main()
