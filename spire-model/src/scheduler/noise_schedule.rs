//! The forward process: ᾱ_t for every training timestep (Ho et al. 2020, <https://arxiv.org/abs/2006.11239>).

use std::f64::consts::FRAC_PI_2;

use burn::tensor::{Tensor, TensorData};

use super::prediction::{Factor, Rates};
use super::{BetaSchedule, PredictionType, SchedulerConfig, SchedulerError};

/// `z_t = √ᾱ_t·x₀ + √(1 − ᾱ_t)·ε`, with ᾱ_t tabulated for every training timestep.
///
/// Betas and their products are rounded to float32 where diffusers rounds them. `1 − ᾱ_0` is small: a more precise table
/// would differ from diffusers' by 1e-4.
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f32>,
    prediction_type: PredictionType,
}

impl NoiseSchedule {
    /// Tabulates the schedule of `config`.
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        config.validate()?;
        let mut betas = match &config.trained_betas {
            Some(betas) => betas.clone(),
            None => betas(config),
        };
        if config.rescale_betas_zero_snr {
            betas = rescale_to_zero_terminal_snr(&betas);
        }
        let alphas: Vec<f32> = betas.iter().map(|beta| 1.0 - beta).collect();
        Ok(Self { alphas_cumprod: cumulative_product(&alphas), prediction_type: config.prediction_type })
    }

    /// ᾱ_t for every timestep t, in \[0, 1\]: the fraction of the noisy latent's variance that is signal.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// Number of training timesteps, T.
    pub fn num_train_timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// The prediction type of the network.
    pub fn prediction_type(&self) -> PredictionType {
        self.prediction_type
    }

    /// The noisy latent at `timesteps`, one per sample. All tensors are `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// The number of timesteps is not the batch size, or a timestep is beyond the schedule.
    pub fn add_noise(
        &self,
        sample: Tensor<4>,
        noise: Tensor<4>,
        timesteps: &[usize],
    ) -> Result<Tensor<4>, SchedulerError> {
        Ok(self.rates(&sample, timesteps)?.add_noise(sample, noise))
    }

    /// The velocity `√ᾱ_t·noise − √(1 − ᾱ_t)·sample`. Shapes as in [`NoiseSchedule::add_noise`].
    ///
    /// # Errors
    /// The number of timesteps is not the batch size, or a timestep is beyond the schedule.
    pub fn velocity(
        &self,
        sample: Tensor<4>,
        noise: Tensor<4>,
        timesteps: &[usize],
    ) -> Result<Tensor<4>, SchedulerError> {
        Ok(self.rates(&sample, timesteps)?.velocity(sample, noise))
    }

    /// The training target, by `prediction_type`: the noise, the velocity or the clean `sample`. Shapes as in
    /// [`NoiseSchedule::add_noise`].
    ///
    /// # Errors
    /// The number of timesteps is not the batch size, or a timestep is beyond the schedule.
    pub fn target(
        &self,
        sample: Tensor<4>,
        noise: Tensor<4>,
        timesteps: &[usize],
    ) -> Result<Tensor<4>, SchedulerError> {
        let rates = self.rates(&sample, timesteps)?;
        Ok(self.prediction_type.target(sample, noise, &rates))
    }

    /// Of each timestep, the weight of its squared error with min-SNR weighting (Hang et al. 2023,
    /// <https://arxiv.org/abs/2303.09556>): min(SNR, γ) for an error of the clean latent, SNR = ᾱ / (1 − ᾱ). In these units an
    /// error of ε weighs min(SNR, γ) / SNR, one of v min(SNR, γ) / (SNR + 1).
    pub fn min_snr_weights(&self, gamma: f32) -> Vec<f32> {
        let weight = |&alpha: &f32| {
            let snr = alpha / (1.0 - alpha);
            match self.prediction_type {
                // The limit at the last timestep of a schedule that ends in pure noise.
                PredictionType::Epsilon if snr == 0.0 => 1.0,
                PredictionType::Epsilon => snr.min(gamma) / snr,
                PredictionType::VPrediction => snr.min(gamma) / (snr + 1.0),
                PredictionType::Sample => snr.min(gamma),
            }
        };
        self.alphas_cumprod.iter().map(weight).collect()
    }

    /// x₀ from the network's `model_output` for the noisy `sample` at `timesteps`. Shapes as in [`NoiseSchedule::add_noise`].
    ///
    /// # Errors
    /// The number of timesteps is not the batch size, or a timestep is beyond the schedule.
    pub fn predicted_clean(
        &self,
        model_output: Tensor<4>,
        sample: Tensor<4>,
        timesteps: &[usize],
    ) -> Result<Tensor<4>, SchedulerError> {
        let rates = self.rates(&sample, timesteps)?;
        Ok(self.prediction_type.clean(model_output, sample, &rates))
    }

    /// α and σ for each sample, in the sample's float type.
    fn rates(&self, sample: &Tensor<4>, timesteps: &[usize]) -> Result<Rates, SchedulerError> {
        let batch = sample.dims()[0];
        if timesteps.len() != batch {
            return Err(SchedulerError::Batch { timesteps: timesteps.len(), batch });
        }
        let count = self.num_train_timesteps();
        let alphas = timesteps
            .iter()
            .map(|&timestep| {
                self.alphas_cumprod.get(timestep).copied().ok_or(SchedulerError::Timestep { timestep, count })
            })
            .collect::<Result<Vec<f32>, _>>()?;
        let per_sample = |factors: Vec<f32>| {
            let factors = TensorData::new(factors, [batch, 1, 1, 1]);
            Factor::PerSample(Box::new(Tensor::from_data(factors, (&sample.device(), sample.dtype()))))
        };
        let signal = per_sample(alphas.iter().map(|alpha| alpha.sqrt()).collect());
        let noise = per_sample(alphas.iter().map(|alpha| (1.0 - alpha).sqrt()).collect());
        Ok(Rates { signal, noise })
    }
}

