//! Euler's method with ancestral noise, after k-diffusion's `sample_euler_ancestral`.

use burn::tensor::Tensor;

use super::{EulerDiscrete, FinalSigmas, Sampler, SchedulerConfig, SchedulerError};

/// Euler steps to less noise than the next level has; fresh noise then fills it up to that level. Latents are unscaled:
/// `x₀ + sigma·ε`.
#[derive(Debug, Clone)]
pub struct EulerAncestral {
    euler: EulerDiscrete,
}

impl EulerAncestral {
    /// Ancestral sampling in `steps` steps. The last one ends without noise.
    ///
    /// # Errors
    /// A setting is out of range, or there are no steps or more than training timesteps.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, SchedulerError> {
        let config = SchedulerConfig { final_sigmas_type: FinalSigmas::Zero, ..config.clone() };
        Ok(Self { euler: EulerDiscrete::new(&config, steps)? })
    }

    /// The level that the Euler step leads to, and the standard deviation of the noise that is added then.
    fn down_and_up(&self, step_index: usize) -> (f32, f32) {
        let (from, to) = self.euler.sigmas(step_index);
        let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
        ((to * to - up * up).sqrt(), up)
    }
}

impl Sampler for EulerAncestral {
    fn timesteps(&self) -> &[f32] {
        self.euler.timesteps()
    }

    fn init_noise_sigma(&self) -> f32 {
        self.euler.init_noise_sigma()
    }

    fn noisy(&self, clean: Tensor<4>, noise: Tensor<4>, step_index: usize) -> Tensor<4> {
        self.euler.noisy(clean, noise, step_index)
    }

    fn scale_model_input(&self, sample: Tensor<4>, step_index: usize) -> Tensor<4> {
        self.euler.scale_model_input(sample, step_index)
    }

    fn predicted_clean(&self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        self.euler.predicted_clean(model_output, step_index, sample)
    }

    fn noise_scale(&self, step_index: usize) -> f32 {
        self.down_and_up(step_index).1
    }

    fn step(&mut self, model_output: Tensor<4>, step_index: usize, sample: Tensor<4>) -> Tensor<4> {
        let (down, _) = self.down_and_up(step_index);
        self.euler.step_to(down, model_output, step_index, sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{PredictionType, reference};

    #[test]
    fn follows_diffusers() {
        for case in ["case-sampler-euler_ancestral-epsilon", "case-sampler-euler_ancestral-v_prediction"] {
            assert!(reference::sampler_error(case) < 2e-6, "{case}");
        }
    }

    #[test]
    fn both_parts_add_up_to_the_next_level() {
        let config = SchedulerConfig::stable_diffusion(PredictionType::Epsilon);
        let sampler = EulerAncestral::new(&config, 6).unwrap();
        for step in 0..6 {
            let (down, up) = sampler.down_and_up(step);
            let (_, next) = sampler.euler.sigmas(step);
            assert!((down.hypot(up) - next).abs() <= 1e-6 * next, "{step}: {down} {up} {next}");
        }
        assert_eq!(sampler.noise_scale(5), 0.0);
    }
}
