"""Cases of StableSR: its official code on small networks and on those of its published sizes, with weights by formula."""

import functools
import importlib.machinery
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import numpy
import torch
from torch import nn

import bundle
import formula
import official
import restoration
from diffbir_cases import SIDE, SMALL_SIDE, TOKENS, UNET, VAE, weights_by_formula

BETAS = dict(linear_start=0.00085, linear_end=0.0120)


def stablesr(out: Path, random: numpy.random.Generator) -> None:
    """The smallest networks of the official structure, with drawn settings."""
    code = load()
    context_width = bundle.whole(random, 3, 40)
    levels = dict(attention_resolutions=[2, 1])
    unet = dict(levels, model_channels=64, channel_mult=[1, 2, 2], context_dim=context_width, semb_channels=32)
    unet["num_res_blocks"] = bundle.whole(random, 1, 2)
    structure = dict(levels, model_channels=32, out_channels=32, channel_mult=[1, 1, 2])
    structure["num_res_blocks"] = bundle.whole(random, 1, 2)
    model, resampler = networks(code, unet, structure, dict(ch=32, ch_mult=[1, 1, 2, 2], num_res_blocks=1))
    fill(out / "stablesr", random, model, resampler)
    context = bundle.normal(random, 1, 7, context_width)
    settings = dict(
        steps=bundle.whole(random, 2, 4),
        decoder_weight=float(numpy.round(random.uniform(0.2, 1), 2)),
        colour_fix=bundle.choice(random, "adain", "wavelet"),
        tile=SMALL_SIDE,
        shortest_side=SMALL_SIDE,
    )
    tensors = parts(random, model, resampler, context, settings["decoder_weight"])
    sides = [bundle.whole(random, 44, 60), bundle.whole(random, 44, 60)]
    restored, seconds = whole(random, code, model, resampler, context, settings, sides, 1.5)
    write(out, "stablesr", tensors | restored, settings, seconds)


