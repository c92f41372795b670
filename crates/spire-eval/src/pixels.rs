//! Two pictures as the pixel metrics see them: of one size, in 8-bit levels.

use spire_data::Picture;
use thiserror::Error;

/// Why two pictures can't be compared.
#[derive(Debug, Error, PartialEq)]
pub enum MetricError {
    /// The pictures differ in width or height.
    #[error("pictures of different size: {reference_width}×{reference_height} and {width}×{height}; resize one first")]
    Size {
        /// Width of the reference, pixels.
        reference_width: usize,
        /// Height of the reference, pixels.
        reference_height: usize,
        /// Width of the other picture, pixels.
        width: usize,
        /// Height of the other picture, pixels.
        height: usize,
    },
    /// The pictures are smaller than what the metric looks at.
    #[error("picture of {width}×{height} is too small: at least {least}×{least} pixels are needed")]
    TooSmall {
        /// Width, pixels.
        width: usize,
        /// Height, pixels.
        height: usize,
        /// The least width and height, pixels.
        least: usize,
    },
}

/// Fails unless both pictures have one size of at least `least` pixels a side.
pub(crate) fn check_sizes(reference: &Picture, picture: &Picture, least: usize) -> Result<(), MetricError> {
    let (width, height) = (picture.width, picture.height);
    if (reference.width, reference.height) != (width, height) {
        let (reference_width, reference_height) = (reference.width, reference.height);
        return Err(MetricError::Size { reference_width, reference_height, width, height });
    }
    if width < least || height < least {
        return Err(MetricError::TooSmall { width, height, least });
    }
    Ok(())
}

/// The level, 0 to 255, that a value in \[0, 1\] takes in an 8-bit file.
pub(crate) fn level(value: f32) -> f64 {
    f64::from((value.clamp(0.0, 1.0) * 255.0).round())
}
