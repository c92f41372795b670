//! Residual block of two normalised convolutions, with an optional timestep embedding.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use spire_kernels::{add_conv2d, conv2d, group_norm_silu, silu};

use super::spade::Spade;

/// A 3×3 convolution that keeps the size.
pub fn conv3x3(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
}

/// A 1×1 convolution.
pub fn conv1x1(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [1, 1]).init(device)
}

/// diffusers' `ResnetBlock2D`.
#[derive(Module, Debug)]
pub struct ResnetBlock2d {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    spade: Option<Spade>,
    output_scale_factor: f64,
}

/// The settings of a [`ResnetBlock2d`] besides its channels.
#[derive(Clone, Copy, Debug)]
pub struct ResnetConfig {
    /// Width of the timestep embedding; `None` in the VAE.
    pub time_width: Option<usize>,
    /// Groups of the normalisation.
    pub groups: usize,
    /// Its epsilon.
    pub epsilon: f64,
    /// Divisor of the sum with the shortcut.
    pub output_scale_factor: f64,
    /// Channels of the map that modulates the block's result, as in StableSR; usually none.
    pub structure_channels: Option<usize>,
}

impl ResnetBlock2d {
    /// A block from `from` to `to` channels.
    pub fn new(from: usize, to: usize, config: ResnetConfig, device: &Device) -> Self {
        let norm = |channels| GroupNormConfig::new(config.groups, channels).with_epsilon(config.epsilon).init(device);
        Self {
            norm1: norm(from),
            conv1: conv3x3(from, to, device),
            time_emb_proj: config.time_width.map(|width| LinearConfig::new(width, to).init(device)),
            norm2: norm(to),
            conv2: conv3x3(to, to, device),
            conv_shortcut: (from != to).then(|| conv1x1(from, to, device)),
            spade: config.structure_channels.map(|structure| Spade::new(to, structure, config.groups, device)),
            output_scale_factor: config.output_scale_factor,
        }
    }

    /// `x` `[batch, from, height, width]`, `time` `[batch, time_width]`, to `[batch, to, height, width]`.
    pub fn forward(&self, x: Tensor<4>, time: Option<Tensor<2>>) -> Tensor<4> {
        self.forward_modulated(x, time, None)
    }

    /// As [`Self::forward`], with what is added to the shortcut modulated by `structure`,
    /// `[batch, structure_channels, height, width]`.
    pub fn forward_modulated(&self, x: Tensor<4>, time: Option<Tensor<2>>, structure: Option<&Tensor<4>>) -> Tensor<4> {
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv2d(conv, x.clone()),
            None => x.clone(),
        };
        let mut x = conv2d(&self.conv1, group_norm_silu(&self.norm1, x));
        if let (Some(projection), Some(time)) = (&self.time_emb_proj, time) {
            x = x + projection.forward(silu(time)).unsqueeze_dims::<4>(&[2, 3]);
        }
        let x = group_norm_silu(&self.norm2, x);
        let x = match (&self.spade, structure) {
            (Some(spade), Some(structure)) => shortcut + spade.forward(conv2d(&self.conv2, x), structure.clone()),
            _ => add_conv2d(shortcut, &self.conv2, x),
        };
        if self.output_scale_factor == 1.0 { x } else { x.div_scalar(self.output_scale_factor) }
    }
}
