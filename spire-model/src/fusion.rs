//! Fusion of the control branch with the frozen UNet (paper section 3.4, "modulation fusion layer"): `[γ, β] = conv1x1(c)`,
//! `f ← (1 + γ)·f + β`. The convolution is zero-initialised, so that fusion starts as the identity.

use std::fmt;
use std::ops::Range;

use burn::nn::Initializer;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use spire_kernels::conv2d;

use crate::nn::cores::rows;
use crate::nn::{Features, repeat_batch};

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

/// The name in a configuration.
impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ModulateSkip => "modulate_skip",
            Self::ModulateSkipAndUp => "modulate_skip_and_up",
            Self::Add => "add",
        })
    }
}

/// γ and β of one feature map, each `[batch, channels, height, width]`.
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

    /// `[γ, β] = scale · conv1x1(c)` in f32, the type of the frozen UNet's features, whatever the branch computes in.
    fn of(conv: &Conv2d, feature: Tensor<4>, scale: f64) -> Self {
        Self::new(scaled(conv2d(conv, feature).cast(DType::F32), scale))
    }

    /// Converts both to another float type.
    pub fn cast(self, dtype: DType) -> Self {
        Self { gamma: self.gamma.cast(dtype), beta: self.beta.cast(dtype) }
    }

    /// Those of some rows of a feature of `batch` rows, which contains the batch of γ and β once per guidance pass.
    pub(crate) fn rows(&self, range: &Range<usize>, batch: usize) -> Self {
        let passes = batch / self.gamma.dims()[0];
        let of = |x: &Tensor<4>| rows(&repeat_batch(x.clone(), passes), range);
        Self { gamma: of(&self.gamma), beta: of(&self.beta) }
    }

    /// `(1 + γ)·f + β`. `feature` may contain the batch of γ and β several times, once per guidance pass.
    pub fn apply(self, feature: Tensor<4>) -> Tensor<4> {
        let passes = feature.dims()[0] / self.gamma.dims()[0];
        (repeat_batch(self.gamma, passes) + 1.0) * feature + repeat_batch(self.beta, passes)
    }
}

/// A 1×1 convolution whose weight and bias start at zero.
pub fn zero_conv(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [1, 1]).with_initializer(Initializer::Zeros).init(device)
}

/// The zero-initialised convolutions of one fusion, one per skip and one for the middle block.
pub(crate) enum FusionLayers<'a> {
    /// From C to 2·C channels.
    Modulate { skip: &'a [Conv2d], mid: &'a Conv2d, up: Option<&'a [Conv2d]> },
    /// From C to C channels.
    Add { skip: &'a [Conv2d], mid: &'a Conv2d },
}

impl FusionLayers<'_> {
    /// The fused features, and the modulations of the decoder if there are any. The batch of `frozen` is a multiple of that of
    /// `control`. `scale` multiplies γ and β, or the residuals.
    pub fn fuse(&self, frozen: Features, control: Features, scale: f64) -> (Features, Option<Vec<ScaleAndBias>>) {
        match *self {
            Self::Modulate { skip, mid, up } => modulate(skip, mid, up, frozen, control, scale),
            Self::Add { skip, mid } => (add(frozen, residuals(skip, mid, control).cast(DType::F32), scale), None),
        }
    }
}

/// `scale · x`; a scale of 1, that of training, costs nothing.
fn scaled(x: Tensor<4>, scale: f64) -> Tensor<4> {
    if scale == 1.0 { x } else { x.mul_scalar(scale) }
}

fn modulate(
    skip: &[Conv2d],
    mid: &Conv2d,
    up: Option<&[Conv2d]>,
    frozen: Features,
    control: Features,
    scale: f64,
) -> (Features, Option<Vec<ScaleAndBias>>) {
    let modulations = |convs: &[Conv2d]| -> Vec<ScaleAndBias> {
        convs.iter().zip(&control.down).map(|(conv, c)| ScaleAndBias::of(conv, c.clone(), scale)).collect()
    };
    // The decoder meets a skip at the skip's own resolution, so c_i has the size of the decoder feature too.
    let up = up.map(modulations);
    let down = modulations(skip).into_iter().zip(frozen.down).map(|(modulation, f)| modulation.apply(f)).collect();
    let mid = ScaleAndBias::of(mid, control.mid, scale).apply(frozen.mid);
    (Features { down, mid }, up)
}

/// The control features through ControlNet's zero convolutions.
pub(crate) fn residuals(skip: &[Conv2d], mid: &Conv2d, control: Features) -> Features {
    Features {
        down: skip.iter().zip(control.down).map(|(conv, c)| conv2d(conv, c)).collect(),
        mid: conv2d(mid, control.mid),
    }
}

fn add(frozen: Features, residuals: Features, scale: f64) -> Features {
    let passes = frozen.mid.dims()[0] / residuals.mid.dims()[0];
    let add = |(f, r): (Tensor<4>, Tensor<4>)| f + repeat_batch(scaled(r, scale), passes);
    Features {
        down: frozen.down.into_iter().zip(residuals.down).map(add).collect(),
        mid: add((frozen.mid, residuals.mid)),
    }
}
