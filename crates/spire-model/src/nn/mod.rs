//! The blocks that the UNet, the control branch and the VAE are built from, one a file, named as in diffusers.

pub mod attention;
pub mod resample;
pub mod resnet;
pub mod timestep;
pub mod transformer;

use serde::Deserialize;

/// A setting given once for all blocks, or once for each.
#[derive(Clone, Debug, Deserialize, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// The same everywhere.
    All(T),
    /// One a block, outermost resolution first.
    Each(Vec<T>),
}

impl<T: Copy> PerBlock<T> {
    /// The setting for block `i`; `None` where the list is too short.
    pub fn get(&self, i: usize) -> Option<T> {
        match self {
            Self::All(value) => Some(*value),
            Self::Each(values) => values.get(i).copied(),
        }
    }
}
