"""Cases `controlnet-pipeline`: diffusers' whole StableDiffusionControlNetPipeline with DDIM, on random weights."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionControlNetPipeline
from numpy.random import Generator
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import bundle
import denoiser
import encoders
import formula
from bundle import choice, new_seed, normal, whole

CLIP_TOKENIZER = Path(__file__).parents[2] / "assets/tiny/tokenizer"
PROMPTS = ["a zebra on a meadow", "A stop sign with graffiti", "a panda by the bamboo, 3 birds", "sharp, detailed"]
NEGATIVE = ["", "blurry, lowres", "oil painting; sketch"]


def write_tokenizer(folder: Path, merges: int) -> int:
    """CLIP's tokenizer with its first `merges` only, so that vocabulary and text encoder are small. Returns the number of
    ids; the last two are the start and the end token."""
    folder.mkdir(parents=True, exist_ok=True)
    head, *lines = (CLIP_TOKENIZER / "merges.txt").read_text().splitlines()
    kept = lines[:merges]
    (folder / "merges.txt").write_text("\n".join([head, *kept]) + "\n")
    ids = json.loads((CLIP_TOKENIZER / "vocab.json").read_text())
    # CLIP numbers the bytes, the bytes that end a word, the merges and the two special tokens, in this order.
    words = sorted(ids, key=ids.get)
    words = words[: 512 + merges] + words[-2:]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False))
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(CLIP_TOKENIZER / name, folder / name)
    return len(words)


def draw_vae(random: Generator) -> AutoencoderKL:
    """Of 1/8, as Stable Diffusion's: the pipeline's pictures need it."""
    groups = choice(random, 2, 4)
    vae = AutoencoderKL(
        block_out_channels=[groups * whole(random, 2, 4) for _ in range(4)],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=groups,
        scaling_factor=0.18215,
    ).eval()
    return vae


def draw_text_encoder(random: Generator, width: int, words: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=whole(random, 1, 3),
        num_attention_heads=choice(random, 2, 4),
        max_position_embeddings=77,
        hidden_act=choice(random, "quick_gelu", "gelu"),
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return CLIPTextModel(config).eval()


def draw(random: Generator, folder: Path) -> StableDiffusionControlNetPipeline:
    """A pipeline of small networks, written to `folder` in diffusers' layout."""
    unet = denoiser.draw_unet(random, choice(random, True, False))
    branch = denoiser.draw_branch(random, unet, levels=4)
    vae = draw_vae(random)
    words = write_tokenizer(folder / "tokenizer", whole(random, 100, 600))
    text = draw_text_encoder(random, unet.config.cross_attention_dim, words)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=choice(random, "epsilon", "v_prediction"),
    )
    # The formulas of the weights take less room than the weights.
    for part, model in {"unet": unet, "controlnet": branch, "vae": vae}.items():
        seed = new_seed(random)
        formula.fill(model.state_dict(), seed)
        bundle.weights(folder / part, model.to_json_string().rstrip(), denoiser.STEM, model.state_dict(), seed)
    seed, tensors = new_seed(random), encoders.state_dict(text)
    formula.fill(tensors, seed)
    encoders.save(folder / "text_encoder", text, tensors, seed)
    scheduler.save_pretrained(folder / "scheduler")
    return StableDiffusionControlNetPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=unet,
        controlnet=branch,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def controlnet_pipeline(out: Path, random: Generator) -> None:
    """Without guidance; with guidance, a negative prompt and a scale; and with a window of the steps."""
    folder = out / "controlnet-pipeline"
    pipeline = draw(random, folder)
    pipeline.set_progress_bar_config(disable=True)
    start, end = round(float(random.uniform(0.05, 0.4)), 2), round(float(random.uniform(0.5, 0.95)), 2)
    for name, more in {
        "plain": {"guidance_scale": 1.0},
        "guided": {
            "negative_prompt": choice(random, *NEGATIVE),
            "guidance_scale": round(float(random.uniform(1.5, 5)), 2),
            "controlnet_conditioning_scale": round(float(random.uniform(0.3, 1.5)), 2),
        },
        "window": {"guidance_scale": 2.0, "control_guidance_start": start, "control_guidance_end": end},
    }.items():
        settings = {
            "prompt": choice(random, *PROMPTS),
            "negative_prompt": "",
            "controlnet_conditioning_scale": 1.0,
            "control_guidance_start": 0.0,
            "control_guidance_end": 1.0,
        } | more
        steps, rows, columns = whole(random, 4, 10), whole(random, 6, 13), whole(random, 6, 13)
        picture = torch.from_numpy(random.random((1, 3, 8 * rows, 8 * columns), dtype="float32"))
        latents = normal(random, 1, 4, rows, columns)
        output = pipeline(
            image=picture, latents=latents, num_inference_steps=steps, output_type="pt", **settings
        ).images
        tensors = {"in.picture": picture, "in.latents": latents, "out.picture": output}
        bundle.case(
            out / f"case-controlnet-pipeline-{name}", "controlnet-pipeline", tensors, folder, steps=steps, **settings
        )
