//! Denoising diffusion probabilistic models, <https://arxiv.org/abs/2006.11239>, on a part of the training timesteps.

use burn::tensor::Tensor;

use super::ddim::Ddim;
use super::{Sampler, SchedulerConfig, SchedulerError};

/// Ancestral sampling: each step draws from the posterior of the next latent, given this one and the predicted clean latent
/// (equations 6 and 7). The variance is the smaller of the paper's two, diffusers' `fixed_small`.
#[derive(Debug, Clone)]
pub struct Ddpm {
    /// Timesteps, and ᾱ at each of them and at the next, which is 1 after the last.
    ddim: Ddim,
}

impl Ddpm {
    /// DDPM in `steps` steps.
    ///
    /// # Errors
    /// As [`Ddim::new`].
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, SchedulerError> {
        let mut ddim = Ddim::new(config, steps)?;
        let alphas: Vec<f32> = ddim.alphas.iter().map(|&(alpha, _)| alpha).collect();
        let next = alphas.iter().copied().skip(1).chain([1.0]);
        ddim.alphas = alphas.iter().copied().zip(next).collect();
        Ok(Self { ddim })
    }
}

impl Sampler for Ddpm {
    fn timesteps(&self) -> &[f32] {
        self.ddim.timesteps()
    }

    fn init_noise_sigma(&self) -> f32 {
        self.ddim.init_noise_sigma()
    }

    fn noisy(&self, clean: Tensor<4>, noise: Tensor<4>, step_index: usize) -> Tensor<4> {
        self.ddim.noisy(clean, noise, step_index)
    }

    fn scale_model_input(&self, sample: Tensor<4>, step_index: usize) -> Tensor<4> {
        self.ddim.scale_model_input(sample, step_index)
    }

    fn predicted_clean(&self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        self.ddim.predicted_clean(model_output, step_index, sample)
    }

    fn noise_scale(&self, step_index: usize) -> f32 {
        let (alpha, next_alpha) = self.ddim.alphas[step_index];
        let beta = 1.0 - alpha / next_alpha;
        ((1.0 - next_alpha) / (1.0 - alpha) * beta).sqrt()
    }

    fn step(&mut self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        let (alpha, next_alpha) = self.ddim.alphas[step_index];
        let clean = self.predicted_clean(model_output, step_index, sample.clone());
        let step_alpha = alpha / next_alpha;
        let of_clean = next_alpha.sqrt() * (1.0 - step_alpha) / (1.0 - alpha);
        let of_sample = step_alpha.sqrt() * (1.0 - next_alpha) / (1.0 - alpha);
        clean * of_clean + sample * of_sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{PredictionType, reference};

    #[test]
    fn follows_diffusers() {
        for case in ["case-sampler-ddpm-epsilon", "case-sampler-ddpm-v_prediction"] {
            assert!(reference::sampler_error(case) < 2e-6, "{case}");
        }
    }

    #[test]
    fn the_last_step_adds_no_noise() {
        let config = SchedulerConfig::stable_diffusion(PredictionType::Epsilon);
        let sampler = Ddpm::new(&config, 5).unwrap();
        let scales: Vec<f32> = (0..5).map(|step| sampler.noise_scale(step)).collect();
        assert!(scales[..4].iter().all(|&scale| scale > 0.0) && scales[4] == 0.0, "{scales:?}");
    }
}
