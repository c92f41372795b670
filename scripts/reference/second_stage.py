"""Cases of DiffBIR's second stage: its official code on small networks with weights by formula."""

import contextlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy
import torch

import bundle
import formula
import official

# Pictures are not sampled in tiles here.
UNTILED = dict(
    vae_encoder_tiled=False,
    vae_encoder_tile_size=256,
    vae_decoder_tiled=False,
    vae_decoder_tile_size=256,
    cldm_tiled=False,
    cldm_tile_size=512,
    cldm_tile_stride=256,
)
# Settings of other samplers.
UNUSED = dict(s_churn=0, s_tmin=0, s_tmax=300, s_noise=1, eta=1, order=1)


def diffbir(out: Path, random: numpy.random.Generator) -> None:
    code = official.module("DiffBIR", "diffbir.pipeline")
    # It measures a GPU's memory.
    code.VRAMPeakMonitor = lambda _: contextlib.nullcontext()
    for name, start in (("1", "noise"), ("2", "cond"), ("2.1", "noise")):
        case(out, code, random, name, start)


def case(out: Path, code, random: numpy.random.Generator, name: str, start: str) -> None:
    context_width = bundle.whole(random, 3, 40)
    cldm = networks(code, random, context_width)
    weights = out / f"diffbir-{name}"
    fill(weights, random, cldm)
    beta = dict(linear_start=0.00085, linear_end=0.0120, timesteps=1000)
    newest = name == "2.1"
    diffusion = code.Diffusion(**beta, **(dict(zero_snr=True, parameterization="v") if newest else {}))

    # Odd sides are padded.
    sides = [bundle.whole(random, 40, 64), 64 + bundle.whole(random, 1, 20)]
    condition = torch.from_numpy(random.uniform(0, 1, (1, 3, *sides)).astype(numpy.float32))
    states = {prompt: bundle.normal(random, 1, 7, context_width) for prompt in ("prompt", "negative")}
    cldm.clip.encode = lambda prompts: states[prompts[0]]
    settings = dict(
        steps=bundle.whole(random, 2, 4),
        guidance_scale=float(numpy.round(random.uniform(2, 5), 2)),
        rescale_guidance=newest,
        strength=float(numpy.round(random.uniform(0.5, 1.2), 2)),
        start_point=start,
        noise_augmentation=bundle.whole(random, 1, 999) if start == "cond" else 0,
    )
    latent = (1, 4, 8, 16)
    noises = [bundle.normal(random, *latent) for _ in range(settings["steps"] + 1 + (start == "cond"))]
    tensors = {f"in.noise.{i}": noise for i, noise in enumerate(noises)}
    pipeline = code.Pipeline(None, cldm, diffusion, None, "cpu")
    drawn = iter(noises)
    randn, randn_like = torch.randn, torch.randn_like
    torch.randn = torch.randn_like = lambda *_, **__: next(drawn)
    try:
        sample = pipeline.apply_cldm(
            condition,
            steps=settings["steps"],
            strength=settings["strength"],
            pos_prompt="prompt",
            neg_prompt="negative",
            cfg_scale=settings["guidance_scale"],
            start_point_type=start,
            sampler_type="spaced",
            noise_aug=settings["noise_augmentation"],
            rescale_cfg=settings["rescale_guidance"],
            **UNTILED,
            **UNUSED,
        )
    finally:
        torch.randn, torch.randn_like = randn, randn_like
    assert next(drawn, None) is None, "the official code draws the noise in another order"
    restored = code.wavelet_reconstruction((sample + 1) / 2, condition).clamp(0, 1)

    tensors |= {"in.condition": condition, "in.prompt": states["prompt"], "in.negative": states["negative"]}
    tensors |= {"in.sample": bundle.normal(random, *latent), "in.hint": bundle.normal(random, *latent)}
    tensors["in.timestep"] = torch.tensor([float(bundle.whole(random, 0, 999))])
    features = cldm.controlnet(tensors["in.sample"], tensors["in.hint"], tensors["in.timestep"], states["prompt"])
    tensors |= {f"out.control.{i}": feature for i, feature in enumerate(features)}
    tensors["out.image"] = restored

    folder = out / f"case-diffbir-{name}"
    source = f"XPixelGroup/DiffBIR, torch {version('torch')}, float32 CPU"
    bundle.case(folder, "diffbir", tensors, weights=weights, source=source)
    (folder / "settings.json").write_text(json.dumps({"version": name, "settings": settings}, indent=2) + "\n")


def networks(code, random: numpy.random.Generator, context_width: int):
    """The smallest networks of the official structure: 64 channels a head, 32 groups of channels."""
    unet = dict(
        image_size=32,
        in_channels=4,
        model_channels=64,
        attention_resolutions=[2, 1],
        num_res_blocks=bundle.whole(random, 1, 2),
        channel_mult=[1, 2, 2],
        num_head_channels=64,
        use_spatial_transformer=True,
        use_linear_in_transformer=True,
        transformer_depth=1,
        context_dim=context_width,
        legacy=False,
    )
    vae = dict(
        double_z=True,
        z_channels=4,
        resolution=256,
        in_channels=3,
        out_ch=3,
        ch=32,
        ch_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        attn_resolutions=[],
        dropout=0.0,
    )
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
