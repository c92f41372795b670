"""Cases of networks that restore in one pass: the official code of SwinIR, BSRNet and SCUNet, on generated weights."""

import functools
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy
import torch
from torch import nn

import bundle
import formula
import official

# The published configurations by task; sizes are drawn.
SWINIR = {
    "classical": dict(upsampler="pixelshuffle", upscale=(2, 3, 4, 8)),
    "lightweight": dict(upsampler="pixelshuffledirect", upscale=(2, 3, 4)),
    "real": dict(upsampler="nearest+conv", upscale=(2, 4)),
    "real-large": dict(upsampler="nearest+conv", upscale=(4,), resi_connection="3conv"),
    "grey-denoising": dict(in_chans=1),
    "colour-denoising": dict(),
    "grey-jpeg": dict(in_chans=1, window_size=7, img_range=255.0),
    "colour-jpeg": dict(window_size=7, img_range=255.0),
}


def swinir(out: Path, random: numpy.random.Generator) -> None:
    for task, settings in SWINIR.items():
        network = official.module("SwinIR", "models.network_swinir").SwinIR
        settings = dict(window_size=8, upsampler="", upscale=(1,), in_chans=3) | settings
        scale = bundle.choice(random, *settings.pop("upscale"))
        window = settings["window_size"]
        network = network(upscale=scale, img_size=2 * window, **settings, **swin_sizes(random))
        sides = [bundle.whole(random, window // 2 + 1, 3 * window) for _ in range(2)]
        # The official script restores large pictures in tiles.
        tile = window * bundle.whole(random, 1, 2)
        padded = [(side // window + 1) * window for side in sides]
        tile = min(tile, *padded)
        overlap = bundle.whole(random, 1, tile - 1)
        image = unit(random, 1, settings["in_chans"], *sides)

        def tiled() -> torch.Tensor:
            script = official.module("SwinIR", "main_test_swinir")
            arguments = SimpleNamespace(tile=tile, tile_overlap=overlap, scale=scale)
            return script.test(mirrored(image, padded), network, arguments, window)[..., : sides[0] * scale, : sides[1] * scale]

        name = f"swinir-{task}"
        write(out, name, "swinir", network, random, image, "JingyunLiang/SwinIR", tiled, tile=tile, tile_overlap=overlap)
        # Checkpoints are pickles with the weights under one of these keys; the real-world models have averaged weights too.
        if task == "lightweight":
            pickled(out / name, {"params": dict(network.named_parameters())})
        elif task == "grey-denoising":
            other = {key: torch.zeros_like(value) for key, value in network.named_parameters()}
            pickled(out / name, {"params": other, "params_ema": dict(network.named_parameters())})

    # DiffBIR's first stage folds pixels into channels. Its code pads to windows of pixels, so the sides are multiples already.
    network = official.module("DiffBIR", "diffbir.model.swinir").SwinIR
    scale = bundle.choice(random, 2, 4, 8)
    network = network(
        upsampler="nearest+conv",
        sf=scale,
        unshuffle=True,
        unshuffle_scale=scale,
        img_size=16,
        window_size=8,
        in_chans=3,
        **swin_sizes(random),
    )
    image = unit(random, 1, 3, *[8 * scale * bundle.whole(random, 1, 2) for _ in range(2)])
    write(out, "swinir-folded", "swinir", network, random, image, "XPixelGroup/DiffBIR")


def bsrnet(out: Path, random: numpy.random.Generator) -> None:
    for scale in (2, 4):
        network = official.module("BSRGAN", "models.network_rrdbnet").RRDBNet
        width, blocks, growth = bundle.whole(random, 4, 16), bundle.whole(random, 1, 3), bundle.whole(random, 2, 8)
        network = network(nf=width, nb=blocks, gc=growth, sf=scale)
        image = unit(random, 1, 3, *[bundle.whole(random, 5, 24) for _ in range(2)])
        write(out, f"bsrnet-{scale}", "bsrnet", network, random, image, "cszn/BSRGAN")


def scunet(out: Path, random: numpy.random.Generator) -> None:
    for name, channels in (("grey", 1), ("colour", 3)):
        network = official.module("SCUNet", "models.network_scunet").SCUNet
        depths = [bundle.whole(random, 1, 3) for _ in range(7)]
        network = network(in_nc=channels, config=depths, dim=64)
        image = unit(random, 1, channels, *[bundle.whole(random, 20, 100) for _ in range(2)])
        write(out, f"scunet-{name}", "scunet", network, random, image, "cszn/SCUNet")


def published_network(kind: str) -> nn.Module:
    """SwinIR for real-world pictures (medium and large), BSRNet or SCUNet at its published size."""
    if kind == "bsrnet":
        return official.module("BSRGAN", "models.network_rrdbnet").RRDBNet(nf=64, nb=23, gc=32, sf=4)
    if kind == "scunet":
        return official.module("SCUNet", "models.network_scunet").SCUNet(in_nc=3, config=[4] * 7, dim=64)
    large = dict(embed_dim=240, depths=[6] * 9, num_heads=[8] * 9, resi_connection="3conv")
    medium = dict(embed_dim=180, depths=[6] * 6, num_heads=[6] * 6, resi_connection="1conv")
    return official.module("SwinIR", "models.network_swinir").SwinIR(
        img_size=64, window_size=8, mlp_ratio=2, upscale=4, upsampler="nearest+conv", **(large if kind == "swinir-large" else medium)
    )


def published(out: Path, random: numpy.random.Generator, kind: str) -> None:
    """The published sizes, on a small picture."""
    network = published_network(kind)
    side = 128 if kind == "scunet" else 64
    repository = {"bsrnet": "cszn/BSRGAN", "scunet": "cszn/SCUNet"}.get(kind, "JingyunLiang/SwinIR")
    image = unit(random, 1, 3, side, side)
    write(out, f"{kind}-published", kind.removesuffix("-large"), network, random, image, repository)


PUBLISHED = {
    kind: functools.partial(published, kind=kind) for kind in ("swinir", "swinir-large", "bsrnet", "scunet")
}


def pickled(folder: Path, checkpoint: dict) -> None:
    """Replaces the formula by a checkpoint in the form in which it is published."""
    (folder / "model.formula.json").unlink()
    torch.save(checkpoint, folder / "pytorch_model.bin")


def swin_sizes(random: numpy.random.Generator) -> dict:
    layers, heads = bundle.whole(random, 1, 2), bundle.whole(random, 1, 3)
    return dict(
        # The large model's middle has a quarter of the width.
        embed_dim=4 * heads * bundle.whole(random, 1, 3),
        depths=[bundle.whole(random, 1, 3) for _ in range(layers)],
        num_heads=[heads] * layers,
        mlp_ratio=2,
    )


def mirrored(image: torch.Tensor, padded: list[int]) -> torch.Tensor:
    image = torch.cat([image, torch.flip(image, [2])], 2)[:, :, : padded[0], :]
    return torch.cat([image, torch.flip(image, [3])], 3)[:, :, :, : padded[1]]


def unit(random: numpy.random.Generator, *shape: int) -> torch.Tensor:
    """Independent values in [0, 1)."""
    return torch.from_numpy(random.uniform(0, 1, shape).astype(numpy.float32))


def write(
    out: Path,
    name: str,
    kind: str,
    network: nn.Module,
    random: numpy.random.Generator,
    image: torch.Tensor,
    repository: str,
    tiled=None,
    **more,
) -> None:
    """Writes a case on weights by formula: `in.image`, `out.image` and, with `tiled`, `out.tiled`."""
    seed = bundle.new_seed(random)
    parameters = dict(network.eval().named_parameters())
    formula.fill(parameters, seed)
    weights = out / name
    weights.mkdir(parents=True, exist_ok=True)
    formula.save(weights / "model.formula.json", {name: tensor.shape for name, tensor in parameters.items()}, seed)
    restored, seconds = bundle.timed(lambda: network(image))
    tensors = {"in.image": image, "out.image": restored}
    if tiled is not None:
        tensors["out.tiled"] = tiled()
    source = f"{repository}, torch {version('torch')}, float32 CPU"
    bundle.case(out / f"case-{name}", kind, tensors, weights=weights, source=source, **more, **seconds)
