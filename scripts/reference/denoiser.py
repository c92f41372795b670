"""Cases `unet`, `controlled-unet`, `controlnet` and `spire`: diffusers' networks, and this project's branch with them."""

import json
import sys
from math import lcm
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from numpy.random import Generator

import bundle
import formula
from bundle import choice, new_seed, normal, picture, whole

sys.path.append(str(Path(__file__).parents[1]))
import spire_diffusers  # noqa: E402

STEM = "diffusion_pytorch_model"


def draw_unet(random: Generator, linear: bool) -> UNet2DConditionModel:
    """A small UNet like Stable Diffusion's; `linear` as in 2.x, with a different number of heads per level."""
    levels = whole(random, 2, 4)
    groups = choice(random, 2, 4, 8)
    # Normalising few channels amplifies rounding: float32 would exceed the tolerance.
    unit = lcm(groups, 8)
    cross = [choice(random, True, True, False) for _ in range(levels)]
    heads = [choice(random, 1, 2, 4) for _ in range(levels)]
    transformers = [whole(random, 1, 2) for _ in range(levels)]
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[unit * whole(random, 2, 5) for _ in range(levels)],
        down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
        up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(cross)],
        layers_per_block=whole(random, 1, 2),
        attention_head_dim=heads if linear else heads[0],
        transformer_layers_per_block=transformers if choice(random, True, False) else 1,
        cross_attention_dim=4 * whole(random, 3, 10),
        use_linear_projection=linear,
        norm_num_groups=groups,
        norm_eps=choice(random, 1e-5, 1e-6),
        flip_sin_to_cos=choice(random, True, False),
        freq_shift=choice(random, 0, 1),
        downsample_padding=choice(random, 1, 1, 0),
        mid_block_scale_factor=choice(random, 1.0, 2**0.5),
    ).eval()
    formula.fill(unet.state_dict(), new_seed(random))
    return unet


def draw_branch(random: Generator, unet: UNet2DConditionModel, levels: int | None = None) -> ControlNetModel:
    """`levels` of e(y)'s convolutions; by default any number."""
    branch = ControlNetModel.from_unet(
        unet,
        controlnet_conditioning_channel_order=choice(random, "rgb", "bgr"),
        conditioning_embedding_out_channels=[whole(random, 2, 12) for _ in range(levels or whole(random, 3, 5))],
        load_weights_from_unet=False,
    ).eval()
    formula.fill(branch.state_dict(), new_seed(random))
    return branch


def save(folder: Path, model) -> Path:
    return bundle.weights(folder, model.to_json_string().rstrip(), STEM, model.state_dict())


def inputs(random: Generator, channels: int = 4) -> dict[str, torch.Tensor]:
    """A noisy latent of any size with `channels`, and one timestep for all of the batch or one each."""
    batch, height, width = whole(random, 1, 3), whole(random, 8, 19), whole(random, 8, 19)
    times = random.integers(1000, size=choice(random, 1, batch))
    return {"sample": normal(random, batch, channels, height, width), "timestep": torch.from_numpy(times)}


def prompt(random: Generator, unet: UNet2DConditionModel, sample: torch.Tensor) -> torch.Tensor:
    return normal(random, len(sample), whole(random, 1, 20), unet.config.cross_attention_dim)


def degraded(random: Generator, config: dict, sample: torch.Tensor) -> torch.Tensor:
    """A picture of the size that the embedding reduces to the latent's: every stage but the first halves it."""
    scale = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    batch, _, height, width = sample.shape
    return picture(random, batch, 3, scale * height, scale * width)


def write(folder: Path, kind: str, given: dict, outputs: dict, weights: Path, **more) -> None:
    tensors = {f"in.{name}": tensor for name, tensor in given.items()}
    tensors |= {f"out.{name}": tensor for name, tensor in outputs.items()}
    bundle.case(folder, kind, tensors, weights, **more)


