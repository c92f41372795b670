//! What the architectures have in common, and how they are read off a checkpoint.

use std::fmt::Debug;

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::Tensor;

use crate::weights::{self, Misfits, Precision, Tensors};

/// What the architectures have in common.
pub trait FeedForward: Debug + Send + Sync {
    /// Channels of a picture: 3, or 1 for grey pictures.
    fn channels(&self) -> usize;

    /// The factor between the sides of the restored and the degraded picture, as numerator and denominator.
    fn enlarged(&self) -> [usize; 2];

    /// The sides of tiles are multiples of this many pixels.
    fn side_multiple(&self) -> usize;

    /// The side to which the official script extends a picture, with its reflection.
    fn padded(&self, side: usize) -> usize;

    /// `[batch, channels, height, width]` in \[0, 1\] to the same, enlarged; not clamped.
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;
}

/// Loads a network whose sizes were read off the tensors' shapes.
///
/// # Errors
/// One error that lists every tensor that is missing, or that the sizes do not explain.
pub fn fill<M: Module>(network: M, tensors: Tensors) -> Result<M> {
    let misfits = Misfits::between(&network, &tensors);
    ensure!(misfits.is_empty(), "the weights in {} do not fit together: {misfits}", tensors.origin());
    weights::fill(network, tensors, Precision::F32)
}

/// The numbers from `first` on for which there are tensors.
pub fn count(tensors: &Tensors, prefix: impl Fn(usize) -> String, first: usize) -> std::ops::Range<usize> {
    let mut end = first;
    while tensors.has(&prefix(end)) {
        end += 1;
    }
    first..end
}
