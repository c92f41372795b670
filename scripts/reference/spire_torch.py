"""The modulated control branch in PyTorch, on diffusers' own blocks.

Its state dict has the names and shapes of the files that `spire train` writes. It shares no code with the Rust
implementation, so that their agreement is evidence.
"""

import inspect
import json
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from safetensors.torch import load_file
from torch import Tensor, nn


class SpireControl(nn.Module):
    """A control branch whose features scale and shift the frozen UNet's, from its `config.json`."""

    def __init__(self, config: dict):
        super().__init__()
        self.settings = config
        known = inspect.signature(ControlNetModel.__init__).parameters
        encoder = ControlNetModel(**{key: value for key, value in config.items() if key in known})
        condition_channels = config.get("condition_channels") or 4
        width = encoder.config.block_out_channels[0]
        self.swap_channels = encoder.config.controlnet_conditioning_channel_order == "bgr"
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(
            condition_channels,
            encoder.config.conditioning_channels,
            tuple(encoder.config.conditioning_embedding_out_channels),
        )
        self.conv_in = nn.Conv2d(encoder.config.in_channels + condition_channels, width, 3, padding=1)
        self.time_proj = encoder.time_proj
        self.time_embedding = encoder.time_embedding
        self.down_blocks = encoder.down_blocks
        self.mid_block = encoder.mid_block

        # diffusers has one zero convolution per skip, with the width of the skip.
        skips = [conv.out_channels for conv in encoder.controlnet_down_blocks]
        self.modulation_skip = nn.ModuleList(zero_conv(channels, 2 * channels) for channels in skips)
        inner = encoder.config.block_out_channels[-1]
        self.modulation_mid = zero_conv(inner, 2 * inner)
        self.modulation_up = None
        if config.get("fusion") == "modulate_skip_and_up":
            widths = decoder_widths(encoder.config)
            self.modulation_up = nn.ModuleList(zero_conv(c, 2 * up) for c, up in zip(skips, widths, strict=True))

    def embed(self, degraded: Tensor) -> Tensor:
        """e(y)."""
        return self.controlnet_cond_embedding(degraded.flip(1) if self.swap_channels else degraded)

    def forward(
        self, sample: Tensor, timestep: Tensor, restoration: Tensor, embedded: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """The features c_i, outermost first, and c_mid."""
        x = self.conv_in(torch.cat([sample, embedded], 1))
        return encode(self, x, embed_time(self, sample, timestep), restoration)


def zero_conv(before: int, after: int) -> nn.Conv2d:
    conv = nn.Conv2d(before, after, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def decoder_widths(config) -> list[int]:
    """Channels of the decoder feature that is concatenated with each skip, outermost first."""
    widths, before = [], config.block_out_channels[-1]
    for width in reversed(config.block_out_channels):
        for _ in range(config.layers_per_block + 1):
            widths.append(before)
            before = width
    return widths[::-1]


def load(control: Path, unet: Path) -> tuple[UNet2DConditionModel, nn.Module]:
    """The base UNet and a trained branch, in float32; with fusion `add` it is a plain ControlNet."""
    base = UNet2DConditionModel.from_pretrained(unet, dtype=torch.float32)
    return base.eval(), load_branch(control)


def load_branch(control: Path) -> nn.Module:
    config = json.loads((control / "config.json").read_text())
    if config["_class_name"] == "ControlNetModel":
        return ControlNetModel.from_pretrained(control, dtype=torch.float32).eval()
    branch = SpireControl(config)
    branch.load_state_dict(load_file(control / "diffusion_pytorch_model.safetensors"))
    return branch.eval()


def condition(control: nn.Module, picture: Tensor) -> Tensor:
    """A picture in [0, 1] in the range that the branch reads: a `SpireControl` without the key reads [-1, 1]."""
    symmetric = isinstance(control, SpireControl) and control.settings.get("conditioning_range", [-1, 1]) == [-1, 1]
    return 2 * picture - 1 if symmetric else picture


def predict(
    unet: UNet2DConditionModel,
    control: nn.Module,
    sample: Tensor,
    timestep: Tensor,
    semantic: Tensor,
    restoration: Tensor,
    degraded: Tensor,
) -> Tensor:
    """Noise or velocity: the UNet reads the semantic prompt, the branch the restoration prompt and `degraded`, the picture
    in the range of `condition`."""
    if isinstance(control, ControlNetModel):
        down, mid = control(sample, timestep, restoration, degraded, return_dict=False)
        return unet(
            sample,
            timestep,
            semantic,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
    return predict_halves(unet, control, sample, timestep, semantic, restoration, control.embed(degraded))


def predict_halves(
    unet: UNet2DConditionModel,
    control: SpireControl,
    sample: Tensor,
    timestep: Tensor,
    semantic: Tensor,
    restoration: Tensor,
    embedded: Tensor,
) -> Tensor:
    """For both guidance passes, stacked in `semantic` only; the branch, given e(y), computes once."""
    doubled = sample.repeat(len(semantic) // len(sample), 1, 1, 1)
    time = embed_time(unet, doubled, timestep)
    skips, x = encode(unet, unet.conv_in(doubled), time, semantic)
    features, mid = control(sample, timestep, restoration, embedded)
    x = modulate(x, control.modulation_mid, mid)
    skips = [modulate(skip, conv, c) for skip, conv, c in zip(skips, control.modulation_skip, features, strict=True)]
    up = [None] * len(skips)
    if control.modulation_up is not None:
        up = list(zip(control.modulation_up, features, strict=True))
    x = decode(unet, x, skips, up, time, semantic)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


def modulate(feature: Tensor, conv: nn.Conv2d, control: Tensor) -> Tensor:
    both = conv(control)
    scale, bias = both.repeat(len(feature) // len(both), 1, 1, 1).chunk(2, dim=1)
    return (1 + scale) * feature + bias


def embed_time(net: nn.Module, sample: Tensor, timestep: Tensor) -> Tensor:
    return net.time_embedding(net.time_proj(timestep.expand(len(sample))).to(sample.dtype))


def encode(net: nn.Module, x: Tensor, time: Tensor, context: Tensor) -> tuple[list[Tensor], Tensor]:
    """The skips and the output of the middle block, from the output of `conv_in`."""
    skips = [x]
    for block in net.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            x = resnet(x, time)
            if attention is not None:
                x = attention(x, context, return_dict=False)[0]
            skips.append(x)
        for downsampler in block.downsamplers or []:
            x = downsampler(x)
            skips.append(x)
    return skips, net.mid_block(x, time, encoder_hidden_states=context)


def decode(net: nn.Module, x: Tensor, skips: list[Tensor], up: list, time: Tensor, context: Tensor) -> Tensor:
    """The output of the decoder; `up` modulates the decoder feature that is concatenated with a skip."""
    skips, up = list(skips), list(up)
    for block in net.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            modulation = up.pop()
            if modulation is not None:
                x = modulate(x, *modulation)
            x = resnet(torch.cat([x, skips.pop()], 1), time)
            if attention is not None:
                x = attention(x, context, return_dict=False)[0]
        for upsampler in block.upsamplers or []:
            x = upsampler(x, skips[-1].shape[2:])
    return x
