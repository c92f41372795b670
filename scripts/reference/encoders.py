"""Cases `clip-text`, `clip-vision` and `clip-score`: CLIP as transformers computes it."""

from pathlib import Path

import numpy
import torch
from numpy.random import Generator
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import bundle
import formula
from photographs import real
from bundle import choice, new_seed, normal, whole


def state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """With the names of published folders; transformers 5 omits `text_model.` in a plain tower."""
    prefix = "text_model." if isinstance(model, CLIPTextModel) else ""
    return {prefix + name.removeprefix(prefix): tensor for name, tensor in model.state_dict().items()}


def save(folder: Path, model, tensors: dict[str, torch.Tensor], seed: int | None = None) -> Path:
    model.config.architectures = [type(model).__name__]
    return bundle.weights(folder, model.config.to_json_string(use_diff=False).rstrip(), "model", tensors, seed)


def draw_widths(random: Generator) -> dict:
    heads = choice(random, 1, 2, 4)
    width = heads * 8 * whole(random, 1, 3)
    return {
        "hidden_size": width,
        "intermediate_size": 2 * whole(random, 8, 2 * width),
        "num_hidden_layers": whole(random, 2, 5),
        "num_attention_heads": heads,
        "projection_dim": 4 * whole(random, 2, 10),
    }


def texts(random: Generator, length: int, count: int, words: int, start: int, end: int, pad: int) -> torch.Tensor:
    """Token ids: start, words below `words`, end, padding; the first text fills the whole length."""
    ids = numpy.full((count, length), pad)
    for i, row in enumerate(ids):
        stop = length - 1 if i == 0 else whole(random, 1, length - 1)
        row[:stop] = random.integers(words, size=stop)
        row[0], row[stop] = start, end
    return torch.from_numpy(ids)


def run_text(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    output = model(ids, output_hidden_states=True)
    tensors = {
        "in.input_ids": ids,
        "out.last_hidden_state": output.last_hidden_state,
        "out.penultimate_hidden_state": output.hidden_states[-2],
    }
    if isinstance(model, CLIPTextModelWithProjection):
        tensors["out.text_embeds"] = output.text_embeds
    return tensors


def clip_text(out: Path, random: Generator) -> None:
    for act in ("quick_gelu", "gelu"):
        for kind in (CLIPTextModel, CLIPTextModelWithProjection):
            words = whole(random, 100, 600)
            length = whole(random, 5, 77)
            # With an end token of 2, as in old configurations, the text ends at its largest id.
            end = words + 1
            config = CLIPTextConfig(
                vocab_size=words + 2,
                max_position_embeddings=length,
                hidden_act=act,
                bos_token_id=words,
                eos_token_id=choice(random, end, 2),
                pad_token_id=end,
                **draw_widths(random),
            )
            model = kind(config).eval()
            tensors = state_dict(model)
            formula.fill(tensors, new_seed(random))
            ids = texts(
                random, whole(random, 3, length), whole(random, 1, 4), words, words, end, choice(random, end, 0)
            )
            outputs = run_text(model, ids)
            # Plain towers use two sets of names: those of published folders and those of transformers 5.
            stored = {f"{act}-projection": tensors}
            if kind is CLIPTextModel:
                stored = {act: tensors, f"{act}-short-names": model.state_dict()}
            for name, renamed in stored.items():
                weights = save(out / f"clip-text-{name}", model, renamed)
                bundle.case(out / f"case-clip-text-{name}", "clip-text", outputs, weights)


def clip_vision(out: Path, random: Generator) -> None:
    for act in ("quick_gelu", "gelu"):
        patch = whole(random, 3, 10)
        config = CLIPVisionConfig(
            hidden_act=act, patch_size=patch, image_size=patch * whole(random, 2, 7), **draw_widths(random)
        )
        model = CLIPVisionModelWithProjection(config).eval()
        tensors = state_dict(model)
        formula.fill(tensors, new_seed(random))
        weights = save(out / f"clip-vision-{act}", model, tensors)
        pixels = normal(random, whole(random, 1, 3), 3, config.image_size, config.image_size)
        tensors = {"in.pixel_values": pixels, "out.image_embeds": model(pixels).image_embeds}
        bundle.case(out / f"case-clip-vision-{act}", "clip-vision", tensors, weights)


def clip_score(out: Path, random: Generator) -> None:
    """Both towers in one folder with their preprocessing, as CLIP is published: a small one, and ViT-B/32."""
    words, length, patch = whole(random, 100, 600), whole(random, 5, 77), whole(random, 3, 10)
    side, projected = patch * whole(random, 3, 8), 4 * whole(random, 2, 10)
    text = {"vocab_size": words + 2, "max_position_embeddings": length, "bos_token_id": words, "eos_token_id": words + 1}
    small = CLIPConfig(
        text_config=draw_widths(random) | text | {"projection_dim": projected},
        vision_config=draw_widths(random) | {"patch_size": patch, "image_size": side, "projection_dim": projected},
        projection_dim=projected,
    )
    write_clip_score(out, random, "clip", small, side + whole(random, 0, 9), pictures=3)
    write_clip_score(out, random, "clip-vit-base-patch32", CLIPConfig(), 224, pictures=1, by_formula=True)


def write_clip_score(
    out: Path, random: Generator, name: str, config: CLIPConfig, shortest: int, pictures: int, by_formula: bool = False
) -> None:
    model = CLIPModel(config).eval()
    tensors, seed = model.state_dict(), new_seed(random)
    formula.fill(tensors, seed)
    tensors = {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point()}
    weights = save(out / name, model, tensors, seed if by_formula else None)
    side, text = config.vision_config.image_size, config.text_config
    processor = CLIPImageProcessorPil(size={"shortest_edge": shortest}, crop_size={"height": side, "width": side})
    processor.save_pretrained(weights)

    end, length = text.vocab_size - 1, text.max_position_embeddings
    ids = texts(random, length, whole(random, 1, 4), end - 1, end - 1, end, end)
    text_embeds = model.text_projection(model.text_model(ids).pooler_output)
    text_embeds /= text_embeds.norm(dim=-1, keepdim=True)
    cases = {"in.input_ids": ids, "out.text_embeds": text_embeds}
    for i in range(pictures):
        picture = real(random, whole(random, min(side // 2, 150), 150), whole(random, min(side // 2, 200), 200))
        pixels = processor(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"]
        embeds = model(input_ids=ids, pixel_values=pixels).image_embeds[0]
        cases |= {f"in.image.{i}": torch.from_numpy(picture), f"out.pixel_values.{i}": pixels[0]}
        cases |= {f"out.image_embeds.{i}": embeds, f"out.cosine.{i}": text_embeds @ embeds}
    bundle.case(out / f"case-{name}-score", "clip-score", cases, weights)
