"""Cases `musiq`, `clip-iqa` and `maniqa`: no-reference metrics at their published sizes.

Weights are generated, because the published ones would have to be downloaded. Pictures are crops of scikit-image's
photographs.
"""

import sys
import types
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy
import packaging.version
import skimage
import timm
import torch
from numpy.random import Generator
from torch import nn

import bundle
import formula
from bundle import choice, new_seed, whole

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def musiq(out: Path, random: Generator) -> None:
    from pyiqa.archs.musiq_arch import MUSIQ

    model = MUSIQ(pretrained=False).eval()
    options = model.data_preprocess_opts
    encoder = model.transformer_encoder
    config = {
        "patch_size": model.patch_size,
        "hidden_size": model.embedding.out_features,
        "mlp_dim": encoder.transformer["encoderblock_0"].mlp.fc1.out_features,
        "num_heads": encoder.transformer["encoderblock_0"].attention.num_heads,
        "num_layers": len(encoder.transformer),
        "spatial_pos_grid_size": options["hse_grid_size"],
        "longer_side_lengths": options["longer_side_lengths"],
    }
    # The gain gives weight to the position embeddings, a single large matrix.
    weights = by_formula(out / "musiq", model, random, config, gain=2.0)
    pictures = [cut(random, 160, 320) for _ in range(2)]
    judged(out / "case-musiq", "musiq", weights, pictures, model, model.head, lambda seen, _: seen[0])


def clip_iqa(out: Path, random: Generator) -> None:
    # The package `clip` imports a module that setuptools no longer has.
    sys.modules.setdefault("pkg_resources", types.SimpleNamespace(packaging=packaging))
    from pyiqa.archs import clip_model, clipiqa_arch

    config = {
        "embed_dim": 1024,
        "vision_layers": (3, 4, 6, 3),
        "vision_width": 64,
        "context_length": 77,
        "vocab_size": 49408,
        "transformer_width": 512,
        "transformer_heads": 8,
        "transformer_layers": 12,
    }
    clip = clip_model.CLIP(image_resolution=224, vision_patch_size=None, **config).eval()
    with patch.object(clipiqa_arch, "load", return_value=clip):
        model = clipiqa_arch.CLIPIQA().eval()
    # A smaller gain makes all pictures equal to the network; a larger one lets its residual sums grow into the thousands.
    weights = by_formula(out / "clip-iqa", clip, random, config, gain=1.2)
    pictures = [cut(random, 160, 320) for _ in range(2)]
    judged(out / "case-clip-iqa", "clip-iqa", weights, pictures, model, clip.visual, lambda _, made: made[0])


def maniqa(out: Path, random: Generator) -> None:
    from pyiqa.archs import maniqa_arch

    config = {
        "embed_dim": 768,
        "img_size": 224,
        "patch_size": 8,
        "num_tab": 2,
        "depths": [2, 2],
        "num_heads": [4, 4],
        "window_size": 4,
        "dim_mlp": 768,
        "scale": choice(random, 0.8, 0.13),
        "test_sample": whole(random, 1, 2),
    }
    # The weights of timm's transformer are in the checkpoints of MANIQA too.
    untrained = partial(timm.create_model, pretrained=False)
    with patch.object(maniqa_arch.timm, "create_model", lambda name, pretrained: untrained(name)):
        model = maniqa_arch.MANIQA(pretrained=False, **config).eval()
    # One picture of sufficient size, and one that has to be enlarged.
    pictures = {"case-maniqa": cut(random, 225, 320), "case-maniqa-enlarged": cut(random, 160, 223)}
    scores = torch.zeros(1)
    # If only few patches score above 0, rounding errors dominate the reference's score.
    while scores.min() < 0.5:
        # A smaller gain leaves few patches above 0; with a larger one every channel attends to a single other.
        weights = by_formula(out / "maniqa", model, random, config, gain=0.8)
        cases = [
            judged(out / case, "maniqa", weights, [picture], model, model.fc_score, lambda seen, _: seen.mean(1))
            for case, picture in pictures.items()
        ]
        scores = torch.cat([tensors["out.score.0"] for tensors in cases])


def by_formula(folder: Path, model: nn.Module, random: Generator, config: dict, gain: float) -> Path:
    """Fills the model with generated weights and writes their formula."""
    seed = new_seed(random)
    # Window masks are stored with the weights but are not weights.
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not name.endswith("attn_mask")
    }
    formula.fill(tensors, seed, gain)
    return bundle.weights(folder, config, "model", tensors, seed, gain)


def judged(
    folder: Path,
    kind: str,
    weights: Path,
    pictures: list[numpy.ndarray],
    model: nn.Module,
    part: nn.Module,
    features_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """A case with each picture's score and features: the input and output of a part of the model."""
    features = []
    hook = part.register_forward_hook(lambda _, inputs, output: features.append(features_of(inputs[0], output)))
    tensors = {}
    for i, picture in enumerate(pictures):
        # As torchvision reads a PNG file.
        score = model(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
        tensors[f"in.image.{i}"] = torch.from_numpy(picture)
        tensors[f"out.features.{i}"] = features.pop()
        tensors[f"out.score.{i}"] = score.flatten()
    hook.remove()
    source = f"pyiqa {version('pyiqa')} {type(model).__name__}, torch {version('torch')}, float32 CPU"
    bundle.case(folder, kind, tensors, weights, source=source)
    return tensors


def cut(random: Generator, least: int, most: int) -> numpy.ndarray:
    """A part of a photograph, 8-bit `[height, width, 3]`."""
    photograph = getattr(skimage.data, choice(random, *PHOTOGRAPHS))()
    height, width = (whole(random, least, min(most, side)) for side in photograph.shape[:2])
    top, left = (whole(random, 0, side - part) for side, part in zip(photograph.shape, (height, width)))
    return photograph[top : top + height, left : left + width].copy()
