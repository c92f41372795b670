//! DiffBIR (Lin et al. 2023, <https://arxiv.org/abs/2308.15070>): a first stage removes degradations, then Stable Diffusion 2.1
//! generates details, conditioned on the first stage's picture by an [`IrControlNet`].

mod control;
mod sampler;
mod second_stage;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use control::IrControlNet;
pub use second_stage::{SecondStage, Settings, StartPoint};

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
