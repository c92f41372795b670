"""Synthetic pictures with features of photographs (smooth shading, edges, grain), and real photographs."""

import numpy
import skimage.data
from numpy.random import Generator
from PIL import Image


def photograph(random: Generator, height: int, width: int) -> numpy.ndarray:
    """8-bit `[height, width, 3]`."""
    shading = random.integers(256, size=(5, 5, 3), dtype=numpy.uint8)
    levels = numpy.asarray(Image.fromarray(shading).resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    for _ in range(4):
        top, left = random.integers(height), random.integers(width)
        levels[top : top + height // 3, left : left + width // 3] = random.integers(256, size=3)
    return to_levels(levels + random.normal(0, 4, levels.shape))


def real(random: Generator, height: int, width: int) -> numpy.ndarray:
    """A part of a photograph that comes with scikit-image, 8-bit `[height, width, 3]`; at most 300 by 451."""
    source = getattr(skimage.data, random.choice(["astronaut", "chelsea", "coffee", "rocket"]))()
    top, left = (random.integers(have - want + 1) for have, want in zip(source.shape, (height, width)))
    return source[top : top + height, left : left + width].copy()


def distorted(random: Generator, picture: numpy.ndarray) -> numpy.ndarray:
    """The picture with another contrast, a shift of one pixel, and noise."""
    moved = numpy.roll(picture.astype(float), random.integers(-1, 2, size=2), axis=(0, 1))
    return to_levels(random.uniform(0.8, 1.1) * moved + random.normal(0, random.uniform(2, 25), picture.shape))


def to_levels(levels: numpy.ndarray) -> numpy.ndarray:
    return levels.round().clip(0, 255).astype(numpy.uint8)
