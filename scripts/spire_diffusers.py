"""Restores pictures in Python: a branch that `spire train` trained, on diffusers' parts, on any device of PyTorch.

    from spire_diffusers import SpirePipeline

    pipe = SpirePipeline.from_pretrained("runs/tiny", torch_dtype=torch.float16).to("cuda")
    restored = pipe(image, "Deblur with sigma 3.0", prompt="a panda", generator=torch.manual_seed(0)).images[0]

or from a shell:

    python spire_diffusers.py degraded.png -o restored.png --run runs/tiny --semantic "a panda" \\
        --restoration "Deblur with sigma 3.0"

This file is all that is needed besides the packages diffusers, transformers and accelerate; copy it where you need it. Every
fusion and every routing of the two prompts works, and so does a public ControlNet. Pictures are restored as a whole: tiles,
colour correction and CLIP guidance are left to `spire restore`.
"""

import argparse
import inspect
import json
import tomllib
from pathlib import Path

import numpy
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

STEM = "diffusion_pytorch_model.safetensors"
# The samplers of `spire restore`.
SAMPLERS = {
    "ddim": (DDIMScheduler, {}),
    "dpm++2m": (DPMSolverMultistepScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "dpm++2m-sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
}


class SpireControl(nn.Module):
    """A control branch of this project, from its `config.json`: every fusion and conditioning but those of a ControlNet."""

    def __init__(self, config: dict):
        super().__init__()
        self.settings = config
        self.prompts = config.get("prompts", "decoupled")
        known = inspect.signature(ControlNetModel.__init__).parameters
        encoder = ControlNetModel(**{key: value for key, value in config.items() if key in known})
        self.fusion = config.get("fusion") or "modulate_skip"
        width = encoder.config.block_out_channels[0]
        # e(y) is added to the output of `conv_in`, or concatenated to its input.
        self.adds = (config.get("conditioning") or ("add" if self.fusion == "add" else "concat")) == "add"
        condition_channels = width if self.adds else config.get("condition_channels") or 4
        self.swap_channels = encoder.config.controlnet_conditioning_channel_order == "bgr"
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(
            condition_channels,
            encoder.config.conditioning_channels,
            tuple(encoder.config.conditioning_embedding_out_channels),
        )
        channels = encoder.config.in_channels + (0 if self.adds else condition_channels)
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.time_proj = encoder.time_proj
        self.time_embedding = encoder.time_embedding
        self.down_blocks = encoder.down_blocks
        self.mid_block = encoder.mid_block

        self.modulation_up = None
        if self.fusion == "add":
            self.controlnet_down_blocks = encoder.controlnet_down_blocks
            self.controlnet_mid_block = encoder.controlnet_mid_block
            return
        # diffusers has one zero convolution per skip, with the width of the skip.
        skips = [conv.out_channels for conv in encoder.controlnet_down_blocks]
        self.modulation_skip = nn.ModuleList(zero_conv(channels, 2 * channels) for channels in skips)
        inner = encoder.config.block_out_channels[-1]
        self.modulation_mid = zero_conv(inner, 2 * inner)
        if self.fusion == "modulate_skip_and_up":
            widths = decoder_widths(encoder.config)
            self.modulation_up = nn.ModuleList(zero_conv(c, 2 * up) for c, up in zip(skips, widths, strict=True))

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.conv_in.weight.device

    def embed(self, degraded: Tensor) -> Tensor:
        """e(y) of a picture in the range of `condition`."""
        return self.controlnet_cond_embedding(degraded.flip(1) if self.swap_channels else degraded)

    def forward(
        self, sample: Tensor, timestep: Tensor, restoration: Tensor, embedded: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """The features c_i, outermost first, and c_mid."""
        x = self.conv_in(sample) + embedded if self.adds else self.conv_in(torch.cat([sample, embedded], 1))
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
    """A trained branch or a public ControlNet, in float32. `branch.prompts` says which prompts it and the UNet read."""
    config = json.loads((control / "config.json").read_text())
    if config["_class_name"] == "ControlNetModel":
        branch = ControlNetModel.from_pretrained(control, dtype=torch.float32)
        branch.prompts = config.get("prompts", "decoupled")
    else:
        branch = SpireControl(config)
        branch.load_state_dict(load_file(control / STEM))
    return branch.eval()


def condition(control: nn.Module, picture: Tensor) -> Tensor:
    """A picture in [0, 1] in the range that the branch reads: a `SpireControl` without the key reads [-1, 1]."""
    symmetric = isinstance(control, SpireControl) and control.settings.get("conditioning_range", [-1, 1]) == [-1, 1]
    return 2 * picture - 1 if symmetric else picture


def route(prompts: str, semantic: Tensor, restoration: Tensor) -> tuple[Tensor, Tensor]:
    """The states that the UNet and the branch attend to; `semantic` has one set per guidance pass."""
    if prompts == "semantic":
        return semantic, semantic
    if prompts == "joined":
        both = torch.cat([semantic, repeated(restoration, len(semantic))], 1)
        return both, both
    return semantic, restoration


def predict(
    unet: UNet2DConditionModel,
    control: nn.Module,
    sample: Tensor,
    timestep: Tensor,
    semantic: Tensor,
    restoration: Tensor,
    degraded: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """Noise or velocity, for every guidance pass in `semantic`: `degraded` is the picture in the range of `condition`."""
    if isinstance(control, ControlNetModel):
        condition = degraded
    else:
        condition = control.embed(degraded)
    return predict_embedded(unet, control, sample, timestep, semantic, restoration, condition, scale)


def predict_embedded(
    unet: UNet2DConditionModel,
    control: nn.Module,
    sample: Tensor,
    timestep: Tensor,
    semantic: Tensor,
    restoration: Tensor,
    embedded: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """As `predict`, from e(y), which is the same in every step; of a ControlNet, from the picture. If the branch ignores
    the semantic prompt, it computes once for all guidance passes. With a `scale` of 0 the UNet predicts alone."""
    semantic, restoration = route(getattr(control, "prompts", "decoupled"), semantic, restoration)
    doubled = repeated(sample, len(semantic))
    if scale == 0:
        return unet(doubled, timestep, semantic, return_dict=False)[0]
    own = repeated(sample, len(restoration)), timestep, restoration, repeated(embedded, len(restoration))
    if isinstance(control, ControlNetModel):
        down, mid = control(*own, conditioning_scale=scale, return_dict=False)
        return unet(
            doubled,
            timestep,
            semantic,
            down_block_additional_residuals=[repeated(residual, len(semantic)) for residual in down],
            mid_block_additional_residual=repeated(mid, len(semantic)),
            return_dict=False,
        )[0]
    time = embed_time(unet, doubled, timestep)
    skips, x = encode(unet, unet.conv_in(doubled), time, semantic)
    features, mid = control(*own)
    up = [None] * len(skips)
    if control.fusion == "add":
        fuse, skip_convs, mid_conv = add, control.controlnet_down_blocks, control.controlnet_mid_block
    else:
        fuse, skip_convs, mid_conv = modulate, control.modulation_skip, control.modulation_mid
    x = fuse(x, mid_conv, mid, scale)
    skips = [fuse(skip, conv, c, scale) for skip, conv, c in zip(skips, skip_convs, features, strict=True)]
    if control.modulation_up is not None:
        up = list(zip(control.modulation_up, features, [scale] * len(skips), strict=True))
    x = decode(unet, x, skips, up, time, semantic)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


def repeated(x: Tensor, batch: int) -> Tensor:
    """`x` once per guidance pass of a batch."""
    return x.repeat(batch // len(x), *[1] * (x.dim() - 1))


def modulate(feature: Tensor, conv: nn.Conv2d, control: Tensor, strength: float = 1.0) -> Tensor:
    scale, bias = repeated(strength * conv(control), len(feature)).chunk(2, dim=1)
    return (1 + scale) * feature + bias


def add(feature: Tensor, conv: nn.Conv2d, control: Tensor, strength: float = 1.0) -> Tensor:
    return feature + repeated(strength * conv(control), len(feature))


def embed_time(net: nn.Module, sample: Tensor, timestep: Tensor) -> Tensor:
    return net.time_embedding(net.time_proj(repeated(timestep.reshape(-1), len(sample))).to(sample.dtype))


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


class SpirePipeline(DiffusionPipeline):
    """A text-to-image model with a trained branch. Change `scheduler` as that of any pipeline; at first it is the one that
    `model.toml` names, or DDIM."""

    model_cpu_offload_seq = "text_encoder->unet->control->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        control: nn.Module,
        settings: dict | None = None,
    ):
        """`settings` is the content of the branch's `model.toml`."""
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, control=control
        )
        self.settings = settings or {}

    @classmethod
    def from_pretrained(cls, run: str, base: str | None = None, torch_dtype: torch.dtype = torch.float32):
        """Loads a run folder, the folder of a branch, or a repository with a branch on the Hugging Face Hub. `base` is a
        model in diffusers' layout, a folder or a repository; by default the one that `model.toml` names."""
        folder = Path(run)
        if not folder.is_dir():
            folder = Path(snapshot_download(run, allow_patterns=["*config.json", "*model.toml", f"*{STEM}"]))
        control = folder / "control" if (folder / "control").is_dir() else folder
        settings = {}
        for file in (control / "model.toml", control.parent / "model.toml"):
            if file.is_file():
                settings = tomllib.loads(file.read_text())
                beside = file.parent / settings["base"]
                base = base or str(beside if beside.exists() else settings["base"])
                break
        if base is None:
            raise ValueError(f"{run} has no model.toml that names the base model: pass base=")
        name, _, revision = base.partition("@")
        told = {} if Path(base).is_dir() else {"revision": revision or None}
        base = base if Path(base).is_dir() else name

        def part(kind, folder: str, **more):
            return kind.from_pretrained(base, subfolder=folder, **told, **more)

        schedule = DDIMScheduler.load_config(base, subfolder="scheduler", **told)
        # A null is a setting's default.
        schedule = {key: value for key, value in schedule.items() if value is not None}
        scheduler, changes = SAMPLERS[settings.get("sampling", {}).get("sampler", "ddim")]
        return cls(
            vae=part(AutoencoderKL, "vae", torch_dtype=torch_dtype),
            text_encoder=part(CLIPTextModel, "text_encoder", dtype=torch_dtype),
            tokenizer=part(CLIPTokenizer, "tokenizer"),
            unet=part(UNet2DConditionModel, "unet", torch_dtype=torch_dtype),
            scheduler=scheduler.from_config(schedule | changes),
            control=load_branch(control).to(torch_dtype),
            settings=settings,
        )

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | list[Image.Image] | Tensor,
        restoration_prompt: str | list[str] = "Remove all degradation",
        prompt: str | list[str] = "",
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        control_scale: float | None = None,
        control_guidance_start: float | None = None,
        control_guidance_end: float | None = None,
        start: str | None = None,
        strength: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput:
        """Restores one picture or several of one size.

        `image` is a picture, a list, or a tensor `[batch, 3, height, width]` in [0, 1]. `latents` is standard normal noise
        `[batch, channels, height / 8, width / 8]`, of the sides rounded up to what the UNet can halve; by default it is
        drawn from `generator`. `start` is `noise`, or `picture` for the degraded picture with the noise of the first step;
        `strength` is the share of the steps that are taken from there (SDEdit). What is not given is as in `model.toml`, or as
        `spire restore` has it. `output_type` is `pil`, `np` or `pt`.
        """
        told = self.settings.get("sampling", {})
        if told.get("quality_prompts", "none") != "none":
            raise ValueError("model.toml: write the words of quality_prompts as positive and negative")

        def setting(given, key: str, default):
            return told.get(key, default) if given is None else given

        negative = setting(negative_prompt, "negative", "")
        steps = setting(num_inference_steps, "steps", 50)
        guidance = setting(guidance_scale, "guidance_scale", 2.0)
        scale = setting(control_scale, "control_scale", 1.0)
        window = (
            setting(control_guidance_start, "control_start", 0.0),
            setting(control_guidance_end, "control_end", 1.0),
        )
        start, strength = setting(start, "start", "noise"), setting(strength, "strength", 1.0)
        if start not in ("noise", "picture"):
            raise ValueError(f"start must be noise or picture, not {start!r}")

        picture = to_tensor(image).to(self.unet.device, self.unet.dtype)
        batch, _, height, width = picture.shape
        padded = self.padded(picture)
        prompts, restorations = ([text] * batch if isinstance(text, str) else text for text in (prompt, restoration_prompt))
        prompts = [", ".join(filter(None, [text, told.get("positive", "")])) for text in prompts]
        # The passes of guidance, the unconditional one first; where it changes nothing, one pass is enough.
        guided = guidance != 1 and any(text != negative for text in prompts)
        semantic = self.encode_prompts([negative] * batch + prompts if guided else prompts)
        restoration = self.encode_prompts(restorations)

        self.scheduler.set_timesteps(steps, device=picture.device)
        timesteps = self.scheduler.timesteps
        latents = self.noise(padded, generator, latents)
        if start == "picture" or strength < 1:
            first = len(timesteps) - max(int(len(timesteps) * strength), 1)
            if hasattr(self.scheduler, "set_begin_index"):
                self.scheduler.set_begin_index(first)
            timesteps = timesteps[first:]
            clean = self.vae.encode(2 * padded - 1).latent_dist.mean * self.vae.config.scaling_factor
            latents = self.scheduler.add_noise(clean, latents, timesteps[:1].repeat(batch))
        else:
            latents = latents * self.scheduler.init_noise_sigma

        embedded = condition(self.control, padded)
        if isinstance(self.control, SpireControl):
            embedded = self.control.embed(embedded)
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        more = {"generator": generator} if takes_generator else {}
        for i, timestep in enumerate(self.progress_bar(timesteps)):
            inside = i / len(timesteps) >= window[0] and (i + 1) / len(timesteps) <= window[1]
            sample = self.scheduler.scale_model_input(latents, timestep)
            output = predict_embedded(
                self.unet, self.control, sample, timestep, semantic, restoration, embedded, scale if inside else 0.0
            )
            if guided:
                unconditional, conditional = output.chunk(2)
                output = unconditional + guidance * (conditional - unconditional)
            latents = self.scheduler.step(output, timestep, latents, **more).prev_sample

        restored = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        restored = (restored[:, :, :height, :width].float() / 2 + 0.5).clamp(0, 1)
        self.maybe_free_model_hooks()
        images = restored if output_type == "pt" else restored.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "pil":
            images = [Image.fromarray((255 * picture).round().astype("uint8")) for picture in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def padded(self, picture: Tensor) -> Tensor:
        """The picture with its last row and column repeated, so that the UNet can halve its latent as often as it does."""
        multiple = self.downscale << (len(self.unet.config.block_out_channels) - 1)
        _, _, height, width = picture.shape
        return nn.functional.pad(picture, (0, -width % multiple, 0, -height % multiple), mode="replicate")

    @property
    def downscale(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def noise(self, picture: Tensor, generator, given: Tensor | None) -> Tensor:
        batch, _, height, width = picture.shape
        shape = (batch, self.unet.config.in_channels, height // self.downscale, width // self.downscale)
        if given is None:
            return randn_tensor(shape, generator=generator, device=picture.device, dtype=picture.dtype)
        if tuple(given.shape) != shape:
            raise ValueError(f"the latents have the shape {tuple(given.shape)}, expected is {shape}")
        return given.to(picture.device, picture.dtype)

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """The states of the prompts, `[prompts, tokens, width]`. Longer ones than the text encoder reads are cut off, or with
        `long_prompts = "chunk"` in `model.toml` encoded in pieces; shorter ones are then followed by empty pieces."""
        length = self.text_encoder.config.max_position_embeddings
        if self.settings.get("long_prompts") != "chunk":
            pieces = [[ids] for ids in self.tokenizer(prompts, truncation=True, max_length=length).input_ids]
        else:
            inside = [self.tokenizer(text, add_special_tokens=False).input_ids for text in prompts]
            size, (first, last) = length - 2, (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            cut = [[ids[at : at + size] for at in range(0, max(len(ids), 1), size)] for ids in inside]
            most = max(map(len, cut))
            pieces = [[[first, *ids, last] for ids in parts + [[]] * (most - len(parts))] for parts in cut]
        pad = self.tokenizer.pad_token_id
        flat = [ids + [pad] * (length - len(ids)) for parts in pieces for ids in parts]
        states = self.text_encoder(torch.tensor(flat, device=self.text_encoder.device))[0]
        return states.reshape(len(prompts), -1, states.shape[-1]).to(self.unet.dtype)


def to_tensor(image: Image.Image | list[Image.Image] | Tensor) -> Tensor:
    """Pictures as a tensor `[batch, 3, height, width]` in [0, 1]."""
    if isinstance(image, Tensor):
        return image
    pictures = image if isinstance(image, list) else [image]
    arrays = [numpy.asarray(picture.convert("RGB"), dtype="float32") / 255 for picture in pictures]
    return torch.from_numpy(numpy.stack(arrays)).permute(0, 3, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="the degraded picture")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the restored picture")
    parser.add_argument("--run", required=True, help="run folder, folder of a branch, or its name on the Hugging Face Hub")
    parser.add_argument("--base", help="text-to-image model in diffusers' layout [default: as model.toml says]")
    parser.add_argument("--restoration", default="Remove all degradation", help="what to undo")
    parser.add_argument("--semantic", default="", help="what the picture shows")
    parser.add_argument("--negative")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--control-scale", type=float)
    parser.add_argument("--start", choices=["noise", "picture"])
    parser.add_argument("--strength", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latents", type=Path, help="safetensors file with the initial noise, `latents`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    args = parser.parse_args()
    pipe = SpirePipeline.from_pretrained(args.run, args.base, getattr(torch, args.dtype)).to(args.device)
    restored = pipe(
        Image.open(args.input),
        args.restoration,
        prompt=args.semantic,
        negative_prompt=args.negative,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        control_scale=args.control_scale,
        start=args.start,
        strength=args.strength,
        generator=torch.Generator().manual_seed(args.seed),
        latents=load_file(args.latents)["latents"] if args.latents else None,
    )
    restored.images[0].save(args.output)


if __name__ == "__main__":
    main()
