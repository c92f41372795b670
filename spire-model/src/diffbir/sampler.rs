//! DiffBIR's default sampler of v1 and v2: ancestral sampling (Ho et al. 2020, <https://arxiv.org/abs/2006.11239>) on evenly
//! spaced timesteps.

use anyhow::{Result, ensure};
use burn::tensor::Tensor;

use super::Version;

/// Training timesteps.
const TIMESTEPS: usize = 1000;

/// β of the first and of the last timestep; their square roots are evenly spaced.
const BETAS: [f64; 2] = [0.00085, 0.0120];

/// The sampler. Step 0 is the noisiest.
#[derive(Clone, Debug)]
pub struct SpacedSampler {
    steps: Vec<Step>,
    predicts_velocity: bool,
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
    /// A sampler of `count` steps.
    ///
    /// # Errors
    /// `count` is 0 or above 1000.
    pub fn new(version: Version, count: usize) -> Result<Self> {
        ensure!((1..=TIMESTEPS).contains(&count), "steps must be from 1 to {TIMESTEPS}");
        let signals = signals(version);
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
        Ok(Self { steps, predicts_velocity: version == Version::V2_1 })
    }

    /// The timesteps, the noisiest first.
    pub fn timesteps(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().map(|step| step.timestep)
    }

    /// The latent after step `i`, given the network's `output`, the latent before it and standard normal noise, all
    /// `[batch, channels, height, width]`.
    pub fn step(&self, i: usize, output: Tensor<4>, sample: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        let Step { signal, clean, noisy, deviation, .. } = self.steps[i];
        let x0 = if self.predicts_velocity {
            sample.clone().mul_scalar(signal.sqrt()) - output.mul_scalar((1.0 - signal).sqrt())
        } else {
            sample.clone().mul_scalar((1.0 / signal).sqrt()) - output.mul_scalar((1.0 / signal - 1.0).sqrt())
        };
        x0.mul_scalar(clean) + sample.mul_scalar(noisy) + noise.mul_scalar(deviation)
    }
}

/// `clean` with the noise of a training timestep.
pub fn noisy(version: Version, clean: Tensor<4>, noise: Tensor<4>, timestep: usize) -> Tensor<4> {
    let signal = signals(version)[timestep];
    clean.mul_scalar(signal.sqrt()) + noise.mul_scalar((1.0 - signal).sqrt())
}

/// The noisiest training timestep.
pub const LAST: usize = TIMESTEPS - 1;

/// ᾱ of every timestep.
fn signals(version: Version) -> Vec<f64> {
    let [first, last] = BETAS.map(f64::sqrt);
    let beta = |t: usize| (first + (last - first) * t as f64 / LAST as f64).powi(2);
    let products = (0..TIMESTEPS).scan(1.0, |product, t| {
        *product *= 1.0 - beta(t);
        Some(*product)
    });
    let signals: Vec<f64> = products.collect();
    if version != Version::V2_1 {
        return signals;
    }
    // The noisiest latent has no signal (Lin et al. 2023, https://arxiv.org/abs/2305.08891, algorithm 1).
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
        let of = |count| SpacedSampler::new(Version::V1, count).unwrap().timesteps().collect::<Vec<_>>();
        assert_eq!(of(4), [999, 666, 333, 0]);
        assert_eq!(of(3), [999, 500, 0]);
        assert_eq!(of(1), [0]);
        assert_eq!(of(1000).len(), 1000);
        assert!(SpacedSampler::new(Version::V1, 0).is_err() && SpacedSampler::new(Version::V1, 1001).is_err());
    }

    #[test]
    fn only_version_2_1_starts_without_signal() {
        assert_eq!(signals(Version::V2_1)[LAST], 0.0);
        assert!((signals(Version::V2)[LAST] - 0.0047).abs() < 1e-4);
        assert!((signals(Version::V2_1)[0] - signals(Version::V1)[0]).abs() < 1e-12);
    }
}
