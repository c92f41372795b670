//! Noise levels `σ = √((1 − ᾱ) / ᾱ)`: the standard deviation of the noise relative to an unscaled clean latent.

use super::{FinalSigmas, NoiseSchedule, SchedulerConfig, SchedulerError};

/// The noise levels of the training timesteps, ascending.
pub(super) struct SigmaTable {
    sigmas: Vec<f32>,
}

impl SigmaTable {
    pub(super) fn new(config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        let mut alphas_cumprod = NoiseSchedule::new(config)?.alphas_cumprod().to_vec();
        if let Some(last) = alphas_cumprod.last_mut().filter(|_| config.rescale_betas_zero_snr) {
            // Pure noise has no finite level: diffusers replaces the signal by float16's smallest positive number.
            *last = 2f32.powi(-24);
        }
        Ok(Self { sigmas: alphas_cumprod.into_iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect() })
    }

    /// Number of timesteps whose `ln(1 / sigma)` is `lambda_min` or more.
    pub(super) fn length_above(&self, lambda_min: f32) -> usize {
        let log_snr = |sigma: f32| {
            let (signal, noise) = signal_and_noise(sigma);
            signal.ln() - noise.ln()
        };
        self.sigmas.iter().filter(|&&sigma| log_snr(sigma) >= lambda_min).count()
    }

    /// The noise level at `timestep`, between two training timesteps by linear interpolation, clamped beyond the ends.
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let below = (timestep.max(0.0) as usize).min(last);
        let (low, high) = (f64::from(self.sigmas[below]), f64::from(self.sigmas[(below + 1).min(last)]));
        low + (high - low) * (timestep - below as f64).clamp(0.0, 1.0)
    }

    /// The timestep of a noise level, by linear interpolation in its logarithm: the inverse of [`SigmaTable::at`].
    pub(super) fn timestep_of(&self, sigma: f64) -> f64 {
        let log_sigma = sigma.max(1e-10).ln();
        let log_at = |timestep: usize| f64::from(self.sigmas[timestep].ln());
        let below = (0..self.sigmas.len()).take_while(|&timestep| log_at(timestep) <= log_sigma).count();
        let low = below.saturating_sub(1).min(self.sigmas.len() - 2);
        low as f64 + ((log_sigma - log_at(low)) / (log_at(low + 1) - log_at(low))).clamp(0.0, 1.0)
    }

    /// The level of the first training timestep.
    pub(super) fn lowest(&self) -> f64 {
        self.at(0.0)
    }

    /// The level of the last training timestep.
    pub(super) fn highest(&self) -> f64 {
        self.at(self.sigmas.len() as f64)
    }

    /// The level after the last step.
    pub(super) fn after_last(&self, config: &SchedulerConfig) -> f32 {
        match config.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => self.sigmas[0],
        }
    }
}

/// Karras or exponential noise levels from `highest` down to `lowest`, if `config` asks for them.
pub(super) fn respaced(config: &SchedulerConfig, highest: f64, lowest: f64, steps: usize) -> Option<Vec<f64>> {
    const RHO: f64 = 7.0;
    let highest = config.sigma_max.unwrap_or(highest);
    let lowest = config.sigma_min.unwrap_or(lowest);
    let between = |from: f64, to: f64| {
        let stride = (to - from) / (steps.max(2) - 1) as f64;
        (0..steps).map(move |index| from + stride * index as f64)
    };
    if config.use_karras_sigmas {
        Some(between(highest.powf(1.0 / RHO), lowest.powf(1.0 / RHO)).map(|root| root.powf(RHO)).collect())
    } else if config.use_exponential_sigmas {
        Some(between(highest.ln(), lowest.ln()).map(f64::exp).collect())
    } else {
        None
    }
}

/// `sqrt(a)` and `sqrt(1 - a)` for a noise level.
pub(super) fn signal_and_noise(sigma: f32) -> (f32, f32) {
    let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
    (signal, sigma * signal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::PredictionType;

    #[test]
    fn timesteps_and_levels_are_inverse() {
        let config = SchedulerConfig::stable_diffusion(PredictionType::Epsilon);
        let table = SigmaTable::new(&config).unwrap();
        for timestep in [0.0, 1.0, 137.0, 998.0, 999.0] {
            assert!((table.timestep_of(table.at(timestep)) - timestep).abs() < 1e-3);
        }
        assert_eq!(table.timestep_of(0.0), 0.0);
        assert_eq!(table.timestep_of(1e9), 999.0);
        assert!((table.highest() - 14.6146).abs() < 1e-3, "{}", table.highest());
    }

    #[test]
    fn karras_levels_run_between_the_ends() {
        let config = SchedulerConfig { use_karras_sigmas: true, ..Default::default() };
        let sigmas = respaced(&config, 14.6, 0.03, 5).unwrap();
        assert!((sigmas[0] - 14.6).abs() < 1e-9 && (sigmas[4] - 0.03).abs() < 1e-9);
        // Equation 5 of the paper at its middle: ((14.6^(1/7) + 0.03^(1/7)) / 2)^7.
        assert!((sigmas[2] - 1.2837).abs() < 1e-3, "{}", sigmas[2]);
    }
}
