//! Euler's method on the probability flow, <https://arxiv.org/abs/2206.00364>, algorithm 2 without churn.

use burn::tensor::Tensor;

use super::{
    PredictionType, Sampler, SchedulerConfig, SchedulerError, TimestepSpacing,
    sigmas::{self, SigmaTable},
    timesteps,
};

/// Euler's method. Its latents are unscaled: `x₀ + sigma·ε`.
#[derive(Debug, Clone)]
pub struct EulerDiscrete {
    timesteps: Vec<f32>,
    /// Noise level at each step, and after the last.
    sigmas: Vec<f32>,
    init_noise_sigma: f32,
    prediction_type: PredictionType,
}

impl EulerDiscrete {
    /// Euler's method in `steps` steps.
    ///
    /// # Errors
    /// A setting is out of range, or there are no steps or more than training timesteps.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, SchedulerError> {
        let table = SigmaTable::new(config)?;
        timesteps::check(config, steps)?;
        let length = config.num_train_timesteps;
        let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
        let timesteps = match spacing {
            TimestepSpacing::Linspace => timesteps::linspace(length, steps),
            TimestepSpacing::Leading => timesteps::leading(length, steps, config.steps_offset),
            TimestepSpacing::Trailing => timesteps::trailing(length, length as f64 / steps as f64, steps),
        };
        let mut timesteps: Vec<f32> = timesteps.into_iter().map(|timestep| timestep as f32).collect();
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&timestep| table.at(f64::from(timestep))).collect();
        if let Some(respaced) = sigmas::respaced(config, sigmas[0], sigmas[steps - 1], steps) {
            timesteps = respaced.iter().map(|&sigma| table.timestep_of(sigma) as f32).collect();
            sigmas = respaced;
        }
        let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(table.after_last(config));
        let highest = sigmas.iter().copied().fold(0.0, f32::max);
        let init_noise_sigma = match spacing {
            TimestepSpacing::Leading => (highest * highest + 1.0).sqrt(),
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => highest,
        };
        Ok(Self { timesteps, sigmas, init_noise_sigma, prediction_type: config.prediction_type })
    }

    /// The noise levels before and after a step.
    pub(super) fn sigmas(&self, step_index: usize) -> (f32, f32) {
        (self.sigmas[step_index], self.sigmas[step_index + 1])
    }

    /// A step to the noise level `target`.
    pub(super) fn step_to(
        &self,
        target: f32,
        model_output: Tensor<4>,
        step_index: usize,
        sample: Tensor<4>,
    ) -> Tensor<4> {
        let sigma = self.sigmas[step_index];
        let clean = self.predicted_clean(model_output, step_index, sample.clone());
        let derivative = (sample.clone() - clean) / sigma;
        sample + derivative * (target - sigma)
    }
}

impl Sampler for EulerDiscrete {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma
    }

    fn noisy(&self, clean: Tensor<4>, noise: Tensor<4>, step_index: usize) -> Tensor<4> {
        clean + noise * self.sigmas[step_index]
    }

    fn scale_model_input(&self, sample: Tensor<4>, step_index: usize) -> Tensor<4> {
        let sigma = self.sigmas[step_index];
        sample / (sigma * sigma + 1.0).sqrt()
    }

    fn predicted_clean(&self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        self.prediction_type.clean_unscaled(model_output, sample, self.sigmas[step_index])
    }

    fn step(&mut self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        self.step_to(self.sigmas[step_index + 1], model_output, step_index, sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::reference;

    #[test]
    fn follows_diffusers() {
        assert!(reference::sampler_error("case-sampler-euler-epsilon") < 2e-6);
    }

    #[test]
    fn karras_noise_levels_change_the_timesteps() {
        let plain = SchedulerConfig::stable_diffusion(PredictionType::Epsilon);
        let karras = SchedulerConfig { use_karras_sigmas: true, ..plain.clone() };
        let plain = EulerDiscrete::new(&plain, 10).unwrap();
        let karras = EulerDiscrete::new(&karras, 10).unwrap();
        assert_eq!(karras.timesteps()[0], plain.timesteps()[0]);
        assert!(karras.timesteps()[4] < plain.timesteps()[4]);
        assert!(karras.sigmas.windows(2).all(|pair| pair[0] > pair[1]));
    }
}
