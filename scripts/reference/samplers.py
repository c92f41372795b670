"""Cases `sampler` and `add-noise`: diffusers' schedulers, with random settings among those that this project supports."""

from pathlib import Path
from unittest import mock

import numpy
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from numpy.random import Generator

import bundle
from bundle import choice, normal, whole

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


# How a scheduler says that it draws noise.
STOCHASTIC = {
    DDPMScheduler: lambda _: True,
    EulerAncestralDiscreteScheduler: lambda _: True,
    DPMSolverMultistepScheduler: lambda scheduler: scheduler.config.algorithm_type.startswith("sde"),
}


def draw_schedule(random: Generator, prediction: str) -> dict:
    schedule = choice(random, STABLE_DIFFUSION, STABLE_DIFFUSION, {"beta_schedule": "squaredcos_cap_v2"}, {})
    return schedule | {"prediction_type": prediction, "num_train_timesteps": 1000}


def draw_spacing(random: Generator) -> dict:
    return {"timestep_spacing": choice(random, "leading", "linspace", "trailing"), "steps_offset": whole(random, 0, 1)}


def ddim(random: Generator, prediction: str) -> DDIMScheduler:
    # With ε prediction, a schedule that ends in pure noise would divide by zero.
    zero_snr = prediction == "v_prediction" and choice(random, True, False)
    return DDIMScheduler(
        **draw_schedule(random, prediction),
        **draw_spacing(random),
        set_alpha_to_one=choice(random, True, False),
        clip_sample=choice(random, True, False),
        clip_sample_range=choice(random, 1.0, 2.5),
        rescale_betas_zero_snr=zero_snr,
    )


def ddpm(random: Generator, prediction: str) -> DDPMScheduler:
    return DDPMScheduler(
        **draw_schedule(random, prediction),
        **draw_spacing(random),
        clip_sample=choice(random, True, False),
        clip_sample_range=choice(random, 1.0, 2.5),
        rescale_betas_zero_snr=prediction == "v_prediction" and choice(random, True, False),
    )


def dpmpp2m(random: Generator, prediction: str, **more) -> DPMSolverMultistepScheduler:
    # Custom noise levels and a timestep spacing exclude each other.
    sigmas = choice(random, {}, {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True})
    return DPMSolverMultistepScheduler(
        **STABLE_DIFFUSION,
        **draw_spacing(random),
        **sigmas,
        prediction_type=prediction,
        solver_order=whole(random, 1, 2),
        solver_type=choice(random, "midpoint", "heun"),
        lower_order_final=choice(random, True, False),
        euler_at_final=choice(random, True, False),
        final_sigmas_type=choice(random, "zero", "sigma_min"),
        **more,
    )


def dpmpp2m_sde(random: Generator, prediction: str) -> DPMSolverMultistepScheduler:
    return dpmpp2m(random, prediction, algorithm_type="sde-dpmsolver++")


def euler(random: Generator, prediction: str) -> EulerDiscreteScheduler:
    sigmas = choice(random, {}, {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True})
    return EulerDiscreteScheduler(
        **STABLE_DIFFUSION,
        **draw_spacing(random),
        **sigmas,
        prediction_type=prediction,
        final_sigmas_type=choice(random, "zero", "sigma_min"),
    )


def euler_ancestral(random: Generator, prediction: str) -> EulerAncestralDiscreteScheduler:
    return EulerAncestralDiscreteScheduler(**STABLE_DIFFUSION, **draw_spacing(random), prediction_type=prediction)


def save(folder: Path, scheduler) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(scheduler.to_json_string())
    return folder


def sampler(out: Path, random: Generator) -> None:
    # The order decides what is drawn for each: new ones come last.
    for build in (ddim, dpmpp2m, euler, ddpm, dpmpp2m_sde, euler_ancestral):
        for prediction in ("epsilon", "v_prediction"):
            name = f"{build.__name__}-{prediction}"
            scheduler = build(random, prediction)
            steps = whole(random, 3, 25)
            shape = whole(random, 1, 2), 4, whole(random, 2, 5), whole(random, 2, 5)
            bundle.case(
                out / f"case-sampler-{name}",
                "sampler",
                run(scheduler, steps, [normal(random, *shape) for _ in range(steps + 1)], random),
                save(out / f"scheduler-{name}", scheduler),
                steps=steps,
            )


def run(scheduler, steps: int, draws: list[torch.Tensor], random: Generator) -> dict[str, torch.Tensor]:
    """A whole run on a given sequence of model outputs, with every latent; for a stochastic sampler with the noise of every
    step, which it would draw itself."""
    scheduler.set_timesteps(steps)
    latent = draws[0] * scheduler.init_noise_sigma
    tensors = {"in.noise": latent, "out.timesteps": scheduler.timesteps.to(torch.float32)}
    for i, timestep in enumerate(scheduler.timesteps):
        tensors[f"out.model_input.{i}"] = scheduler.scale_model_input(latent, timestep)
        if STOCHASTIC.get(type(scheduler), lambda _: False)(scheduler):
            noise = normal(random, *latent.shape)
            tensors[f"in.step_noise.{i}"] = noise
            with mock.patch(f"{type(scheduler).__module__}.randn_tensor", lambda *_, noise=noise, **__: noise):
                latent = scheduler.step(draws[i + 1], timestep, latent).prev_sample
        else:
            latent = scheduler.step(draws[i + 1], timestep, latent).prev_sample
        tensors[f"in.model_output.{i}"] = draws[i + 1]
        tensors[f"out.latent.{i}"] = latent
    return {name: tensor.clone() for name, tensor in tensors.items()}


def add_noise(out: Path, random: Generator) -> None:
    scheduler = DDIMScheduler(**draw_schedule(random, "epsilon"))
    batch = whole(random, 2, 6)
    shape = batch, 4, whole(random, 2, 6), whole(random, 2, 6)
    sample, noise = normal(random, *shape), normal(random, *shape)
    timestep = torch.from_numpy(numpy.concatenate([[0, 999], random.integers(1000, size=batch - 2)]))
    tensors = {
        "in.sample": sample,
        "in.noise": noise,
        "in.timestep": timestep,
        "out.noisy": scheduler.add_noise(sample, noise, timestep),
        "out.velocity": scheduler.get_velocity(sample, noise, timestep),
    }
    bundle.case(out / "case-add-noise", "add-noise", tensors, save(out / "scheduler-add-noise", scheduler))
