"""Stable Diffusion's published configurations, and cases of their full size with generated weights."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from numpy.random import Generator
from transformers import CLIPTextConfig, CLIPTextModel

import bundle
import denoiser
import encoders
import formula
from bundle import new_seed, normal, picture, timed
from denoiser import spire_diffusers

UNET = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "sample_size": 512,
}
TEXT = {
    "sd15": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
    "sd21": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "projection_dim": 512,
        "hidden_act": "gelu",
    },
}
START, END, PADDING = 49406, 49407, {"sd15": 49407, "sd21": 0}


def text_config(model: str) -> CLIPTextConfig:
    return CLIPTextConfig(**TEXT[model], vocab_size=49408, max_position_embeddings=77, bos_token_id=0, eos_token_id=2)


def build(model: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """A network without buffers, filled by the formula."""
    built = formula.unfilled(model)
    formula.fill(built.state_dict(), seed)
    return built


def checked(outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Checks that outputs neither vanish nor explode: comparing them would be meaningless."""
    for name, tensor in outputs.items():
        largest = tensor.abs().max().item()
        print(f"  {name}: {list(tensor.shape)}, std {tensor.float().std():.3g}, largest {largest:.3g}")
        assert 1e-3 < largest < 1e3, name
    return outputs


def save(folder: Path, model, seed: int) -> Path:
    return bundle.weights(folder, model.to_json_string().rstrip(), denoiser.STEM, model.state_dict(), seed)


def draw_inputs(random: Generator, width: int) -> dict[str, torch.Tensor]:
    """The latent of a picture of 512 by 512, and a prompt with the text encoder's number of tokens."""
    return {
        "sample": normal(random, 1, 4, 64, 64),
        "timestep": torch.from_numpy(random.integers(1000, size=1)),
        "context": normal(random, 1, 77, width),
    }


def unet(out: Path, random: Generator, model: str) -> None:
    seed = new_seed(random)
    network = build(lambda: UNet2DConditionModel(**UNET[model]), seed)
    given = draw_inputs(random, network.config.cross_attention_dim)
    output, seconds = timed(lambda: network(*given.values()).sample)
    weights = save(out / "unet", network, seed)
    denoiser.write(out / "case-unet", "unet", given, checked({"sample": output}), weights, **seconds)


def spire(out: Path, random: Generator, model: str) -> None:
    seeds = new_seed(random), new_seed(random)
    base = build(lambda: UNet2DConditionModel(**UNET[model]), seeds[0])
    with torch.device("meta"):
        config = json.loads(ControlNetModel.from_unet(base, load_weights_from_unet=False).to_json_string())
    config |= {"_class_name": "SpireControl", "fusion": "modulate_skip", "condition_channels": 4}
    branch = build(lambda: spire_diffusers.SpireControl(config), seeds[1])
    given = draw_inputs(random, base.config.cross_attention_dim)
    given["semantic_context"] = given.pop("context")
    given["restoration_context"] = normal(random, *given["semantic_context"].shape)
    given["degraded"] = picture(random, 1, 3, 512, 512)
    outputs, seconds = timed(lambda: {"sample": spire_diffusers.predict(base, branch, *given.values())})
    save(out / "spire" / "unet", base, seeds[0])
    bundle.weights(out / "spire" / "control", config, denoiser.STEM, branch.state_dict(), seeds[1])
    denoiser.write(out / "case-spire", "spire", given, checked(outputs), out / "spire", **seconds)


def vae(out: Path, random: Generator, model: str) -> None:
    seed = new_seed(random)
    network = build(lambda: AutoencoderKL(**VAE), seed)
    image, latent = picture(random, 1, 3, 512, 512), normal(random, 1, 4, 64, 64)
    posterior, encode_seconds = timed(lambda: network.encode(image).latent_dist)
    decoded, decode_seconds = timed(lambda: network.decode(latent).sample)
    denoiser.write(
        out / "case-vae",
        "vae",
        {"image": image, "latent": latent},
        checked({"mean": posterior.mean, "logvar": posterior.logvar, "image": decoded}),
        save(out / "vae", network, seed),
        **{key: round(encode_seconds[key] + decode_seconds[key], 3) for key in encode_seconds},
        **{f"{key}_encode": value for key, value in encode_seconds.items()},
        **{f"{key}_decode": value for key, value in decode_seconds.items()},
    )


def clip_text(out: Path, random: Generator, model: str) -> None:
    seed = new_seed(random)
    network = CLIPTextModel(text_config(model)).eval()
    weights = encoders.state_dict(network)
    formula.fill(weights, seed)
    ids = encoders.texts(random, 77, 2, START, START, END, PADDING[model])
    tensors, seconds = timed(lambda: encoders.run_text(network, ids))
    checked({name: tensor for name, tensor in tensors.items() if name.startswith("out.")})
    folder = encoders.save(out / "text_encoder", network, weights, seed)
    bundle.case(out / "case-clip-text", "clip-text", tensors, folder, **seconds)
