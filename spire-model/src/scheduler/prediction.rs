//! Conversions between the noise ε, the velocity v and the clean latent x₀ of a noisy latent (Salimans & Ho 2022,
//! <https://arxiv.org/abs/2202.00512>, appendix D):
//!
//! ```text
//! z_t = α·x₀ + σ·ε        v = α·ε − σ·x₀        α = √ᾱ_t,  σ = √(1 − ᾱ_t)
//! ```
//!
//! All latents are `[batch, channels, height, width]`. The order of operations is diffusers', so that results agree to the
//! last bits.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What the network is trained to predict from the noisy latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε.
    #[default]
    Epsilon,
    /// The velocity v.
    VPrediction,
    /// The clean latent x₀.
    Sample,
}

/// A factor of a latent.
#[derive(Debug, Clone)]
pub(crate) enum Factor {
    /// One for the whole batch.
    Scalar(f64),
    /// One per sample, `[batch, 1, 1, 1]`.
    PerSample(Box<Tensor<4>>),
}

impl Factor {
    fn of(&self, latent: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Scalar(factor) => latent.mul_scalar(*factor),
            Self::PerSample(factor) => *factor.clone() * latent,
        }
    }

    fn divide(&self, latent: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Scalar(factor) => latent.div_scalar(*factor),
            Self::PerSample(factor) => latent / *factor.clone(),
        }
    }
}

/// α and σ of a timestep.
#[derive(Debug, Clone)]
pub(crate) struct Rates {
    /// α = √ᾱ_t, the factor of the clean latent.
    pub signal: Factor,
    /// σ = √(1 − ᾱ_t), the factor of the noise.
    pub noise: Factor,
}

impl Rates {
    /// The same α and σ for the whole batch. An `f32` widens without loss, and the product is taken in the latent's own type.
    pub fn scalar(signal: impl Into<f64>, noise: impl Into<f64>) -> Self {
        Self { signal: Factor::Scalar(signal.into()), noise: Factor::Scalar(noise.into()) }
    }

    /// `z_t = α·x₀ + σ·ε`: the forward process (Ho et al. 2020, <https://arxiv.org/abs/2006.11239>, equation 4).
    pub fn add_noise(&self, clean: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        self.signal.of(clean) + self.noise.of(noise)
    }

    /// `v = α·ε − σ·x₀`.
    pub fn velocity(&self, clean: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        self.signal.of(noise) - self.noise.of(clean)
    }
}

impl PredictionType {
    /// The training target: ε, v or x₀.
    pub(crate) fn target(self, clean: Tensor<4>, noise: Tensor<4>, rates: &Rates) -> Tensor<4> {
        match self {
            Self::Epsilon => noise,
            Self::VPrediction => rates.velocity(clean, noise),
            Self::Sample => clean,
        }
    }

    /// x₀ from the network's `output` for the noisy latent `sample`.
    pub(crate) fn clean(self, output: Tensor<4>, sample: Tensor<4>, rates: &Rates) -> Tensor<4> {
        match self {
            Self::Epsilon => rates.signal.divide(sample - rates.noise.of(output)),
            Self::VPrediction => rates.signal.of(sample) - rates.noise.of(output),
            Self::Sample => output,
        }
    }

    /// ε from the network's `output` for the noisy latent `sample`.
    pub(crate) fn noise(self, output: Tensor<4>, sample: Tensor<4>, rates: &Rates) -> Tensor<4> {
        match self {
            Self::Epsilon => output,
            Self::VPrediction => rates.signal.of(output) + rates.noise.of(sample),
            Self::Sample => rates.noise.divide(sample - rates.signal.of(output)),
        }
    }

    /// x₀ from the network's `output`, where the noisy latent is unscaled: `sample = x₀ + σ'·ε` with `σ' = σ / α`, as Euler's
    /// method keeps it (Karras et al. 2022, <https://arxiv.org/abs/2206.00364>).
    pub(crate) fn clean_unscaled(self, output: Tensor<4>, sample: Tensor<4>, sigma: f32) -> Tensor<4> {
        let variance = sigma * sigma + 1.0;
        match self {
            Self::Epsilon => sample - output * sigma,
            Self::VPrediction => output * (-sigma / variance.sqrt()) + sample / variance,
            Self::Sample => output,
        }
    }

    /// `d output / d x₀ · σ` at a fixed noisy latent: how much the output changes where x₀ grows by σ.
    pub(crate) fn output_per_clean(self, signal: f64, noise: f64) -> f64 {
        match self {
            Self::Epsilon => -signal,
            Self::VPrediction => -1.0,
            Self::Sample => noise,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    const ALL: [PredictionType; 3] = [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample];

    #[test]
    fn target_noise_and_clean_latent_are_inverse() {
        let device = Device::flex();
        let random = || Tensor::<4>::random([2, 4, 3, 3], Distribution::Normal(0.0, 1.0), &device);
        let (clean, noise) = (random(), random());
        for rates in [
            Rates::scalar(0.8, 0.6),
            Rates {
                signal: Factor::PerSample(Box::new(
                    Tensor::<1>::from_floats([0.8, 0.28], &device).reshape([2, 1, 1, 1]),
                )),
                noise: Factor::PerSample(Box::new(
                    Tensor::<1>::from_floats([0.6, 0.96], &device).reshape([2, 1, 1, 1]),
                )),
            },
        ] {
            let sample = rates.add_noise(clean.clone(), noise.clone());
            for kind in ALL {
                let output = kind.target(clean.clone(), noise.clone(), &rates);
                let tolerance = Tolerance::<f32>::absolute(1e-5);
                let found = kind.clean(output.clone(), sample.clone(), &rates);
                found.into_data().assert_approx_eq(&clean.clone().into_data(), tolerance);
                let found = kind.noise(output, sample.clone(), &rates);
                found.into_data().assert_approx_eq(&noise.clone().into_data(), tolerance);
            }
        }
    }

    #[test]
    fn the_unscaled_form_is_the_scaled_one_divided_by_the_signal() {
        let device = Device::flex();
        let random = || Tensor::<4>::random([1, 4, 3, 3], Distribution::Normal(0.0, 1.0), &device);
        let (output, sample) = (random(), random());
        for kind in ALL {
            let scaled = kind.clean(output.clone(), sample.clone(), &Rates::scalar(0.8, 0.6));
            let unscaled = kind.clean_unscaled(output.clone(), sample.clone() / 0.8, 0.6 / 0.8);
            unscaled.into_data().assert_approx_eq(&scaled.into_data(), Tolerance::<f32>::absolute(1e-5));
        }
    }

    #[test]
    fn the_output_changes_as_its_derivative_says() {
        let device = Device::flex();
        let random = || Tensor::<4>::random([1, 4, 3, 3], Distribution::Normal(0.0, 1.0), &device);
        let (output, sample) = (random(), random());
        let (signal, noise) = (0.8, 0.6);
        for kind in ALL {
            let rates = Rates::scalar(signal, noise);
            let before = kind.clean(output.clone(), sample.clone(), &rates);
            let moved = output.clone() + kind.output_per_clean(signal, noise);
            let after = kind.clean(moved, sample.clone(), &rates);
            (after - before).into_data().assert_approx_eq(
                &Tensor::<4>::full([1, 4, 3, 3], noise, &device).into_data(),
                Tolerance::<f32>::absolute(1e-5),
            );
        }
    }
}
