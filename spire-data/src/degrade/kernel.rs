//! Blur kernels: Gaussian, generalised Gaussian, plateau and sinc, with the numerics of BasicSR's `degradations.py`.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The family of a blur kernel. The `iso` families use only `sigma_x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelKind {
    /// Isotropic Gaussian.
    Iso,
    /// Anisotropic Gaussian, rotated.
    Aniso,
    /// Isotropic generalised Gaussian: `exp(-½ dᵝ)`, d the squared Mahalanobis distance.
    GeneralizedIso,
    /// Anisotropic generalised Gaussian, rotated.
    GeneralizedAniso,
    /// Isotropic plateau: `1 / (1 + dᵝ)`.
    PlateauIso,
    /// Anisotropic plateau, rotated.
    PlateauAniso,
    /// Circular sinc low-pass filter. It causes ringing, as sharpening and compression do.
    Sinc,
}

/// Parameters of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelSpec {
    /// The family.
    pub kind: KernelKind,
    /// Side in pixels, odd.
    pub size: usize,
    /// Width along the first axis, pixels, above 0. Unused by `sinc`.
    pub sigma_x: f64,
    /// Width along the second axis, pixels, above 0. Used by the `aniso` kinds.
    pub sigma_y: f64,
    /// Rotation in radians for the `aniso` kinds; for `sinc` the cutoff frequency in radians, in (0, π].
    pub theta: f64,
    /// Exponent of the generalised and plateau kinds.
    pub beta: f64,
}

/// A square blur kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Side in pixels, odd.
    pub size: usize,
    /// `size * size` weights, row after row, with sum 1.
    pub weights: Vec<f32>,
}

/// Tolerance for treating a kernel as separable, relative to its largest weight.
const SEPARABLE: f64 = 1e-6;

/// A kernel could not be built.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum KernelError {
    /// An even side has no centre pixel.
    #[error("blur kernel of size {0}: the size must be odd")]
    EvenSize(usize),
    /// The number of weights is not `size * size`.
    #[error("blur kernel of size {size} has {weights} weights: it must have size × size")]
    WeightCount {
        /// The side.
        size: usize,
        /// The number of weights given.
        weights: usize,
    },
    /// The parameters give weights that are not finite.
    #[error("{0:?}: these parameters give no finite kernel; sigma (for sinc, theta) must be above 0")]
    NotFinite(KernelSpec),
}

impl Kernel {
    /// A kernel from its weights, row after row.
    ///
    /// # Errors
    /// The size is even or the number of weights is not `size * size`.
    pub fn new(size: usize, weights: Vec<f32>) -> Result<Self, KernelError> {
        if size.is_multiple_of(2) {
            return Err(KernelError::EvenSize(size));
        }
        if size.checked_mul(size) != Some(weights.len()) {
            return Err(KernelError::WeightCount { size, weights: weights.len() });
        }
        Ok(Self { size, weights })
    }

    /// The column and row vectors whose outer product is the kernel, within a millionth of its largest weight. `None`
    /// if the kernel is not separable.
    pub fn separated(&self) -> Option<(Vec<f32>, Vec<f32>)> {
        let size = self.size;
        let largest =
            (0..self.weights.len()).max_by(|&a, &b| self.weights[a].abs().total_cmp(&self.weights[b].abs()))?;
        let (peak, at) = (f64::from(self.weights[largest]), |y: usize, x: usize| f64::from(self.weights[y * size + x]));
        if peak == 0.0 {
            return None;
        }
        let column: Vec<f64> = (0..size).map(|y| at(y, largest % size)).collect();
        let row: Vec<f64> = (0..size).map(|x| at(largest / size, x) / peak).collect();
        let fits = |y: usize, x: usize| (column[y] * row[x] - at(y, x)).abs() <= SEPARABLE * peak.abs();
        let separable = (0..size).all(|y| (0..size).all(|x| fits(y, x)));
        let narrow = |line: Vec<f64>| line.into_iter().map(|weight| weight as f32).collect();
        separable.then(|| (narrow(column), narrow(row)))
    }
}

