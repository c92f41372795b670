//! DiffBIR (Lin et al. 2023, <https://arxiv.org/abs/2308.15070>): a first stage removes degradations, then Stable Diffusion 2.1
//! generates details, conditioned on the first stage's picture by an [`IrControlNet`].

mod control;
mod first_stage;
mod restoration_guidance;
mod second_stage;
mod settings;
mod whole;

use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use control::IrControlNet;
pub use first_stage::FirstStage;
pub use restoration_guidance::RestorationGuidance;
pub use second_stage::SecondStage;
pub use settings::Settings;
pub use whole::{DiffBir, finished};

/// The published versions.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Version {
    /// Stable Diffusion 2.1-base, after a SwinIR.
    #[default]
    #[serde(rename = "1")]
    V1,
    /// Stable Diffusion 2.1-base, after BSRNet or SCUNet.
    #[serde(rename = "2")]
    V2,
    /// A Stable Diffusion 2.1-base that predicts v and was trained without signal at the noisiest timestep, after a SwinIR.
    #[serde(rename = "2.1")]
    V2_1,
}

/// The name in a configuration.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::V2_1 => "2.1",
        })
    }
}

/// `[batch, channels, height, width]` with zeros beyond its right and lower edges, up to `side` of each side.
fn padded(x: Tensor<4>, side: impl Fn(usize) -> usize) -> Tensor<4> {
    let shape = x.dims();
    let [batch, channels, height, width] = shape;
    let zeros = Tensor::zeros([batch, channels, side(height), side(width)], &x.device());
    zeros.slice_assign(shape.map(|length| 0..length), x)
}
