//! The features of a UNet's encoder.

use std::ops::Range;

use burn::tensor::{DType, Tensor};

use super::cores::rows;

/// The features that the encoder and the middle block pass to the decoder.
#[derive(Clone, Debug)]
pub struct Features {
    /// One per skip connection, outermost first, `[batch, channels, height, width]`.
    pub down: Vec<Tensor<4>>,
    /// The middle block's output, `[batch, channels, height, width]`.
    pub mid: Tensor<4>,
}

impl Features {
    /// All times `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            down: self.down.into_iter().map(|skip| skip.mul_scalar(factor)).collect(),
            mid: self.mid.mul_scalar(factor),
        }
    }

    /// Converts all to another float type.
    pub fn cast(self, dtype: DType) -> Self {
        Self { down: self.down.into_iter().map(|skip| skip.cast(dtype)).collect(), mid: self.mid.cast(dtype) }
    }

    /// Those of some rows of the batch.
    pub(crate) fn rows(&self, range: &Range<usize>) -> Self {
        Self { down: self.down.iter().map(|skip| rows(skip, range)).collect(), mid: rows(&self.mid, range) }
    }

    /// The features of the parts of a batch, as one.
    pub(crate) fn of_parts(parts: Vec<Self>) -> Self {
        let mid = Tensor::cat(parts.iter().map(|part| part.mid.clone()).collect(), 0);
        let mut skips: Vec<_> = parts.into_iter().map(|part| part.down.into_iter()).collect();
        let down = std::iter::from_fn(|| skips.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>());
        Self { down: down.map(|skip| Tensor::cat(skip, 0)).collect(), mid }
    }
}
