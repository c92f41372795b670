//! Any of the architectures, from its published checkpoint.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::architecture::FeedForward;
use super::rrdbnet::RrdbNet;
use super::scunet::ScuNet;
use super::swinir::SwinIr;
use crate::weights::Tensors;

/// The architectures.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// SwinIR, <https://arxiv.org/abs/2108.10257>, in all published configurations.
    SwinIr,
    /// BSRNet and BSRGAN, <https://arxiv.org/abs/2103.14006>.
    BsrNet,
    /// SCUNet, <https://arxiv.org/abs/2203.13278>.
    ScuNet,
}

impl NetworkKind {
    /// Where the checkpoints are published.
    pub fn published(self) -> &'static str {
        match self {
            Self::SwinIr => "https://github.com/JingyunLiang/SwinIR/releases/tag/v0.0",
            Self::BsrNet | Self::ScuNet => "https://github.com/cszn/KAIR/releases/tag/v1.0",
        }
    }
}

/// The name in a configuration.
impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SwinIr => "swinir",
            Self::BsrNet => "bsrnet",
            Self::ScuNet => "scunet",
        })
    }
}

/// A network that restores pictures in one pass.
#[derive(Debug)]
pub struct Network {
    pub(super) network: Box<dyn FeedForward>,
    pub(super) device: Device,
}

impl Network {
    /// Reads a published checkpoint, or a folder with its weights. The network's sizes are those of the weights.
    ///
    /// # Errors
    /// The file can't be read, or does not hold such a network.
    pub fn load(kind: NetworkKind, path: &Path, device: &Device) -> Result<Self> {
        let tensors = Tensors::at(path)?;
        let network: Box<dyn FeedForward> = match kind {
            NetworkKind::SwinIr => Box::new(SwinIr::from_tensors(&tensors, device)?),
            NetworkKind::BsrNet => Box::new(RrdbNet::from_tensors(&tensors, device)?),
            NetworkKind::ScuNet => Box::new(ScuNet::from_tensors(&tensors, device)?),
        };
        Ok(Self { network, device: device.clone() })
    }

    /// Channels of a picture: 3, or 1 for grey pictures.
    pub fn channels(&self) -> usize {
        self.network.channels()
    }

    /// Width and height of the restored picture of a degraded one of `size`.
    pub fn restored_size(&self, size: (usize, usize)) -> (usize, usize) {
        let [factor, folded] = self.network.enlarged();
        (size.0 * factor / folded, size.1 * factor / folded)
    }

    /// `[batch, channels, height, width]` in \[0, 1\], of any size, to the same, enlarged; not clamped.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.network.forward(x)
    }
}
