"""Writes a whole model with generated weights in any layout in which Stable Diffusion is published.

    python folder.py OUT --model sd15 --dtype float16          # folder: unet/ vae/ text_encoder/ tokenizer/ ...
    python folder.py OUT --model sd21 --layout sharded --shard-mb 2000
    python folder.py OUT.ckpt --model tiny1 --layout ckpt      # one file with the names of the original code
    python folder.py --check                                   # compares these names with diffusers' converters
    python folder.py --fixtures ../../tests/layouts            # the files for the tests

All layouts of one model and seed hold the same values.
"""

import argparse
import json
import math
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel, __version__
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

import encoders
import formula
import ldm
import stable_diffusion

TOKENIZER = Path(__file__).parents[2] / "assets" / "tiny" / "tokenizer"
STEM = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
CODES = {torch.float16: "F16", torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}


@dataclass
class Entry:
    """A tensor that is generated when it is written, so that the model need not fit in memory."""

    shape: ldm.Shape
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]


class Model:
    """Configurations and shapes of a Stable Diffusion model; weights are generated when they are written."""

    def __init__(self, unet: dict, vae: dict, text: dict, version: int, seed: int):
        self.version, self.seed = version, seed
        with torch.device("meta"):
            self.modules = {
                "unet": UNet2DConditionModel(**unet),
                "vae": AutoencoderKL(**vae),
                "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
            }
        states = {part: encoders.state_dict(module) for part, module in self.modules.items()}
        self.shapes = {part: {name: tuple(t.shape) for name, t in state.items()} for part, state in states.items()}
        self.layout = ldm.layout(self.shapes, self.modules["unet"].config.layers_per_block, version == 2)

    @classmethod
    def named(cls, name: str, vocabulary: int, seed: int) -> "Model":
        version = 1 if name in ("sd15", "tiny1") else 2
        if name.startswith("sd"):
            text = stable_diffusion.TEXT[name] | {"bos_token_id": 0, "eos_token_id": 2, "vocab_size": vocabulary}
            return cls(stable_diffusion.UNET[name], stable_diffusion.VAE, text, version, seed)
        return cls.tiny(version, [64, 128], [32, 64], vocabulary, seed)

    @classmethod
    def tiny(cls, version: int, widths: list[int], vae_widths: list[int], vocabulary: int, seed: int) -> "Model":
        """A small model like Stable Diffusion: SD 1 has 8 heads at every level, SD 2 heads of 64 channels."""
        unet = {
            "block_out_channels": widths,
            "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "attention_head_dim": 8 if version == 1 else [width // 64 for width in widths],
            "use_linear_projection": version == 2,
            "cross_attention_dim": 64,
        }
        vae = stable_diffusion.VAE | {
            "block_out_channels": vae_widths,
            "layers_per_block": 1,
            "down_block_types": ["DownEncoderBlock2D"] * len(vae_widths),
            "up_block_types": ["UpDecoderBlock2D"] * len(vae_widths),
        }
        text = {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "projection_dim": 64,
            "hidden_act": "quick_gelu" if version == 1 else "gelu",
            "vocab_size": vocabulary,
            "bos_token_id": 0,
            "eos_token_id": 2,
        }
        return cls(unet, vae, text, version, seed)

    def part(self, part: str, dtype: torch.dtype) -> dict[str, Entry]:
        """The tensors of one folder."""
        shapes = self.shapes[part]
        return {name: Entry(shape, dtype, partial(self.values, name, shape)) for name, shape in shapes.items()}

    def single_file(self, dtype: torch.dtype) -> dict[str, Entry]:
        """The tensors of the single file."""
        pieces = {name: [] for name in self.layout.shapes}
        for part, sources in self.layout.sources.items():
            for name, source in sources.items():
                pieces[source.name].append((source.part, name, self.shapes[part][name]))
        entries = {
            name: Entry(shape, dtype, partial(self.joined, sorted(pieces[name]), name, shape))
            for name, shape in self.layout.shapes.items()
        }
        config = self.modules["text_encoder"].config
        for name, tensor in ldm.buffers(self.version == 2, config.max_position_embeddings).items():
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            entries[name] = Entry(tuple(tensor.shape), kind, lambda tensor=tensor: tensor)
        return entries

    def values(self, name: str, shape: ldm.Shape) -> torch.Tensor:
        return formula.values(name, shape, self.seed)

    def joined(self, pieces: list, name: str, shape: ldm.Shape) -> torch.Tensor:
        # Tensors that only the single file has are generated by their own names.
        parts = [self.values(*piece[1:]) for piece in pieces] or [self.values(name, shape)]
        return torch.cat(parts).reshape(shape) if shape else parts[0]


