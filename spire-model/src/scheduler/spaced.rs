//! Ancestral sampling (Ho et al. 2020, <https://arxiv.org/abs/2006.11239>) on evenly spaced timesteps of Stable Diffusion's
//! schedule, as DiffBIR and StableSR sample.

use anyhow::{Result, ensure};
use burn::tensor::Tensor;

use super::PredictionType;
use super::prediction::Rates;

/// Training timesteps.
const TIMESTEPS: usize = 1000;

/// β of the first and of the last timestep; their square roots are evenly spaced.
const BETAS: [f64; 2] = [0.00085, 0.0120];

/// The noisiest training timestep.
pub const LAST: usize = TIMESTEPS - 1;

/// The sampler. Step 0 is the noisiest.
#[derive(Clone, Debug)]
pub struct SpacedSampler {
    steps: Vec<Step>,
    prediction: PredictionType,
    /// ᾱ of every training timestep.
    signals: Vec<f64>,
}

/// The factors of one step.
#[derive(Clone, Copy, Debug)]
struct Step {
    timestep: usize,
    /// ᾱ of this timestep.
    signal: f64,
    /// The next latent is `clean · x₀ + noisy · xₜ + deviation · noise`.
    clean: f64,
    noisy: f64,
    deviation: f64,
}

impl SpacedSampler {
    /// A sampler of `count` steps. With `zero_terminal`, the noisiest latent has no signal.
    ///
    /// # Errors
    /// `count` is 0 or above 1000.
    pub fn new(prediction: PredictionType, zero_terminal: bool, count: usize) -> Result<Self> {
        ensure!((1..=TIMESTEPS).contains(&count), "steps must be from 1 to {TIMESTEPS}");
        let signals = signals(zero_terminal);
        let (mut steps, mut before) = (Vec::with_capacity(count), 1.0);
        for timestep in spaced(count) {
            let signal: f64 = signals[timestep];
            let beta = 1.0 - signal / before;
            steps.push(Step {
                timestep,
                signal,
                clean: beta * before.sqrt() / (1.0 - signal),
                noisy: (1.0 - before) * (1.0 - beta).sqrt() / (1.0 - signal),
                // Nothing is added in the last step.
                deviation: (beta * (1.0 - before) / (1.0 - signal)).sqrt(),
            });
            before = signal;
        }
        steps.reverse();
        Ok(Self { steps, prediction, signals })
    }

    /// The timesteps, the noisiest first.
    pub fn timesteps(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().map(|step| step.timestep)
    }

    /// ᾱ at step `i`.
    pub fn signal(&self, i: usize) -> f64 {
        self.steps[i].signal
    }

    /// `clean` with the noise of a training timestep.
    pub fn noisy(&self, clean: Tensor<4>, noise: Tensor<4>, timestep: usize) -> Tensor<4> {
        rates(self.signals[timestep]).add_noise(clean, noise)
    }

    /// The clean latent that the network's `output` for the noisy latent `sample` predicts at step `i`, all
    /// `[batch, channels, height, width]`.
    pub fn clean(&self, i: usize, output: Tensor<4>, sample: Tensor<4>) -> Tensor<4> {
        self.prediction.clean(output, sample, &rates(self.steps[i].signal))
    }

    /// The weight of the clean latent in the one after step `i`.
    pub fn clean_weight(&self, i: usize) -> f64 {
        self.steps[i].clean
    }

    /// The latent after step `i`, given the predicted `clean` latent, the one before the step and standard normal noise, all
    /// `[batch, channels, height, width]`.
    pub fn step(&self, i: usize, clean: Tensor<4>, sample: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        let Step { clean: weight, noisy, deviation, .. } = self.steps[i];
        clean.mul_scalar(weight) + sample.mul_scalar(noisy) + noise.mul_scalar(deviation)
    }
}

fn rates(signal: f64) -> Rates {
    Rates::scalar(signal.sqrt(), (1.0 - signal).sqrt())
}

/// ᾱ of every timestep.
fn signals(zero_terminal: bool) -> Vec<f64> {
    let [first, last] = BETAS.map(f64::sqrt);
    let beta = |t: usize| (first + (last - first) * t as f64 / LAST as f64).powi(2);
    let products = (0..TIMESTEPS).scan(1.0, |product, t| {
        *product *= 1.0 - beta(t);
        Some(*product)
    });
    let signals: Vec<f64> = products.collect();
    if !zero_terminal {
        return signals;
    }
    // Lin et al. 2023, https://arxiv.org/abs/2305.08891, algorithm 1.
    let (first, last) = (signals[0].sqrt(), signals[LAST].sqrt());
    signals.iter().map(|signal| ((signal.sqrt() - last) * first / (first - last)).powi(2)).collect()
}

/// `count` timesteps from 0 to the last, evenly spaced; a single one is 0.
fn spaced(count: usize) -> impl Iterator<Item = usize> {
    let stride = if count > 1 { LAST as f64 / (count - 1) as f64 } else { 1.0 };
    // Summed, and rounded to even, as in the original code.
    (0..count).scan(0.0, move |place, _| {
        let timestep = f64::round_ties_even(*place) as usize;
        *place += stride;
        Some(timestep)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_are_evenly_spaced() {
        let new = |count| SpacedSampler::new(PredictionType::Epsilon, false, count);
        let of = |count| new(count).unwrap().timesteps().collect::<Vec<_>>();
        assert_eq!(of(4), [999, 666, 333, 0]);
        assert_eq!(of(3), [999, 500, 0]);
        assert_eq!(of(1), [0]);
        assert_eq!(of(1000).len(), 1000);
        assert!(new(0).is_err() && new(1001).is_err());
    }

    #[test]
    fn only_a_zero_terminal_schedule_starts_without_signal() {
        assert_eq!(signals(true)[LAST], 0.0);
        assert!((signals(false)[LAST] - 0.0047).abs() < 1e-4);
        assert!((signals(true)[0] - signals(false)[0]).abs() < 1e-12);
    }
}
