"""Writes bundles for `spire verify`: results of the reference implementations on random weights.

    python make.py OUT --seed 11
    python make.py OUT --kinds unet,spire
    python make.py OUT --full sd15

Widths, depths, head counts, picture sizes and settings are drawn from the seed. With `--full`, networks have the sizes
of Stable Diffusion 1.5 or 2.1, or those of the published networks that restore, and generated weights.
"""

import argparse
from pathlib import Path

import numpy
import torch

import autoencoder
import degradations
import denoiser
import diffbir_cases
import encoders
import formula
import metrics
import official
import pipeline
import quality
import restoration
import samplers
import stable_diffusion
import stablesr_cases
import tokens

KINDS = {
    "unet": denoiser.unet,
    "controlnet": denoiser.controlnet,
    "spire": denoiser.spire,
    "controlnet-pipeline": pipeline.controlnet_pipeline,
    "vae": autoencoder.vae,
    "clip-text": encoders.clip_text,
    "clip-vision": encoders.clip_vision,
    "clip-score": encoders.clip_score,
    "sampler": samplers.sampler,
    "add-noise": samplers.add_noise,
    "tokenizer": tokens.tokenizer,
    "lpips": metrics.lpips,
    "fid": metrics.fid,
    "pillow-resize": metrics.pillow_resize,
    "frechet": metrics.frechet,
    "psnr-ssim": metrics.psnr_ssim,
    "musiq": quality.musiq,
    "clip-iqa": quality.clip_iqa,
    "maniqa": quality.maniqa,
    "blur-kernels": degradations.blur_kernels,
    "blur-resize": degradations.blur_resize,
    "jpeg": degradations.jpeg,
    "swinir": restoration.swinir,
    "bsrnet": restoration.bsrnet,
    "scunet": restoration.scunet,
    "diffbir": diffbir_cases.diffbir,
    "stablesr": stablesr_cases.stablesr,
}
# These need checkouts of the official code.
OFFICIAL = ("swinir", "bsrnet", "scunet", "diffbir", "stablesr")
# The published sizes of networks that restore.
PUBLISHED = restoration.PUBLISHED | {"diffbir": diffbir_cases.published, "stablesr": stablesr_cases.published}
FULL = {
    "unet": stable_diffusion.unet,
    "spire": stable_diffusion.spire,
    "vae": stable_diffusion.vae,
    "clip-text": stable_diffusion.clip_text,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help=f"comma-separated, of {', '.join(KINDS)}; default: all")
    parser.add_argument("--full", choices=["sd15", "sd21", "restoration"], help="full size: Stable Diffusion's networks, or those that restore")
    parser.add_argument("--official", type=Path, help=f"folder with the repositories for {', '.join(OFFICIAL)}")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    official.folder = arguments.official
    known = {None: KINDS, "restoration": PUBLISHED}.get(arguments.full, FULL)
    kinds = arguments.kinds.split(",") if arguments.kinds else known
    for kind in kinds:
        if kind not in known:
            parser.error(f"unknown kind {kind}; known are {', '.join(known)}")
        if known is not FULL and kind.startswith(OFFICIAL) and official.folder is None:
            if arguments.kinds:
                parser.error(f"{kind} needs --official: see README.md")
            print(f"{kind}: left out, needs --official", flush=True)
            continue
        # A separate random stream per kind, so that a kind does not depend on the others.
        random = numpy.random.default_rng([arguments.seed, formula.fnv1a(kind)])
        known[kind](arguments.out, random, *([arguments.full] if known is FULL else []))
        print(kind, flush=True)


if __name__ == "__main__":
    main()