def published(out: Path, random: numpy.random.Generator) -> None:
    """The published sizes, on a picture of 128×128 that is enlarged to 512×512, in two steps."""
    code = load()
    structure = dict(model_channels=256, out_channels=256, channel_mult=[1, 1, 2, 2], num_res_blocks=2)
    structure["attention_resolutions"] = UNET["attention_resolutions"]
    model, resampler = formula.unfilled(lambda: nn.ModuleList(networks(code, UNET | dict(semb_channels=256), structure, VAE)))
    fill(out / "stablesr-published", random, model, resampler)
    context = bundle.normal(random, 1, TOKENS, UNET["context_dim"])
    settings = dict(steps=2, decoder_weight=0.5, colour_fix="adain", tile=SIDE, shortest_side=SIDE)
    tensors = parts(random, model, resampler, context, settings["decoder_weight"])
    restored, seconds = whole(random, code, model, resampler, context, settings, [SIDE // 4, SIDE // 4], 4)
    write(out, "stablesr-published", tensors | restored, settings, seconds)


def fill(folder: Path, random: numpy.random.Generator, model, resampler) -> None:
    """Fills the networks, and writes them as the two published files."""
    base = {"model.diffusion_model": model.model.diffusion_model, "first_stage_model": model.first_stage_model}
    base |= {"structcond_stage_model": model.structcond_stage_model}
    tensors = {f"{part}.{name}": value for part, network in base.items() for name, value in network.named_parameters()}
    # The prompt's states are given, but a single file has a text encoder.
    tensors["cond_stage_model.unused"] = torch.zeros(1)
    weights_by_formula(folder / "base", random, tensors)
    weights_by_formula(folder / "decoder", random, dict(resampler.named_parameters()))


def write(out: Path, name: str, tensors: dict, settings: dict, seconds: dict) -> None:
    folder = out / f"case-{name}"
    source = f"IceClear/StableSR, torch {version('torch')}, float32 CPU"
    bundle.case(folder, "stablesr", tensors, weights=out / name, source=source, **seconds)
    (folder / "settings.json").write_text(json.dumps({"settings": settings}, indent=2) + "\n")


def parts(random: numpy.random.Generator, model, resampler, context: torch.Tensor, weight: float) -> dict:
    """The structure encoder, one pass of the UNet, and the decoder, each on its own."""
    side = SMALL_SIDE // 8
    latent, sample = bundle.normal(random, 1, 4, side, side), bundle.normal(random, 1, 4, side, side)
    timestep = torch.tensor([float(bundle.whole(random, 0, 999))])
    structure = model.structcond_stage_model(latent, timestep)
    denoised = model.apply_model(sample, timestep, context, structure)
    picture = bundle.picture(random, 1, 3, SMALL_SIDE, SMALL_SIDE)
    resampler.decoder.fusion_w = weight
    _, features = resampler.encode(picture)
    tensors = {"in.latent": latent, "in.sample": sample, "in.timestep": timestep, "in.picture": picture}
    tensors["in.context"] = context
    tensors |= {"out.sample": denoised, "out.decoded": resampler.decode(latent, features)}
    # By width in the official code.
    structure = sorted(structure.items(), key=lambda feature: -int(feature[0]))
    return tensors | {f"out.structure.{level}": feature for level, (_, feature) in enumerate(structure)}


def whole(
    random: numpy.random.Generator,
    code,
    model,
    resampler,
    context: torch.Tensor,
    settings: dict,
    sides: list[int],
    scale: float,
) -> tuple[dict, dict]:
    """A restoration of a picture of these sides by `scale`, as `sr_val_ddpm_text_T_vqganfin_oldcanvas_tile.py` makes it, and its
    times."""
    image = restoration.unit(random, 1, 3, *sides)
    sides = [int(side * scale) for side in sides]
    schedule(model, code, settings["steps"])
    padded = sides if all(side % 32 == 0 for side in sides) else [(side // 32 + 1) * 32 for side in sides]
    latent = (1, 4, *[side // 8 for side in padded])
    noises = [bundle.normal(random, *latent) for _ in range(settings["steps"] + 2)]
    restore = functools.partial(run, code, model, resampler, context, settings, image, sides, padded, noises)
    picture, seconds = bundle.timed(restore, runs=1)
    tensors = {f"in.noise.{i}": noise for i, noise in enumerate(noises)} | {"in.image": image, "out.image": picture}
    return tensors, seconds


def run(
    code,
    model,
    resampler,
    context: torch.Tensor,
    settings: dict,
    image: torch.Tensor,
    sides: list[int],
    padded: list[int],
    noises: list[torch.Tensor],
) -> torch.Tensor:
    """The script's computation: `image` enlarged to `sides`, extended to `padded`, and restored with this noise."""
    enlarged = nn.functional.interpolate(2 * image - 1, size=tuple(sides), mode="bicubic").clamp(-1, 1)
    down, right = padded[0] - sides[0], padded[1] - sides[1]
    enlarged = nn.functional.pad(enlarged, pad=(0, right, 0, down), mode="reflect")
    drawn = iter(noises)
    randn, randn_like = torch.randn, torch.randn_like
    torch.randn = torch.randn_like = lambda *_, **__: next(drawn)
    try:
        encoded = model.get_first_stage_encoding(model.first_stage_model.encode(enlarged))
        last = model.first_alphas[999]
        start = last.sqrt() * encoded + (1 - last).sqrt() * torch.randn_like(encoded)
        sample, _ = model.sample_canvas(
            cond=context,
            struct_cond=encoded,
            batch_size=1,
            timesteps=settings["steps"],
            time_replace=settings["steps"],
            x_T=start,
            return_intermediates=True,
            tile_size=settings["tile"] // 8,
            tile_overlap=settings["tile"] // 16,
            batch_size_sample=1,
            verbose=False,
        )
    finally:
        torch.randn, torch.randn_like = randn, randn_like
    assert next(drawn, None) is None, "the official code draws the noise in another order"
    _, features = resampler.encode(enlarged)
    picture = resampler.decode(sample / model.scale_factor, features)
    fix = {"adain": code.colours.adaptive_instance_normalization, "wavelet": code.colours.wavelet_reconstruction}
    picture = fix[settings["colour_fix"]](picture, enlarged)
    return ((picture + 1) / 2).clamp(0, 1)[..., : sides[0], : sides[1]]


def schedule(model, code, steps: int) -> None:
    """The script's schedule of `steps` steps."""
    model.register_schedule(given_betas=None, beta_schedule="linear", timesteps=1000, **BETAS)
    model.first_alphas = model.alphas_cumprod.clone()
    used = sorted(code.ddpm.space_timesteps(1000, [steps]))
    betas, last = [], 1.0
    for timestep in used:
        betas.append((1 - model.alphas_cumprod[timestep] / last).numpy())
        last = model.alphas_cumprod[timestep]
    model.register_schedule(given_betas=numpy.array(betas), timesteps=len(betas))
    model.num_timesteps, model.ori_timesteps = 1000, used


def load() -> types.SimpleNamespace:
    """The official modules. What they import for training is replaced by nothing."""
    root = official.folder / "StableSR"
    lightning = types.ModuleType("pytorch_lightning")
    lightning.LightningModule = nn.Module
    distributed = types.SimpleNamespace(rank_zero_only=lambda function: function)
    stubs = {"pytorch_lightning": lightning, "pytorch_lightning.utilities.distributed": distributed}
    unused = ["taming.modules.vqvae.quantize", "sklearn.decomposition", "matplotlib.pyplot", "basicsr.ops.dcn"]
    unused += ["basicsr.utils.img_process_util", "basicsr.data.transforms", "basicsr.data.degradations"]
    unused += ["basicsr.archs.stylegan2_arch", "ldm.models.diffusion.ddim"]
    stubs |= {name: MagicMock() for name in unused}
    # The packages of basicsr import everything; ldm is none for Python, which takes the module of that name beside this one.
    for package in ("ldm", "basicsr", "basicsr.archs", "basicsr.utils"):
        module = types.ModuleType(package)
        module.__path__ = [str(root / package.replace(".", "/"))]
        module.__spec__ = importlib.machinery.ModuleSpec(package, None, is_package=True)
        stubs[package] = module
    stubs["basicsr.utils"].__dict__.update(DiffJPEG=None, USMSharp=None, get_root_logger=None)
    for name in [name for name in stubs if not name.startswith("ldm.")]:
        for parent in [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]:
            stubs.setdefault(parent, MagicMock())
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        names = {"ddpm": "ldm.models.diffusion.ddpm", "colours": "scripts.wavelet_color_fix"}
        names |= {"unet": "ldm.modules.diffusionmodules.openaimodel", "vae": "ldm.models.autoencoder"}
        found = official.modules("StableSR", *names.values())
        return types.SimpleNamespace(**dict(zip(names, found)))
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def networks(code, unet_sizes: dict, structure_sizes: dict, vae_sizes: dict):
    """The official model and the autoencoder of its last step."""
    unet = code.unet.UNetModelDualcondV2(
        image_size=32,
        in_channels=4,
        out_channels=4,
        num_head_channels=64,
        use_spatial_transformer=True,
        use_linear_in_transformer=True,
        transformer_depth=1,
        legacy=False,
        use_checkpoint=False,
        **unet_sizes,
    )
    structure = code.unet.EncoderUNetModelWT(
        image_size=96,
        in_channels=4,
        num_heads=4,
        use_checkpoint=False,
        **structure_sizes,
    )
    vae = dict(
        double_z=True,
        z_channels=4,
        resolution=512,
        in_channels=3,
        out_ch=3,
        attn_resolutions=[],
        dropout=0.0,
        **vae_sizes,
    )
    # Without training's parts.
    loss = {"target": "torch.nn.Identity"}
    wrapper = module(code.ddpm.DiffusionWrapper, diffusion_model=unet, conditioning_key="crossattn")
    model = module(
        code.ddpm.LatentDiffusionSRTextWT,
        model=wrapper,
        structcond_stage_model=structure,
        first_stage_model=code.vae.AutoencoderKL(vae, loss, 4),
        parameterization="eps",
        v_posterior=0.0,
        num_timesteps_cond=1,
        clip_denoised=False,
        log_every_t=200,
        scale_factor=0.18215,
        channels=4,
        image_size=512,
        configs=types.SimpleNamespace(model=types.SimpleNamespace(params=types.SimpleNamespace(channels=4))),
    )
    return model.eval(), code.vae.AutoencoderKLResi(vae, loss, 4).eval()


def module(kind: type, **attributes) -> nn.Module:
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made
