"""Counts floating-point operations with PyTorch's own counter, on diffusers' and transformers' networks.

    python flops.py > ../../tests/flops.json

Nothing is computed: the tensors are on PyTorch's "meta" device. Only convolutions and products of matrices count; a
multiply-add is two operations. Attention is written out, because the counter includes what fused kernels recompute.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import stable_diffusion
from denoiser import spire_diffusers

REFERENCE = Path(__file__).parents[2] / "tests" / "reference"
FUSIONS = ["modulate_skip", "modulate_skip_and_up", "add"]


def spelled_out(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    return network.requires_grad_(False)


def count(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def branch(unet: dict, fusion: str) -> nn.Module:
    base = UNet2DConditionModel.from_config(unet)
    settings = ControlNetModel.from_unet(base, load_weights_from_unet=False).config
    if fusion == "add":
        return ControlNetModel.from_config(settings)
    return spire_diffusers.SpireControl(dict(settings) | {"fusion": fusion, "condition_channels": 4})


def step(unet: dict, fusion: str, size: list[int], tokens: int) -> dict[str, int]:
    """A training step of one image: the branch is trained, the UNet is frozen."""
    base = spelled_out(UNet2DConditionModel.from_config(unet))
    control = spelled_out(branch(unet, fusion)).requires_grad_(True)
    context = torch.empty(1, tokens, base.config.cross_attention_dim)
    picture = torch.empty(1, 3, *(8 * side for side in size))
    outputs = []

    def forward() -> None:
        arguments = torch.empty(1, 4, *size), torch.empty(1), context, context, picture
        outputs.append(spire_diffusers.predict(base, control, *arguments))

    return {
        "parameters": sum(parameter.numel() for parameter in control.parameters()),
        "forward": count(forward),
        "backward": count(lambda: outputs[0].square().mean().backward()),
    }


def model(unet: dict, vae: dict, text: CLIPTextModel, size: list[int]) -> dict:
    """Per image or text; `size` is the latent's."""
    base = spelled_out(UNet2DConditionModel.from_config(unet))
    autoencoder = spelled_out(AutoencoderKL.from_config(vae))
    tokens = text.config.max_position_embeddings
    ids = torch.zeros(1, tokens, dtype=torch.long)
    context = torch.empty(1, tokens, base.config.cross_attention_dim)
    latent, picture = torch.empty(1, 4, *size), torch.empty(1, 3, *(8 * side for side in size))
    return {
        "size": size,
        "text": count(lambda: text(ids)),
        "vae_encoder": count(lambda: autoencoder.encode(picture)),
        "vae_decoder": count(lambda: autoencoder.decode(latent)),
        "unet": count(lambda: base(latent, torch.empty(1), context)),
        "steps": {fusion: step(unet, fusion, size, tokens) for fusion in FUSIONS},
    }


def text_tower(network: type, config: CLIPTextConfig) -> nn.Module:
    config._attn_implementation = "eager"
    return network(config).eval().requires_grad_(False)


def settings(folder: str) -> dict:
    return json.loads((REFERENCE / folder / "config.json").read_text())


with torch.device("meta"):
    small = CLIPTextConfig(**settings("clip-text-gelu"))
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "sd1": model(
                    settings("sd1/unet"), settings("vae"), text_tower(CLIPTextModelWithProjection, small), [8, 12]
                ),
                "sd2": model(
                    settings("sd2/unet"), settings("vae"), text_tower(CLIPTextModelWithProjection, small), [12, 8]
                ),
                "sd15": model(
                    stable_diffusion.UNET["sd15"],
                    stable_diffusion.VAE,
                    text_tower(CLIPTextModel, stable_diffusion.text_config("sd15")),
                    [64, 64],
                ),
            },
            indent=2,
        )
    )