def unet(out: Path, random: Generator) -> None:
    for name in ("conv", "linear"):
        model = draw_unet(random, name == "linear")
        given = inputs(random)
        given["context"] = prompt(random, model, given["sample"])
        sample = model(given["sample"], given["timestep"], given["context"]).sample
        write(out / f"case-unet-{name}", "unet", given, {"sample": sample}, save(out / f"unet-{name}", model))


def controlnet(out: Path, random: Generator) -> None:
    """Both `controlnet` and, with its residuals, `controlled-unet`."""
    for name in ("conv", "linear"):
        model = draw_unet(random, name == "linear")
        branch = draw_branch(random, model)
        given = inputs(random)
        sample, timestep = given["sample"], given["timestep"]
        restoration, semantic = prompt(random, model, sample), prompt(random, model, sample)
        condition = degraded(random, branch.config, sample)
        down, mid = branch(sample, timestep, restoration, condition, return_dict=False)
        down = {f"down.{i}": residual for i, residual in enumerate(down)} | {"mid": mid}
        write(
            out / f"case-controlnet-{name}",
            "controlnet",
            given | {"context": restoration, "condition": condition},
            down,
            save(out / f"controlnet-{name}", branch),
        )
        controlled = spire_diffusers.predict(model, branch, sample, timestep, semantic, restoration, condition)
        write(
            out / f"case-controlled-unet-{name}",
            "controlled-unet",
            given | {"context": semantic} | down,
            {"sample": controlled},
            save(out / f"controlled-unet-{name}", model),
        )


# The fusions as published, and those with the other conditioning.
BRANCHES = {
    "modulate_skip": {},
    "modulate_skip_and_up": {},
    "add": {},
    "add-concat": {"conditioning": "concat"},
    "modulate_skip-add": {"conditioning": "add"},
}


def spire(out: Path, random: Generator) -> None:
    for name, conditioning in BRANCHES.items():
        fusion = name.split("-")[0]
        base = draw_unet(random, choice(random, True, False))
        branch = draw_branch(random, base)
        config = json.loads(branch.to_json_string())
        given = spire_inputs(random, base, config)
        if name != "add":
            config |= {"_class_name": "SpireControl", "fusion": fusion, "condition_channels": whole(random, 1, 6)}
            config |= conditioning
            branch = spire_diffusers.SpireControl(config).eval()
            check_identity(base, branch, given)
            formula.fill(branch.state_dict(), new_seed(random))
        folder = out / f"spire-{name}"
        save(folder / "unet", base)
        bundle.weights(folder / "control", config, STEM, branch.state_dict())
        write(out / f"case-spire-{name}", "spire", given, spire_outputs(base, branch, given), folder)


def spire_inputs(random: Generator, base: UNet2DConditionModel, config: dict) -> dict[str, torch.Tensor]:
    given = inputs(random, base.config.in_channels)
    given["semantic_context"] = prompt(random, base, given["sample"])
    given["restoration_context"] = prompt(random, base, given["sample"])
    given["degraded"] = degraded(random, config, given["sample"])
    return given


def spire_outputs(base: UNet2DConditionModel, branch: torch.nn.Module, given: dict) -> dict[str, torch.Tensor]:
    outputs = {"sample": spire_diffusers.predict(base, branch, *given.values())}
    if isinstance(branch, spire_diffusers.SpireControl):
        embedded = branch.embed(given["degraded"])
        features, mid = branch(given["sample"], given["timestep"], given["restoration_context"], embedded)
        outputs |= {f"control.{i}": feature for i, feature in enumerate(features)} | {"control.mid": mid}
    return outputs


def check_identity(base: UNet2DConditionModel, branch: torch.nn.Module, given: dict) -> None:
    """A new branch changes nothing, so this compares the loops of `spire_diffusers` with diffusers' forward pass."""
    plain = base(given["sample"], given["timestep"], given["semantic_context"]).sample
    torch.testing.assert_close(spire_diffusers.predict(base, branch, *given.values()), plain)
