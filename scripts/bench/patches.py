"""How well a linear projection of 8×8 patches can hold scenes of the illustrated world: what latents of f = 8 with so many
channels reach without any network. Needs numpy and Pillow.

    cargo run --release -p spire-data --example world -- world.png 64
    python scripts/bench/patches.py world.png
"""

import sys

import numpy
from PIL import Image

SIDE, PATCH, GAP = 64, 8, 2

sheet = numpy.asarray(Image.open(sys.argv[1]).convert("RGB")).astype(float) / 255
corners = [(y, x) for y in range(0, sheet.shape[0], SIDE + GAP) for x in range(0, sheet.shape[1], SIDE + GAP)]
scenes = numpy.array([sheet[y : y + SIDE, x : x + SIDE] for y, x in corners])
across = SIDE // PATCH
patches = scenes.reshape(len(scenes), across, PATCH, across, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, PATCH * PATCH * 3)
mean = patches.mean(0)
components = numpy.linalg.svd(patches - mean, full_matrices=False)[2]
for channels in [8, 16, 24, 32, 48, 64]:
    basis = components[:channels]
    projected = (patches - mean) @ basis.T @ basis + mean
    errors = ((projected - patches) ** 2).reshape(len(scenes), -1).mean(1)
    print(f"{channels:3} channels: mean PSNR of {len(scenes)} scenes {-10 * numpy.log10(errors).mean():.1f} dB")
