"""Case `vae`: diffusers' AutoencoderKL."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from numpy.random import Generator

import bundle
import formula
from bundle import choice, new_seed, normal, picture, whole


def draw(random: Generator) -> AutoencoderKL:
    levels = whole(random, 2, 4)
    groups = choice(random, 2, 4, 8)
    model = AutoencoderKL(
        block_out_channels=[groups * whole(random, 2, 6) for _ in range(levels)],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=whole(random, 1, 2),
        latent_channels=choice(random, 4, 4, 8),
        norm_num_groups=groups,
        use_quant_conv=choice(random, True, True, False),
        use_post_quant_conv=choice(random, True, True, False),
        mid_block_add_attention=choice(random, True, True, False),
    ).eval()
    formula.fill(model.state_dict(), new_seed(random))
    return model


def vae(out: Path, random: Generator) -> None:
    for name in ("a", "b"):
        model = draw(random)
        batch = whole(random, 1, 3)
        image = picture(random, batch, 3, whole(random, 16, 70), whole(random, 16, 70))
        latent = normal(random, batch, model.config.latent_channels, whole(random, 2, 9), whole(random, 2, 9))
        weights = bundle.weights(
            out / f"vae-{name}", model.to_json_string().rstrip(), "diffusion_pytorch_model", model.state_dict()
        )
        bundle.case(out / f"case-vae-{name}", "vae", run(model, image, latent), weights)


def run(model: AutoencoderKL, image: torch.Tensor, latent: torch.Tensor) -> dict[str, torch.Tensor]:
    posterior = model.encode(image).latent_dist
    return {
        "in.image": image,
        "in.latent": latent,
        "out.mean": posterior.mean,
        "out.logvar": posterior.logvar,
        "out.image": model.decode(latent).sample,
    }
