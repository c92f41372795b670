//! The features of a UNet's encoder.

use burn::tensor::{DType, Tensor};

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
}
