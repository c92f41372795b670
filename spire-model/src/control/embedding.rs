//! The conditioning embedding e(y) of the degraded picture.

use anyhow::{Result, ensure};
use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use spire_kernels::{conv2d, silu};

use super::ConditioningRange;

/// Keeps the signal's variance through the convolutions: SiLU maps a normal variable of variance 1 to a mean square of 0.355,
/// and the gain compensates. PyTorch's default keeps a third of the variance per convolution; after eight, about one
/// ten-thousandth of the picture's contrast would be left.
pub(super) const KEEPS_VARIANCE: Initializer = Initializer::KaimingNormal { gain: 1.68, fan_out_only: false };

/// The conditioning embedding e(y): convolutions from the degraded picture down to the latent's size; diffusers'
/// `ControlNetConditioningEmbedding`.
#[derive(Module, Debug)]
pub struct ConditioningEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl ConditioningEmbedding {
    /// Random weights: from 3 channels to `out`, through `channels[0]` at full size, `channels[1]` at half, and so on.
    ///
    /// # Errors
    /// `channels` is empty or contains 0.
    pub fn fresh(channels: &[usize], out: usize, device: &Device) -> Result<Self> {
        ensure!(
            !channels.is_empty() && !channels.contains(&0),
            "the conditioning embedding needs one or more channels per level, not {channels:?}"
        );
        Ok(Self::new(3, channels, out, KEEPS_VARIANCE, device))
    }

    /// From `from` to `out` channels; `last` initialises the last convolution.
    pub(super) fn new(from: usize, channels: &[usize], out: usize, last: Initializer, device: &Device) -> Self {
        let conv = |from, to, stride, initializer| {
            Conv2dConfig::new([from, to], [3, 3])
                .with_stride([stride, stride])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_initializer(initializer)
                .init(device)
        };
        let block = |from, to| [conv(from, from, 1, KEEPS_VARIANCE), conv(from, to, 2, KEEPS_VARIANCE)];
        Self {
            conv_in: conv(from, channels[0], 1, KEEPS_VARIANCE),
            blocks: channels.windows(2).flat_map(|pair| block(pair[0], pair[1])).collect(),
            conv_out: conv(channels[channels.len() - 1], out, 1, last),
        }
    }

    /// `picture` `[batch, 3, height, width]`, in the range that the embedding was fitted to, to `[batch, out, height / 8, width / 8]`: each entry of
    /// `channels` after the first halves the size.
    pub fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let x = silu(conv2d(&self.conv_in, picture));
        let x = self.blocks.iter().fold(x, |x, block| silu(conv2d(block, x)));
        conv2d(&self.conv_out, x)
    }

    /// These convolutions, fitted to pictures in `from`, for pictures in `to`. The first one takes over the conversion,
    /// which is exact except at the border of the picture: its padding stands for grey in \[-1, 1\] and for black in
    /// \[0, 1\].
    pub fn for_range(mut self, from: ConditioningRange, to: ConditioningRange) -> Self {
        // The values in `from`'s range are `factor · x + shift` for x in that of `to`.
        let (factor, shift) = match (from, to) {
            (ConditioningRange::Symmetric, ConditioningRange::Unit) => (2.0, -1.0),
            (ConditioningRange::Unit, ConditioningRange::Symmetric) => (0.5, 0.5),
            _ => return self,
        };
        let weight = self.conv_in.weight.val();
        let [out, ..] = weight.dims();
        let moved = weight.clone().sum_dims(&[1, 2, 3]).reshape([out]).mul_scalar(shift);
        let bias = match &self.conv_in.bias {
            Some(bias) => bias.val() + moved,
            None => moved,
        };
        // Detached, so that both are leaves of the graph and can be trained.
        self.conv_in.weight = Param::from_tensor(weight.mul_scalar(factor).detach());
        self.conv_in.bias = Some(Param::from_tensor(bias.detach()));
        self
    }

    /// These convolutions with the last one of `other`.
    pub(super) fn with_last_of(self, other: Self) -> Self {
        Self { conv_out: other.conv_out, ..self }
    }
}