impl KernelSpec {
    /// The kernel, computed in `f64` and scaled to sum 1.
    ///
    /// # Errors
    /// The size is even, or the parameters give no finite weights.
    pub fn build(&self) -> Result<Kernel, KernelError> {
        if self.size.is_multiple_of(2) {
            return Err(KernelError::EvenSize(self.size));
        }
        let metric = self.inverse_covariance();
        let radius = (self.size / 2) as f64;
        let mut weights = Vec::with_capacity(self.size * self.size);
        for row in 0..self.size {
            for column in 0..self.size {
                let (x, y) = (column as f64 - radius, row as f64 - radius);
                weights.push(self.weight(x, y, metric));
            }
        }
        let sum: f64 = weights.iter().sum();
        let weights: Vec<f32> = weights.iter().map(|weight| (weight / sum) as f32).collect();
        if !weights.iter().all(|weight| weight.is_finite()) {
            return Err(KernelError::NotFinite(*self));
        }
        Kernel::new(self.size, weights)
    }

    fn weight(&self, x: f64, y: f64, [xx, xy, yy]: [f64; 3]) -> f64 {
        let distance = xx * x * x + 2.0 * xy * x * y + yy * y * y;
        match self.kind {
            KernelKind::Iso | KernelKind::Aniso => (-0.5 * distance).exp(),
            KernelKind::GeneralizedIso | KernelKind::GeneralizedAniso => (-0.5 * distance.powf(self.beta)).exp(),
            KernelKind::PlateauIso | KernelKind::PlateauAniso => 1.0 / (1.0 + distance.powf(self.beta)),
            KernelKind::Sinc => circular_lowpass(self.theta, x.hypot(y)),
        }
    }

    /// The inverse of `R diag(σx², σy²) Rᵀ`, R the rotation by theta: its entries xx, xy, yy.
    fn inverse_covariance(&self) -> [f64; 3] {
        let (a, b) = (self.sigma_x.powi(-2), self.sigma_y.powi(-2));
        match self.kind {
            KernelKind::Aniso | KernelKind::GeneralizedAniso | KernelKind::PlateauAniso => {
                let (sin, cos) = self.theta.sin_cos();
                [a * cos * cos + b * sin * sin, (a - b) * sin * cos, a * sin * sin + b * cos * cos]
            }
            KernelKind::Iso | KernelKind::GeneralizedIso | KernelKind::PlateauIso | KernelKind::Sinc => [a, 0.0, a],
        }
    }
}

/// The impulse response of the ideal low-pass filter that keeps frequencies up to `cutoff` radians, at `radius` pixels.
fn circular_lowpass(cutoff: f64, radius: f64) -> f64 {
    if radius == 0.0 { cutoff * cutoff / (4.0 * PI) } else { cutoff * libm::j1(cutoff * radius) / (2.0 * PI * radius) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: KernelKind) -> KernelSpec {
        KernelSpec { kind, size: 9, sigma_x: 2.0, sigma_y: 0.7, theta: 0.6, beta: 1.0 }
    }

    #[test]
    fn generalised_with_beta_one_is_gaussian() {
        let gaussian = spec(KernelKind::Aniso).build().unwrap();
        let generalised = spec(KernelKind::GeneralizedAniso).build().unwrap();
        assert_eq!(gaussian, generalised);
    }

    #[test]
    fn rotation_by_a_quarter_turn_swaps_the_axes() {
        let turned = KernelSpec { theta: PI / 2.0, ..spec(KernelKind::PlateauAniso) }.build().unwrap();
        let flat = KernelSpec { theta: 0.0, ..spec(KernelKind::PlateauAniso) }.build().unwrap();
        for row in 0..9 {
            for column in 0..9 {
                let difference = turned.weights[row * 9 + column] - flat.weights[column * 9 + row];
                assert!(difference.abs() < 1e-6);
            }
        }
    }

    #[test]
    fn sinc_has_negative_lobes_and_sum_one() {
        let kernel = spec(KernelKind::Sinc).build().unwrap();
        assert!((kernel.weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let kernel = KernelSpec { theta: 2.5, ..spec(KernelKind::Sinc) }.build().unwrap();
        assert!(kernel.weights.iter().any(|&weight| weight < 0.0));
    }

    #[test]
    fn invalid_parameters_are_errors() {
        assert_eq!(
            KernelSpec { size: 8, ..spec(KernelKind::Iso) }.build().unwrap_err().to_string(),
            "blur kernel of size 8: the size must be odd"
        );
        let flat = KernelSpec { sigma_x: 0.0, ..spec(KernelKind::Iso) };
        assert_eq!(flat.build(), Err(KernelError::NotFinite(flat)));
        assert!(Kernel::new(3, vec![0.0; 8]).is_err());
    }
}