fn betas(config: &SchedulerConfig) -> Vec<f32> {
    let count = config.num_train_timesteps;
    match config.beta_schedule {
        BetaSchedule::Linear => linspace(config.beta_start as f32, config.beta_end as f32, count),
        BetaSchedule::ScaledLinear => {
            let roots = linspace(config.beta_start.sqrt() as f32, config.beta_end.sqrt() as f32, count);
            roots.into_iter().map(|root| root * root).collect()
        }
        BetaSchedule::SquaredCosine => {
            let alpha_bar = |step: usize| {
                let time = step as f64 / count as f64;
                ((time + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2)
            };
            (0..count).map(|step| (1.0 - alpha_bar(step + 1) / alpha_bar(step)).min(0.999) as f32).collect()
        }
    }
}

/// `torch.linspace`, which computes from both ends towards the middle.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count - 1) as f32;
    let rising = (0..count / 2).map(|index| start + step * index as f32);
    let falling = (count / 2..count).map(|index| end - step * (count - 1 - index) as f32);
    rising.chain(falling).collect()
}

/// Cumulative products in float64, rounded to float32, as torch computes them on a CPU.
fn cumulative_product(values: &[f32]) -> Vec<f32> {
    values
        .iter()
        .scan(1.0f64, |product, &value| {
            *product *= f64::from(value);
            Some(*product as f32)
        })
        .collect()
}

