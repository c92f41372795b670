//! The forward process ([`NoiseSchedule`]) and the samplers that run it backwards: [`Ddim`], [`DpmSolverPp`] and
//! [`EulerDiscrete`] step deterministically, [`Ddpm`], [`EulerAncestral`] and the stochastic [`DpmSolverPp`] add fresh noise
//! in every step but the last. All are after diffusers' schedulers, whose float32 numerics are kept.
//!
//! Latents are `[batch, channels, height, width]`.

mod config;
mod ddim;
mod ddpm;
mod dpm_solver;
mod euler;
mod euler_ancestral;
mod noise_schedule;
pub(crate) mod prediction;
#[cfg(test)]
mod reference;
mod sigmas;
pub(crate) mod spaced;
mod timesteps;

use std::{fmt, str::FromStr};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use config::{
    AlgorithmType, BetaSchedule, FinalSigmas, SchedulerConfig, SchedulerError, SolverType, TimestepSpacing,
};
pub use ddim::Ddim;
pub use ddpm::Ddpm;
pub use dpm_solver::DpmSolverPp;
pub use euler::EulerDiscrete;
pub use euler_ancestral::EulerAncestral;
pub use noise_schedule::NoiseSchedule;
pub use prediction::PredictionType;

/// A sampler: takes a latent from noise to a clean latent with one network evaluation per step.
///
/// A run is: `latent = noise · init_noise_sigma()`, then for each `i` of `timesteps()`:
/// `latent = step(model(scale_model_input(latent, i), timesteps()[i]), i, latent) + noise_scale(i) · noise`, where the noise
/// is standard normal and fresh in every step.
/// Steps go up by one; a run may start at any of them, and one sampler may do many runs.
pub trait Sampler: Send {
    /// The timesteps at which the network is evaluated, from noisy to clean, one per step.
    fn timesteps(&self) -> &[f32];

    /// Standard deviation of the noise that a run starts from.
    fn init_noise_sigma(&self) -> f32;

    /// `clean` with the noise level before step `step_index`: the start of a run that skips the earlier steps.
    fn noisy(&self, clean: Tensor<4>, noise: Tensor<4>, step_index: usize) -> Tensor<4>;

    /// The network's input for `sample` at `step_index`, which is below the number of timesteps.
    fn scale_model_input(&self, sample: Tensor<4>, step_index: usize) -> Tensor<4>;

    /// The clean latent that the network's output at step `step_index` predicts, scaled as in training.
    fn predicted_clean(&self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4>;

    /// Standard deviation of the noise that step `step_index` adds to its result; 0 for a deterministic step.
    fn noise_scale(&self, _step_index: usize) -> f32 {
        0.0
    }

    /// The latent after step `step_index`, without fresh noise, given the network's output and the latent before it.
    fn step(&mut self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4>;
}

/// The samplers; they parse and print as `ddim`, `dpm++2m`, `euler`, `ddpm`, `dpm++2m-sde` and `euler-a`. The last three are
/// stochastic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum SamplerKind {
    /// Deterministic DDIM (<https://arxiv.org/abs/2010.02502>, eta = 0).
    #[default]
    #[serde(rename = "ddim")]
    Ddim,
    /// Multistep DPM-Solver++ of second order (<https://arxiv.org/abs/2211.01095>).
    #[serde(rename = "dpm++2m")]
    DpmPp2m,
    /// Euler's method (<https://arxiv.org/abs/2206.00364>, algorithm 2 without churn).
    #[serde(rename = "euler")]
    Euler,
    /// Ancestral sampling (<https://arxiv.org/abs/2006.11239>) on a part of the training timesteps.
    #[serde(rename = "ddpm")]
    Ddpm,
    /// DPM-Solver++ of second order for the stochastic differential equation, multistep.
    #[serde(rename = "dpm++2m-sde")]
    DpmPp2mSde,
    /// Euler's method with ancestral noise, after k-diffusion.
    #[serde(rename = "euler-a")]
    EulerAncestral,
}

impl SamplerKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Ddim, Self::DpmPp2m, Self::Euler, Self::Ddpm, Self::DpmPp2mSde, Self::EulerAncestral];

    /// Whether latents are scaled as in training, so that the network reads them unchanged.
    pub fn keeps_training_scale(self) -> bool {
        !matches!(self, Self::Euler | Self::EulerAncestral)
    }

    /// The sampler for `steps` steps of the given schedule.
    ///
    /// # Errors
    /// The settings are out of range, or there are no steps or more than the schedule has timesteps for.
    pub fn build(self, config: &SchedulerConfig, steps: usize) -> Result<Box<dyn Sampler>, SchedulerError> {
        Ok(match self {
            Self::Ddim => Box::new(Ddim::new(config, steps)?),
            Self::DpmPp2m => Box::new(DpmSolverPp::new(config, steps)?),
            Self::Euler => Box::new(EulerDiscrete::new(config, steps)?),
            Self::Ddpm => Box::new(Ddpm::new(config, steps)?),
            Self::DpmPp2mSde => Box::new(DpmSolverPp::stochastic(config, steps)?),
            Self::EulerAncestral => Box::new(EulerAncestral::new(config, steps)?),
        })
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ddim => "ddim",
            Self::DpmPp2m => "dpm++2m",
            Self::Euler => "euler",
            Self::Ddpm => "ddpm",
            Self::DpmPp2mSde => "dpm++2m-sde",
            Self::EulerAncestral => "euler-a",
        })
    }
}

impl FromStr for SamplerKind {
    type Err = SchedulerError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.to_string() == name)
            .ok_or_else(|| SchedulerError::UnknownSampler(name.into()))
    }
}
