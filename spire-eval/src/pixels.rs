//! Preprocessing of the pixel metrics: pictures of one size in 8-bit levels.

use serde::{Deserialize, Serialize};
use spire_data::Picture;
use thiserror::Error;

/// What the pixel metrics compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compared {
    /// `rgb` or `y`.
    pub colours: Colours,
    /// Border in pixels to exclude on each side; in super-resolution usually the factor.
    pub border: usize,
}

/// The colours to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colours {
    /// The three channels.
    #[default]
    Rgb,
    /// The luma of ITU-R BT.601 from 16 to 235, as in MATLAB and BasicSR, not rounded.
    Y,
}

impl Compared {
    /// A description for the protocol.
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

/// The values to compare, plane by plane, with their width. The pictures must have passed [`check_sizes`].
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

/// Two pictures can't be compared.
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
    /// The pictures are too small for the metric.
    #[error("picture of {width}×{height} is too small: at least {least}×{least} pixels are needed")]
    TooSmall {
        /// Width, pixels.
        width: usize,
        /// Height, pixels.
        height: usize,
        /// The minimum side in pixels.
        least: usize,
    },
}

/// Checks that both pictures have one size, with sides of at least `least` pixels inside the border.
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

/// The luma of ITU-R BT.601; white is 1.
pub(crate) fn luma(picture: &Picture) -> Vec<f64> {
    let [red, green, blue] = [0, 1, 2].map(|i| picture.plane(i));
    let colours = red.iter().zip(green).zip(blue);
    colours.map(|((&r, &g), &b)| 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)).collect()
}

/// The 8-bit level, 0 to 255, of a value in \[0, 1\].
pub(crate) fn level(value: f32) -> f64 {
    f64::from((value.clamp(0.0, 1.0) * 255.0).round())
}
