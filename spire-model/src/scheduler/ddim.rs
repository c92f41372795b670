//! Denoising diffusion implicit models, <https://arxiv.org/abs/2010.02502>, with eta = 0.

use burn::tensor::Tensor;

use super::prediction::Rates;
use super::{NoiseSchedule, PredictionType, Sampler, SchedulerConfig, SchedulerError, timesteps};

/// DDIM: predicts the clean latent and the noise, then combines them at the noise level of the next timestep (equation 12).
#[derive(Debug, Clone)]
pub struct Ddim {
    timesteps: Vec<f32>,
    /// ᾱ at each step and after it.
    pub(super) alphas: Vec<(f32, f32)>,
    prediction_type: PredictionType,
    clip: Option<f32>,
}

impl Ddim {
    /// DDIM in `steps` steps.
    ///
    /// # Errors
    /// A setting is out of range, or there are no steps or more than training timesteps.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, SchedulerError> {
        let schedule = NoiseSchedule::new(config)?;
        let timesteps = timesteps::whole(config, &schedule, steps)?;
        let alphas_cumprod = schedule.alphas_cumprod();
        let final_alpha = if config.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
        let stride = config.num_train_timesteps / steps;
        let alphas = timesteps.iter().map(|&timestep| {
            let next = timestep.checked_sub(stride).map_or(final_alpha, |next| alphas_cumprod[next]);
            (alphas_cumprod[timestep], next)
        });
        Ok(Self {
            alphas: alphas.collect(),
            timesteps: timesteps.into_iter().map(|timestep| timestep as f32).collect(),
            prediction_type: config.prediction_type,
            clip: config.clip_sample.then_some(config.clip_sample_range),
        })
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f32 {
        1.0
    }

    fn noisy(&self, clean: Tensor<4>, noise: Tensor<4>, step_index: usize) -> Tensor<4> {
        let (alpha, _) = self.alphas[step_index];
        rates(alpha).add_noise(clean, noise)
    }

    fn scale_model_input(&self, sample: Tensor<4>, _step_index: usize) -> Tensor<4> {
        sample
    }

    fn predicted_clean(&self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        let (alpha, _) = self.alphas[step_index];
        let clean = self.prediction_type.clean(model_output, sample, &rates(alpha));
        match self.clip {
            Some(range) => clean.clamp(-range, range),
            None => clean,
        }
    }

    fn step(&mut self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        let (alpha, next_alpha) = self.alphas[step_index];
        let clean = self.predicted_clean(model_output.clone(), step_index, sample.clone());
        let noise = self.prediction_type.noise(model_output, sample, &rates(alpha));
        rates(next_alpha).add_noise(clean, noise)
    }
}

/// α and σ at ᾱ.
fn rates(alpha_cumprod: f32) -> Rates {
    Rates::scalar(alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{TimestepSpacing, reference};

    #[test]
    fn follows_diffusers() {
        for case in ["case-sampler-ddim-epsilon", "case-sampler-ddim-v_prediction"] {
            assert!(reference::sampler_error(case) < 2e-6, "{case}");
        }
    }

    #[test]
    fn refuses_noise_prediction_with_zero_terminal_snr() {
        let config = SchedulerConfig {
            rescale_betas_zero_snr: true,
            timestep_spacing: Some(TimestepSpacing::Trailing),
            ..SchedulerConfig::stable_diffusion(PredictionType::Epsilon)
        };
        assert!(Ddim::new(&config, 10).unwrap_err().to_string().contains("rescale_betas_zero_snr"));
        let velocity = SchedulerConfig { prediction_type: PredictionType::VPrediction, ..config };
        assert!(Ddim::new(&velocity, 10).is_ok());
    }

    #[test]
    fn refuses_an_offset_beyond_the_schedule() {
        let config = SchedulerConfig::stable_diffusion(PredictionType::Epsilon);
        assert!(Ddim::new(&config, 999).is_ok());
        assert!(Ddim::new(&config, 1000).unwrap_err().to_string().contains("steps_offset"));
        assert!(Ddim::new(&config, 1001).unwrap_err().to_string().contains("take fewer"));
        assert!(Ddim::new(&config, 0).unwrap_err().to_string().contains("at least one"));
    }
}
