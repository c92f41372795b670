"""Maps names and shapes of diffusers' folders to those of Stable Diffusion's original single files (LDM's layout)."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler

Shape = tuple[int, ...]
PREFIX = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


class Source(NamedTuple):
    """Where a tensor of a folder is in the single file: the `part`th of `parts` equal ranges of rows."""

    name: str
    part: int = 0
    parts: int = 1


@dataclass
class Layout:
    """`shapes` of the single file, and for each part of the folder the `sources` of its tensors."""

    shapes: dict[str, Shape]
    sources: dict[str, dict[str, Source]]


def layout(shapes: dict[str, dict[str, Shape]], layers_per_block: int, open_clip: bool) -> Layout:
    """From the shapes of `unet`, `vae` and `text_encoder`."""
    sources = {
        "unet": {name: unet_source(name, shapes["unet"], layers_per_block) for name in shapes["unet"]},
        "vae": {name: vae_source(name, shapes["vae"]) for name in shapes["vae"]},
        "text_encoder": {name: text_source(name, open_clip) for name in shapes["text_encoder"]},
    }
    single = {}
    for part, names in sources.items():
        for name, source in names.items():
            rows, *rest = shapes[part][name]
            # The original autoencoder's attention projects by 1x1 convolutions, diffusers' by linear layers.
            kernel = [1, 1] if part == "vae" and ".attn_1." in source.name and rest else []
            single[source.name] = (rows * source.parts, *rest, *kernel)
    return Layout(single | (open_clip_extra(single) if open_clip else {}), sources)


def unet_source(name: str, shapes: dict[str, Shape], layers: int) -> Source:
    module, leaf = name.rsplit(".", 1)
    if module in UNET_ENDS:
        return Source(f"{PREFIX['unet']}{UNET_ENDS[module]}.{leaf}")
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, index, rest = match.groups()
        block = "middle_block.1" if kind == "attentions" else f"middle_block.{2 * int(index)}"
    else:
        side, level, kind, index, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name).groups()
        # LDM numbers blocks across all levels, diffusers within each level; 0 is the first convolution.
        first = int(level) * (layers + 1) + (side == "down")
        if kind == "downsamplers":
            return Source(f"{PREFIX['unet']}input_blocks.{first + layers}.0.op.{leaf}")
        if kind == "upsamplers":
            attention = any(other.startswith(f"up_blocks.{level}.attentions.") for other in shapes)
            return Source(f"{PREFIX['unet']}output_blocks.{first + layers}.{1 + attention}.conv.{leaf}")
        block = f"{'input' if side == 'down' else 'output'}_blocks.{first + int(index)}.{int(kind == 'attentions')}"
    if kind == "resnets":
        layer = rest.removesuffix(f".{leaf}")
        rest = f"{RESNET[layer]}.{leaf}"
    return Source(f"{PREFIX['unet']}{block}.{rest}")


def vae_source(name: str, shapes: dict[str, Shape]) -> Source:
    levels = len({other.split(".")[2] for other in shapes if other.startswith("decoder.up_blocks.")})
    rules = (
        (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        # LDM counts the decoder's levels from the outermost.
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample"),
        (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_(\w)", r"mid.attn_1.\1"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
    )
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return Source(PREFIX["vae"] + name)


def text_source(name: str, open_clip: bool) -> Source:
    """SD 1 keeps transformers' names; SD 2 has OpenCLIP's, where queries, keys and values are one matrix."""
    if not open_clip:
        return Source(f"cond_stage_model.transformer.{name}")
    prefix = "cond_stage_model.model."
    if match := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name):
        layer, module, leaf = match.groups()
        block = f"{prefix}transformer.resblocks.{layer}"
        if projection := re.fullmatch(r"self_attn\.([qkv])_proj", module):
            return Source(f"{block}.attn.in_proj_{leaf}", "qkv".index(projection[1]), 3)
        return Source(f"{block}.{OPEN_CLIP_LAYER[module]}.{leaf}")
    name = name.removeprefix("text_model.").replace("final_layer_norm", "ln_final")
    name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
    return Source(prefix + name.replace("embeddings.", ""))


def open_clip_extra(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """SD 2 uses the penultimate layer: its files have one more layer than folders, and the parts after it."""
    layer = r"cond_stage_model\.model\.transformer\.resblocks\.(\d+)\."
    layers = 1 + max(int(match[1]) for name in shapes if (match := re.match(layer, name)))
    last = f"resblocks.{layers - 1}."
    extra = {name.replace(last, f"resblocks.{layers}."): shape for name, shape in shapes.items() if last in name}
    width = shapes["cond_stage_model.model.ln_final.weight"][0]
    return extra | {"cond_stage_model.model.text_projection": (width, width), "cond_stage_model.model.logit_scale": ()}


def buffers(open_clip: bool, positions: int) -> dict[str, torch.Tensor]:
    """Other tensors of the original files: the noise schedule, counters and position ids."""
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    betas, a = scheduler.betas, scheduler.alphas_cumprod
    before = torch.cat([torch.ones(1), a[:-1]])
    variance = betas * (1 - before) / (1 - a)
    tensors = {
        "betas": betas,
        "alphas_cumprod": a,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": a.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - a).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - a).log(),
        "sqrt_recip_alphas_cumprod": (1 / a).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / a - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - a),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - a),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(0, dtype=torch.int32),
    }
    if open_clip:
        mask = torch.full((positions, positions), float("-inf")).triu(1)
        return tensors | {"cond_stage_model.model.attn_mask": mask}
    ids = torch.arange(positions).unsqueeze(0)
    return tensors | {"cond_stage_model.transformer.text_model.embeddings.position_ids": ids}