/// Shifts and scales `√ᾱ_t` so that it keeps its first value and ends at zero (<https://arxiv.org/abs/2305.08891>,
/// algorithm 1).
fn rescale_to_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let alphas: Vec<f32> = betas.iter().map(|beta| 1.0 - beta).collect();
    let roots: Vec<f32> = cumulative_product(&alphas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let rescaled: Vec<f32> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    let ratios = rescaled.windows(2).map(|pair| 1.0 - pair[1] / pair[0]);
    std::iter::once(1.0 - rescaled[0]).chain(ratios).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn min_snr_weighs_the_error_of_the_clean_latent_alike_for_every_prediction() {
        let weights = |prediction_type| {
            let schedule = NoiseSchedule::new(&SchedulerConfig::stable_diffusion(prediction_type)).unwrap();
            (schedule.min_snr_weights(5.0), schedule.alphas_cumprod().to_vec())
        };
        let (epsilon, alphas) = weights(PredictionType::Epsilon);
        let (velocity, _) = weights(PredictionType::VPrediction);
        let (sample, _) = weights(PredictionType::Sample);
        assert_eq!(alphas.len(), 1000);
        for (i, alpha) in alphas.into_iter().enumerate() {
            // An error of ε is √SNR times that of x₀, one of v √(SNR + 1) times.
            let snr = alpha / (1.0 - alpha);
            let close = |a: f32, b: f32| (a - b).abs() < 1e-5 * b;
            assert!(close(sample[i], snr.min(5.0)), "{i}: {}", sample[i]);
            assert!(close(epsilon[i] * snr, snr.min(5.0)), "{i}: {}", epsilon[i]);
            assert!(close(velocity[i] * (snr + 1.0), snr.min(5.0)), "{i}: {}", velocity[i]);
        }
        assert!(epsilon[0] < 0.01 && epsilon[999] == 1.0);
    }

    use crate::scheduler::reference::{self, Case};

    #[test]
    fn adds_noise_like_diffusers() {
        let case = Case::open("case-add-noise");
        let schedule = NoiseSchedule::new(&case.config).unwrap();
        let timesteps: Vec<usize> = case.integers("in.timestep").into_iter().map(|t| t as usize).collect();
        let (sample, noise) = (case.tensor("in.sample"), case.tensor("in.noise"));
        let noisy = schedule.add_noise(sample.clone(), noise.clone(), &timesteps).unwrap();
        let velocity = schedule.velocity(sample, noise, &timesteps).unwrap();
        assert!(reference::error(noisy, case.tensor("out.noisy")) < 1e-6);
        assert!(reference::error(velocity, case.tensor("out.velocity")) < 1e-6);
    }

    #[test]
    fn every_prediction_type_recovers_the_clean_latent() {
        let device = Device::default();
        for prediction_type in [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample] {
            let schedule = NoiseSchedule::new(&SchedulerConfig::stable_diffusion(prediction_type)).unwrap();
            let clean = Tensor::<4>::random([3, 4, 2, 2], Distribution::Normal(0.0, 1.0), &device);
            let noise = Tensor::<4>::random([3, 4, 2, 2], Distribution::Normal(0.0, 1.0), &device);
            let timesteps = [0, 321, 700];
            let noisy = schedule.add_noise(clean.clone(), noise.clone(), &timesteps).unwrap();
            let target = schedule.target(clean.clone(), noise, &timesteps).unwrap();
            let predicted = schedule.predicted_clean(target, noisy, &timesteps).unwrap();
            assert!(reference::error(predicted, clean) < 1e-5);
        }
    }

    #[test]
    fn zero_terminal_snr_ends_in_pure_noise() {
        let config = SchedulerConfig {
            rescale_betas_zero_snr: true,
            ..SchedulerConfig::stable_diffusion(PredictionType::VPrediction)
        };
        let schedule = NoiseSchedule::new(&config).unwrap();
        let plain = NoiseSchedule::new(&SchedulerConfig { rescale_betas_zero_snr: false, ..config }).unwrap();
        assert_eq!(schedule.alphas_cumprod()[999], 0.0);
        assert!((schedule.alphas_cumprod()[0] - plain.alphas_cumprod()[0]).abs() < 1e-6);
    }

    #[test]
    fn refuses_wrong_timesteps() {
        let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
        let zeros = Tensor::<4>::zeros([2, 1, 1, 1], &Device::default());
        let beyond = schedule.add_noise(zeros.clone(), zeros.clone(), &[0, 1000]).unwrap_err();
        assert!(matches!(beyond, SchedulerError::Timestep { timestep: 1000, count: 1000 }));
        let missing = schedule.add_noise(zeros.clone(), zeros, &[0]).unwrap_err();
        assert!(matches!(missing, SchedulerError::Batch { timesteps: 1, batch: 2 }));
    }

    proptest! {
        #[test]
        fn alphas_cumprod_decrease(
            beta_start in 1e-5f64..0.002,
            growth in 1.0f64..20.0,
            count in 2usize..1200,
            schedule in prop::sample::select(vec![
                BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::SquaredCosine,
            ]),
        ) {
            let config = SchedulerConfig {
                beta_start,
                beta_end: beta_start * growth,
                beta_schedule: schedule,
                num_train_timesteps: count,
                ..Default::default()
            };
            let schedule = NoiseSchedule::new(&config).unwrap();
            prop_assert_eq!(schedule.num_train_timesteps(), count);
            prop_assert!(schedule.alphas_cumprod().windows(2).all(|pair| pair[1] < pair[0]));
            prop_assert!(schedule.alphas_cumprod().iter().all(|alpha| (0.0..1.0).contains(alpha)));
        }
    }
}
