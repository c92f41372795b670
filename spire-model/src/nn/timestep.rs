//! Sinusoidal timestep features and the two-layer network on top.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use spire_kernels::silu;

/// Sines and cosines of the timestep at geometrically spaced frequencies: diffusers' `Timesteps`.
#[derive(Module, Debug)]
pub struct Timesteps {
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
}

impl Timesteps {
    /// `channels` features; cosines first if `flip_sin_to_cos`.
    pub fn new(channels: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Self {
        Self { channels, flip_sin_to_cos, freq_shift }
    }

    /// `[batch]` to `[batch, channels]`.
    pub fn forward(&self, timestep: Tensor<1>) -> Tensor<2> {
        let half = self.channels / 2;
        let exponent = -(10_000_f64.ln()) / (half as f64 - self.freq_shift);
        let frequencies =
            Tensor::<1, Int>::arange(0..half as i64, &timestep.device()).float().mul_scalar(exponent).exp();
        let angles = timestep.unsqueeze_dim::<2>(1) * frequencies.unsqueeze_dim::<2>(0);
        let (sin, cos) = (angles.clone().sin(), angles.cos());
        if self.flip_sin_to_cos { Tensor::cat(vec![cos, sin], 1) } else { Tensor::cat(vec![sin, cos], 1) }
    }
}

/// Linear, SiLU, linear: diffusers' `TimestepEmbedding`.
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// From `channels` features to an embedding of `width`.
    pub fn new(channels: usize, width: usize, device: &Device) -> Self {
        Self {
            linear_1: LinearConfig::new(channels, width).init(device),
            linear_2: LinearConfig::new(width, width).init(device),
        }
    }

    /// `[batch, channels]` to `[batch, width]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(silu(self.linear_1.forward(features)))
    }
}
