//! Single degradation operations with their parameters.

use serde::{Deserialize, Serialize};

use super::DegradeError;
use super::blur::{blur, gaussian_blur};
use super::jpeg::jpeg;
use super::kernel::KernelSpec;
use super::noise::{gaussian_noise, poisson_noise};
use super::resize::{Filter, rescale, resize};
use super::setting::{InvalidSetting, Section};
use crate::Picture;
use crate::rng::Rng;

/// One operation on a picture. Together with the random generator's state it determines the result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Correlation with a kernel.
    Blur(KernelSpec),
    /// Isotropic Gaussian blur, cut off at 4 sigma.
    GaussianBlur {
        /// Standard deviation in pixels.
        sigma: f32,
    },
    /// Resizing by a factor.
    Rescale {
        /// The factor.
        factor: f64,
        /// The interpolation.
        filter: Filter,
    },
    /// Resizing to a given size.
    Resize {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// The interpolation.
        filter: Filter,
    },
    /// Gaussian noise, clamped to \[0, 1\].
    GaussianNoise {
        /// Standard deviation on a \[0, 1\] picture.
        sigma: f32,
        /// Whether the noise is the same in all channels.
        gray: bool,
    },
    /// Poisson (shot) noise, clamped to \[0, 1\].
    PoissonNoise {
        /// Scale; 1 is the physical strength.
        scale: f32,
        /// Whether the noise is the same in all channels.
        gray: bool,
    },
    /// JPEG compression and decompression.
    Jpeg {
        /// libjpeg's quality, 1 to 100.
        quality: u8,
    },
}

impl Operation {
    /// Applies the operation. Blur and resizing can produce values outside \[0, 1\].
    ///
    /// # Errors
    /// The kernel's parameters are out of range, or the picture is too large for JPEG.
    pub fn apply(&self, picture: &Picture, rng: &mut Rng) -> Result<Picture, DegradeError> {
        Ok(match *self {
            Self::Blur(spec) => blur(picture, &spec.build()?),
            Self::GaussianBlur { sigma } => gaussian_blur(picture, sigma),
            Self::Rescale { factor, filter } => rescale(picture, factor, filter),
            Self::Resize { width, height, filter } => resize(picture, width, height, filter),
            Self::GaussianNoise { sigma, gray } => gaussian_noise(picture, sigma, gray, rng),
            Self::PoissonNoise { scale, gray } => poisson_noise(picture, scale, gray, rng),
            Self::Jpeg { quality } => jpeg(picture, quality)?,
        })
    }

    /// Checks the parameters; an error names the key under `section`.
    pub(crate) fn validate(&self, section: &Section) -> Result<(), InvalidSetting> {
        let positive = |key: &str, value: f64, most: f64| {
            section.check(key, &value, value > 0.0 && value <= most, &format!("above 0, at most {most}"))
        };
        match *self {
            Self::Blur(spec) => {
                section.check("size", &spec.size, spec.size % 2 == 1 && spec.size <= 101, "odd, at most 101")?;
                let wrong = |error: super::KernelError| section.check("kind", &error, false, "a kernel that exists");
                spec.build().map(drop).or_else(wrong)
            }
            Self::GaussianBlur { sigma } => positive("sigma", sigma.into(), 1000.0),
            Self::Rescale { factor, .. } => positive("factor", factor, 16.0),
            Self::Resize { width, height, .. } => {
                positive("width", width as f64, 65_535.0)?;
                positive("height", height as f64, 65_535.0)
            }
            Self::GaussianNoise { sigma, .. } => positive("sigma", sigma.into(), 1000.0),
            Self::PoissonNoise { scale, .. } => positive("scale", scale.into(), 100.0),
            Self::Jpeg { quality } => section.range("quality", [quality, quality], [1, 100]),
        }
    }
}

/// Applies all `operations` in order and clamps to \[0, 1\]. The size may change.
///
/// # Errors
/// As [`Operation::apply`].
pub fn operate(operations: &[Operation], clean: &Picture, rng: &mut Rng) -> Result<Picture, DegradeError> {
    let mut picture = clean.clone();
    for operation in operations {
        picture = operation.apply(&picture, rng)?;
    }
    picture.clamp();
    Ok(picture)
}

/// A picture with the list of operations applied so far.
pub(super) struct Course {
    pub picture: Picture,
    pub done: Vec<Operation>,
}

impl Course {
    pub fn of(clean: &Picture) -> Self {
        Self { picture: clean.clone(), done: vec![] }
    }

    pub fn apply(&mut self, operation: Operation, rng: &mut Rng) -> Result<(), DegradeError> {
        self.picture = operation.apply(&self.picture, rng)?;
        self.done.push(operation);
        Ok(())
    }
}
