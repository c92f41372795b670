//! The building blocks of the UNet, the control branch and the VAE, one per file, named as in diffusers; and of other
//! networks.

pub mod attention;
pub(crate) mod cores;
mod features;
pub mod pixels;
pub mod resample;
pub mod resnet;
pub mod spade;
pub mod swin;
pub mod timestep;
pub mod transformer;

use burn::tensor::Tensor;
use serde::Deserialize;

pub use features::Features;

/// `x` repeated `times` times along the batch dimension.
pub fn repeat_batch<const D: usize>(x: Tensor<D>, times: usize) -> Tensor<D> {
    // Burn would copy even for one time.
    if times == 1 { x } else { x.repeat_dim(0, times) }
}

/// A setting given once for all blocks, or one per block.
#[derive(Clone, Debug, Deserialize, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// The same everywhere.
    All(T),
    /// One per block, outermost resolution first.
    Each(Vec<T>),
}

impl<T: Copy> PerBlock<T> {
    /// The setting for block `i`; `None` if the list is too short.
    pub fn get(&self, i: usize) -> Option<T> {
        match self {
            Self::All(value) => Some(*value),
            Self::Each(values) => values.get(i).copied(),
        }
    }
}
