"""Cases of DiffBIR, both stages: its official code on small networks and on those of version 1, with weights by formula."""

import contextlib
import functools
import json
from importlib.metadata import version
from pathlib import Path

import numpy
import torch

import bundle
import formula
import official
import restoration

# In one piece.
UNTILED = dict(
    vae_encoder_tiled=False,
    vae_encoder_tile_size=256,
    vae_decoder_tiled=False,
    vae_decoder_tile_size=256,
    cldm_tiled=False,
    cldm_tile_size=512,
    cldm_tile_stride=256,
)
BETAS = dict(linear_start=0.00085, linear_end=0.0120, timesteps=1000)
# Settings of other samplers.
UNUSED = dict(s_churn=0, s_tmin=0, s_tmax=300, s_noise=1, eta=1, order=1)

# The side to which the official code enlarges smaller pictures, and that in small cases.
SIDE, SMALL_SIDE = 512, 64

# Sizes of Stable Diffusion 2.1, of which StableSR is made too, and those of the first stage of version 1.
UNET = dict(model_channels=320, attention_resolutions=[4, 2, 1], num_res_blocks=2, channel_mult=[1, 2, 4, 4], context_dim=1024)
VAE = dict(ch=128, ch_mult=[1, 2, 4, 4], num_res_blocks=2)
TOKENS = 77
SWINIR = dict(embed_dim=180, depths=[6] * 8, num_heads=[6] * 8, mlp_ratio=2)


def diffbir(out: Path, random: numpy.random.Generator) -> None:
    code = load(SMALL_SIDE)
    for name, start in (("1", "noise"), ("2", "picture"), ("2-denoising", "noise"), ("2.1", "noise")):
        small(out, code, random, name, start)


def published(out: Path, random: numpy.random.Generator) -> None:
    """Version 1 at its published sizes, on a picture of 512×512, in two steps."""
    code = load(SIDE)
    cldm = formula.unfilled(lambda: networks(code, UNET, VAE))
    fill(out / "diffbir-published", random, cldm)
    cleaner = swinir(64, SWINIR)
    weights_by_formula(out / "diffbir-published" / "first_stage", random, dict(cleaner.named_parameters()))
    pipeline = code.SwinIRPipeline(cleaner, cldm, code.Diffusion(**BETAS), None, "cpu")
    image = restoration.unit(random, 1, 3, SIDE, SIDE)
    states = {prompt: bundle.normal(random, 1, TOKENS, UNET["context_dim"]) for prompt in ("prompt", "negative")}
    settings = dict(
        steps=2,
        guidance_scale=1.0,
        rescale_guidance=False,
        control_scale=1.0,
        start="noise",
        noise_augmentation=0,
        tile=0,
        shortest_side=SIDE,
    )
    case(out, code, random, "published", "1", "swinir", pipeline, image, states, settings)


