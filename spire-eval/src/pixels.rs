//! Two pictures as the pixel metrics see them: of one size, in 8-bit levels.

use serde::{Deserialize, Serialize};
use spire_data::Picture;
use thiserror::Error;

/// What of the pictures is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compared {
    /// `rgb` or `y`.
    pub colours: Colours,
    /// Pixels that are left out on each side; super-resolution leaves out as many as its factor.
    pub border: usize,
}

/// In which colours pictures are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colours {
    /// The three channels.
    #[default]
    Rgb,
    /// The luma of ITU-R BT.601, from 16 to 235, as MATLAB and BasicSR compute it: not rounded.
    Y,
}

impl Compared {
    /// In words, for a protocol.
    pub fn describe(self) -> String {
        let colours = match self.colours {
            Colours::Rgb => "RGB",
            Colours::Y => "Y of BT.601, 16 to 235",
        };
        match self.border {
            0 => format!("{colours}, whole picture"),
            border => format!("{colours}, without {border} pixels on each side"),
        }
    }
}

/// The values that are compared, plane by plane, and their width. The pictures must have passed [`check_sizes`].
pub(crate) fn planes(picture: &Picture, compared: Compared) -> (Vec<Vec<f64>>, usize) {
    let border = compared.border;
    let (width, height) = (picture.width - 2 * border, picture.height - 2 * border);
    let inside = picture.crop(border, border, width, height);
    let levels: Vec<Vec<f64>> =
        inside.planes().map(|plane| plane.iter().map(|&value| level(value)).collect()).collect();
    let planes = match compared.colours {
        Colours::Rgb => levels,
        Colours::Y => {
            let luma =
                |i: usize| 16.0 + (65.481 * levels[0][i] + 128.553 * levels[1][i] + 24.966 * levels[2][i]) / 255.0;
            vec![(0..width * height).map(luma).collect()]
        }
    };
    (planes, width)
}

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

/// Fails unless both pictures have one size, with at least `least` pixels a side inside the border.
pub(crate) fn check_sizes(
    reference: &Picture,
    picture: &Picture,
    compared: Compared,
    least: usize,
) -> Result<(), MetricError> {
    let least = least.saturating_add(compared.border.saturating_mul(2));
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

/// The luma of ITU-R BT.601, white at 1.
pub(crate) fn luma(picture: &Picture) -> Vec<f64> {
    let [red, green, blue] = [0, 1, 2].map(|i| picture.plane(i));
    let colours = red.iter().zip(green).zip(blue);
    colours.map(|((&r, &g), &b)| 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)).collect()
}

/// The level, 0 to 255, that a value in \[0, 1\] takes in an 8-bit file.
pub(crate) fn level(value: f32) -> f64 {
    f64::from((value.clamp(0.0, 1.0) * 255.0).round())
}
