//! Modulation fusion, the paper's new part (section 3.4): `[γ, β] = conv1x1(c)`, `f ← (1 + γ)·f + β`, with the
//! convolution zero-initialised, so that fusion starts as the identity.

use burn::nn::Initializer;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::nn::repeat_batch;

/// How the control branch acts on the frozen UNet.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// Scale and bias on every skip and on the middle block's output: the paper's choice.
    #[default]
    ModulateSkip,
    /// Also on the decoder feature that meets each skip (Table 7).
    ModulateSkipAndUp,
    /// A zero convolution, added: ControlNet (Table 5).
    Add,
}

/// γ and β of one feature map, each in its shape.
#[derive(Clone, Debug)]
pub struct ScaleAndBias {
    gamma: Tensor<4>,
    beta: Tensor<4>,
}

impl ScaleAndBias {
    /// From `[batch, 2·channels, height, width]`: γ is the first half of the channels.
    pub fn new(both: Tensor<4>) -> Self {
        let halves = both.chunk(2, 1);
        Self { gamma: halves[0].clone(), beta: halves[1].clone() }
    }

    /// Both in another float type.
    pub fn cast(self, dtype: DType) -> Self {
        Self { gamma: self.gamma.cast(dtype), beta: self.beta.cast(dtype) }
    }

    /// `(1 + γ)·f + β`; `feature` may hold the batch of γ and β several times over.
    pub fn apply(self, feature: Tensor<4>) -> Tensor<4> {
        let halves = feature.dims()[0] / self.gamma.dims()[0];
        (repeat_batch(self.gamma, halves) + 1.0) * feature + repeat_batch(self.beta, halves)
    }
}

/// A 1×1 convolution whose weight and bias start at zero.
pub fn zero_conv(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [1, 1]).with_initializer(Initializer::Zeros).init(device)
}