def write_safetensors(path: Path, entries: dict[str, Entry]) -> None:
    """Writes one tensor at a time, unlike the library."""
    # As the library does: wide elements first, so that all are aligned.
    ordered = sorted(entries.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, entry in ordered:
        end = offset + math.prod(entry.shape) * entry.dtype.itemsize
        header[name] = {"dtype": CODES[entry.dtype], "shape": entry.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, entry in ordered:
            file.write(entry.make().to(entry.dtype).numpy().tobytes())


def write_pickle(path: Path, entries: dict[str, Entry], around: Callable[[dict], dict] = dict) -> None:
    """torch.save, of tensors that stay on disk until they are written."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        on_disk = Path(folder) / "weights.safetensors"
        write_safetensors(on_disk, entries)
        torch.save(around(load_file(on_disk)), path)


def write_sharded(folder: Path, stem: str, entries: dict[str, Entry], limit: int, variant: str) -> None:
    """Files of at most `limit` bytes (a larger tensor has a file of its own), and the index that names them."""
    shards, used = [{}], 0
    for name, entry in entries.items():
        size = math.prod(entry.shape) * entry.dtype.itemsize
        if shards[-1] and used + size > limit:
            shards.append({})
            used = 0
        shards[-1][name] = entry
        used += size
    files = {}
    for i, shard in enumerate(shards, 1):
        file = f"{stem}{variant}-{i:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard)
        files |= dict.fromkeys(shard, file)
    total = sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in entries.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    (folder / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index, indent=1))


def write_part(
    model: Model, part: str, folder: Path, layout: str, dtype: torch.dtype, limit: int = 0, variant: str = ""
) -> None:
    """One component's folder; `limit` is the largest shard in bytes, `variant` is empty or `.fp16`."""
    folder.mkdir(parents=True, exist_ok=True)
    module, stem, entries = model.modules[part], STEM[part], model.part(part, dtype)
    if part == "text_encoder":
        module.config.architectures = ["CLIPTextModel"]
        (folder / "config.json").write_text(module.config.to_json_string(use_diff=False))
    else:
        (folder / "config.json").write_text(module.to_json_string())
    match layout:
        case "diffusers":
            write_safetensors(folder / f"{stem}{variant}.safetensors", entries)
        case "sharded":
            write_sharded(folder, stem, entries, limit, variant)
        case "bin":
            write_pickle(folder / f"{'pytorch_model' if part == 'text_encoder' else stem}{variant}.bin", entries)
        case "formula":
            formula.save(folder / f"{stem}.formula.json", model.shapes[part], model.seed)


def write_pipeline(model: Model, out: Path, with_tokenizer: bool) -> None:
    """The files of a pipeline's folder besides its networks."""
    out.mkdir(parents=True, exist_ok=True)
    scheduler = (
        PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
        if model.version == 1
        else DDIMScheduler(**SCHEDULE, clip_sample=False, prediction_type="v_prediction")
    )
    scheduler.save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": __version__,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2))
    if with_tokenizer:
        shutil.copytree(TOKENIZER, out / "tokenizer", dirs_exist_ok=True)


def write_single_file(model: Model, path: Path, layout: str, dtype: torch.dtype) -> None:
    entries = model.single_file(dtype)
    if layout == "ldm":
        write_safetensors(path, entries)
    else:
        write_pickle(path, entries, lambda weights: {"state_dict": weights, "global_step": 123, "epoch": 4})


def check() -> None:
    """diffusers' own converters, on our single file, must give back the folder's tensors: values of the small models,
    shapes of the full ones."""
    for name in ("tiny1", "tiny2", "sd15", "sd21"):
        model = Model.named(name, 512, seed=5)
        compare = name.startswith("tiny")
        entries = model.single_file(torch.float32)
        single = {key: e.make() if compare else torch.empty(e.shape, device="meta") for key, e in entries.items()}
        config = model.modules["text_encoder"].config
        if model.version == 1:
            text = single_file_utils.convert_ldm_clip_checkpoint(single)
            text.pop("text_model.embeddings.position_ids")
        else:
            # The converter expects the name of the layer that the full model omits.
            extra = f"resblocks.{config.num_hidden_layers}."
            kept = {key: tensor for key, tensor in single.items() if extra not in key}
            text = single_file_utils.convert_open_clip_checkpoint(model.modules["text_encoder"], kept)
        converted = {
            "unet": single_file_utils.convert_ldm_unet_checkpoint(dict(single), model.modules["unet"].config),
            "vae": single_file_utils.convert_ldm_vae_checkpoint(dict(single), model.modules["vae"].config),
            "text_encoder": text,
        }
        for part, tensors in converted.items():
            assert tensors.keys() == model.shapes[part].keys(), (name, part, tensors.keys() ^ model.shapes[part].keys())
            for key, shape in model.shapes[part].items():
                assert tuple(tensors[key].shape) == shape, (name, part, key, tensors[key].shape, shape)
                assert not compare or torch.equal(tensors[key], model.values(key, shape)), (name, part, key)
            print(f"{name} {part}: {len(tensors)} tensors as diffusers converts them")


def save_names(model: Model, path: Path) -> None:
    """`ldm`: shapes in the single file. `parts`: the single file's tensor for each of a folder's, or that with the
    first row and the number of rows. `reshaped`: the folder's shape where it is not that of those rows."""
    parts, reshaped = {}, {}
    for part, sources in model.layout.sources.items():
        parts[part], reshaped[part] = {}, {}
        for name, source in sources.items():
            shape = model.shapes[part][name]
            rows = shape[0]
            parts[part][name] = source.name if source.parts == 1 else [source.name, source.part * rows, rows]
            if model.layout.shapes[source.name][1:] != shape[1:]:
                reshaped[part][name] = shape
    names = {"ldm": model.layout.shapes, "parts": parts, "reshaped": reshaped}
    path.write_text(json.dumps(names, separators=(",", ":")) + "\n")


def fixtures(out: Path) -> None:
    """The files for the tests: names and shapes of the full models, and small models in every layout."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("sd15", "sd21"):
        save_names(Model.named(name, 49408, seed=0), out / f"{name}.json")

    tiny1 = Model.tiny(1, [32, 32], [32, 32], vocabulary=512, seed=1)
    write_single_file(tiny1, out / "tiny1.ckpt", "ckpt", torch.float16)
    write_pipeline(tiny1, out / "tiny1", with_tokenizer=False)
    write_part(tiny1, "unet", out / "tiny1" / "unet", "sharded", torch.float16, limit=300_000)
    write_part(tiny1, "vae", out / "tiny1" / "vae", "diffusers", torch.float16, variant=".fp16")
    write_part(tiny1, "text_encoder", out / "tiny1" / "text_encoder", "bin", torch.float16)

    tiny2 = Model.tiny(2, [64, 128], [32, 64], vocabulary=512, seed=2)
    save_names(tiny2, out / "tiny2.json")
    write_pipeline(tiny2, out / "tiny2", with_tokenizer=False)
    for part in STEM:
        write_part(tiny2, part, out / "tiny2" / part, "formula", torch.float32)

    for name in ("sd15", "sd21"):
        full = Model.named(name, 49408, seed=0)
        write_pipeline(full, out / name, with_tokenizer=False)
        for part in STEM:
            write_part(full, part, out / name / part, "formula", torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder to write; for ldm and ckpt, the file")
    parser.add_argument("--model", choices=["sd15", "sd21", "tiny1", "tiny2"], default="tiny1")
    layouts = ["diffusers", "sharded", "bin", "formula", "ldm", "ckpt"]
    parser.add_argument("--layout", choices=layouts, default="diffusers")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float32")
    parser.add_argument("--variant", choices=["fp16"], help="in file names, as in model.fp16.safetensors")
    parser.add_argument("--shard-mb", type=int, default=1000, help="largest file of the sharded layout")
    parser.add_argument("--vocab", type=int, default=49408, help="size of the vocabulary; if not CLIP's, no tokenizer is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--fixtures", type=Path)
    arguments = parser.parse_args()

    if arguments.check:
        check()
    elif arguments.fixtures:
        fixtures(arguments.fixtures)
    elif arguments.out is None:
        parser.error("OUT is missing")
    else:
        model = Model.named(arguments.model, arguments.vocab, arguments.seed)
        dtype = getattr(torch, arguments.dtype)
        if arguments.layout in ("ldm", "ckpt"):
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_single_file(model, arguments.out, arguments.layout, dtype)
            return
        variant = f".{arguments.variant}" if arguments.variant else ""
        write_pipeline(model, arguments.out, arguments.vocab == 49408)
        for part in STEM:
            limit = arguments.shard_mb * 1_000_000
            write_part(model, part, arguments.out / part, arguments.layout, dtype, limit, variant)


if __name__ == "__main__":
    main()