def load(side: int):
    """The official pipelines, which enlarge smaller pictures to `side`."""
    code = official.module("DiffBIR", "diffbir.pipeline")
    # It measures a GPU's memory.
    code.VRAMPeakMonitor = lambda _: contextlib.nullcontext()
    resize = code.resize_short_edge_to
    code.resize_short_edge_to = lambda pictures, size: resize(pictures, size * side // SIDE)
    return code


def small(out: Path, code, random: numpy.random.Generator, name: str, start: str) -> None:
    """The smallest networks of the official structure, with drawn settings."""
    context_width = bundle.whole(random, 3, 40)
    unet = dict(model_channels=64, attention_resolutions=[2, 1], channel_mult=[1, 2, 2], context_dim=context_width)
    unet["num_res_blocks"] = bundle.whole(random, 1, 2)
    cldm = networks(code, unet, dict(ch=32, ch_mult=[1, 1, 2, 2], num_res_blocks=1))
    fill(out / f"diffbir-{name}", random, cldm)
    newest = name == "2.1"
    diffusion = code.Diffusion(**BETAS, **(dict(zero_snr=True, parameterization="v") if newest else {}))
    cleaner, kind, pipeline = first_stage(random, code, name)
    weights_by_formula(out / f"diffbir-{name}" / "first_stage", random, dict(cleaner.named_parameters()))

    # Smaller than the official code restores, and of odd sides: it is enlarged, and padded.
    sides = [bundle.whole(random, 20, 40), bundle.whole(random, 41, 59)]
    image = restoration.unit(random, 1, 3, *sides)
    scale = float(numpy.round(random.uniform(1, 1.5), 2)) if kind == "bsrnet" else 1.0
    pipeline = pipeline(cleaner, cldm, diffusion, None, "cpu", *([scale] if kind == "bsrnet" else []))

    states = {prompt: bundle.normal(random, 1, 7, context_width) for prompt in ("prompt", "negative")}
    settings = dict(
        steps=bundle.whole(random, 2, 4),
        guidance_scale=float(numpy.round(random.uniform(2, 5), 2)),
        rescale_guidance=newest,
        control_scale=float(numpy.round(random.uniform(0.5, 1.2), 2)),
        start=start,
        noise_augmentation=bundle.whole(random, 1, 999) if start == "picture" else 0,
        tile=SMALL_SIDE if newest else 0,
        shortest_side=SMALL_SIDE,
    )
    if start == "picture":
        settings["restoration_guidance"] = dict(scale=float(numpy.round(random.uniform(0.1, 0.4), 2)), repeat=2)
    case(out, code, random, name, name.removesuffix("-denoising"), kind, pipeline, image, states, settings)


def case(
    out: Path,
    code,
    random: numpy.random.Generator,
    name: str,
    release: str,
    kind: str,
    pipeline,
    image: torch.Tensor,
    states: dict[str, torch.Tensor],
    settings: dict,
) -> None:
    """Writes the case of a pipeline that has its weights, of a `release` with a first stage of a `kind`."""
    cldm, start = pipeline.cldm, settings["start"]
    pipeline.set_output_size(image.shape)
    condition, seconds = bundle.timed(lambda: pipeline.apply_cleaner(image, False, 512, 256), runs=1)
    cldm.clip.encode = lambda prompts: states[prompts[0]]
    tile = settings["tile"]
    tiled = dict(UNTILED, cldm_tiled=True, cldm_tile_size=tile, cldm_tile_stride=tile // 2)
    # Padded to multiples of 64 pixels, or of 8 in tiles.
    multiple = 8 if tile else 64
    latent = (1, 4, *[-(-side // multiple) * multiple // 8 for side in condition.shape[2:]])
    noises = [bundle.normal(random, *latent) for _ in range(settings["steps"] + 1 + (start == "picture"))]
    tensors = {f"in.noise.{i}": noise for i, noise in enumerate(noises)}
    drawn = iter(noises)
    randn, randn_like = torch.randn, torch.randn_like
    torch.randn = torch.randn_like = lambda *_, **__: next(drawn)
    sampler = code.SpacedSampler
    try:
        if "restoration_guidance" in settings:
            code.SpacedSampler = guided(code, cldm, **settings["restoration_guidance"])
            pipeline.cond_fn = code.SpacedSampler.guidance
        apply = functools.partial(
            pipeline.apply_cldm,
            condition,
            steps=settings["steps"],
            strength=settings["control_scale"],
            pos_prompt="prompt",
            neg_prompt="negative",
            cfg_scale=settings["guidance_scale"],
            start_point_type="cond" if start == "picture" else "noise",
            sampler_type="spaced",
            noise_aug=settings["noise_augmentation"],
            rescale_cfg=settings["rescale_guidance"],
            **(tiled if tile else UNTILED),
            **UNUSED,
        )
        sample, second = bundle.timed(apply, runs=1)
    finally:
        torch.randn, torch.randn_like = randn, randn_like
        code.SpacedSampler = sampler
    assert next(drawn, None) is None, "the official code draws the noise in another order"
    # The end of the official `run`, which refuses pictures as small as these.
    restored = code.wavelet_reconstruction((sample + 1) / 2, condition)
    restored = code.F.interpolate(restored, size=pipeline.output_size, mode="bicubic", antialias=True).clamp(0, 1)

    tensors |= {"in.image": image, "in.prompt": states["prompt"], "in.negative": states["negative"]}
    tensors |= {"in.sample": bundle.normal(random, *latent), "in.hint": bundle.normal(random, *latent)}
    tensors["in.timestep"] = torch.tensor([float(bundle.whole(random, 0, 999))])
    # A tile's size fits the network.
    part = [tensors[name][..., :8, :8] for name in ("in.sample", "in.hint")]
    features = cldm.controlnet(*part, tensors["in.timestep"], states["prompt"])
    tensors |= {"in.sample": part[0], "in.hint": part[1]}
    tensors |= {f"out.control.{i}": feature for i, feature in enumerate(features)}
    tensors |= {"out.condition": condition, "out.image": restored}

    folder = out / f"case-diffbir-{name}"
    source = f"XPixelGroup/DiffBIR, torch {version('torch')}, float32 CPU"
    seconds = {key: round(value + second[key], 3) for key, value in seconds.items()}
    bundle.case(folder, "diffbir", tensors, weights=out / f"diffbir-{name}", source=source, **seconds)
    described = {"version": release, "first_stage": kind, "settings": settings}
    (folder / "settings.json").write_text(json.dumps(described, indent=2) + "\n")


def guided(code, cldm, scale: float, repeat: int) -> type:
    """The official sampler with the official gradient of restoration guidance, applied as in the releases before version
    2.1; the present one only computes it."""
    guidance = official.module("DiffBIR", "diffbir.utils.cond_fn").WeightedMSEGuidance(scale, 1001, -1, "rgb", repeat)

    class Guided(code.SpacedSampler):
        def q_posterior_mean_variance(self, x_start, x_t, t):
            rescale = 1 / self.posterior_mean_coef1[t].view(-1, 1, 1, 1)
            for _ in range(repeat):
                with torch.enable_grad():
                    clean = x_start.detach().clone().requires_grad_(True)
                    decoded = cldm.vae_decode(clean)
                    delta, _ = guidance(guidance.target, decoded, 0)
                    decoded.backward(delta)
                x_start = x_start + clean.grad * rescale
            return super().q_posterior_mean_variance(x_start, x_t, t)

    Guided.guidance = guidance
    return Guided


def first_stage(random: numpy.random.Generator, code, name: str):
    """A small network for the first stage, its kind, and the official pipeline that has such a stage."""
    if name == "2":
        network = official.module("DiffBIR", "diffbir.model.bsrnet").RRDBNet(in_nc=3, out_nc=3, nf=8, nb=1, gc=4, sf=4)
        return network.eval(), "bsrnet", code.BSRNetPipeline
    if name == "2-denoising":
        network = official.module("DiffBIR", "diffbir.model.scunet").SCUNet(in_nc=3, config=[1] * 7, dim=64)
        return network.eval(), "scunet", code.SCUNetPipeline
    return swinir(16, restoration.swin_sizes(random)), "swinir", code.SwinIRPipeline


def swinir(image_size: int, sizes: dict):
    """The first stage of versions 1 and 2.1."""
    network = official.module("DiffBIR", "diffbir.model.swinir").SwinIR(
        upsampler="nearest+conv",
        sf=8,
        unshuffle=True,
        unshuffle_scale=8,
        img_size=image_size,
        window_size=8,
        in_chans=3,
        **sizes,
    )
    return network.eval()


def networks(code, unet_sizes: dict, vae_sizes: dict):
    """The networks of the second stage: 64 channels a head, 32 groups of channels."""
    unet = dict(
        image_size=32,
        in_channels=4,
        num_head_channels=64,
        use_spatial_transformer=True,
        use_linear_in_transformer=True,
        transformer_depth=1,
        legacy=False,
        **unet_sizes,
    )
    vae = dict(
        double_z=True,
        z_channels=4,
        resolution=256,
        in_channels=3,
        out_ch=3,
        attn_resolutions=[],
        dropout=0.0,
        **vae_sizes,
    )
    # The prompts' states are given.
    clip = dict(
        embed_dim=8,
        vision_cfg=dict(image_size=28, layers=1, width=8, head_width=8, patch_size=14),
        text_cfg=dict(context_length=7, vocab_size=9, width=8, heads=1, layers=2),
        layer="penultimate",
    )
    cldm = code.ControlLDM(
        unet_cfg=unet | dict(out_channels=4),
        vae_cfg=dict(embed_dim=4, ddconfig=vae),
        clip_cfg=clip,
        controlnet_cfg=unet | dict(hint_channels=4),
        latent_scale_factor=0.18215,
    )
    return cldm.eval()


def fill(folder: Path, random: numpy.random.Generator, cldm) -> None:
    """Fills the networks, and writes them as a single file of Stable Diffusion and a file of the control branch."""
    parts = {"model.diffusion_model": cldm.unet, "first_stage_model": cldm.vae}
    base = {f"{part}.{name}": value for part, network in parts.items() for name, value in network.named_parameters()}
    # The prompts' states are given, but a single file has a text encoder.
    base["cond_stage_model.unused"] = torch.zeros(1)
    weights_by_formula(folder / "base", random, base)
    weights_by_formula(folder / "control", random, dict(cldm.controlnet.named_parameters()))


def weights_by_formula(folder: Path, random: numpy.random.Generator, tensors: dict[str, torch.Tensor]) -> None:
    seed = bundle.new_seed(random)
    formula.fill(tensors, seed)
    folder.mkdir(parents=True, exist_ok=True)
    formula.save(folder / "model.formula.json", {name: tensor.shape for name, tensor in tensors.items()}, seed)
