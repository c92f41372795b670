//! Fréchet distance between two sets of features, each taken as a Gaussian (Heusel et al., 2017).

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use thiserror::Error;

/// Why a Fréchet distance can't be computed.
#[derive(Debug, Error, PartialEq)]
pub enum FrechetError {
    /// A covariance needs two rows.
    #[error("{rows} row(s) of features: a covariance needs at least 2")]
    TooFewRows {
        /// Rows that were given.
        rows: usize,
    },
    /// A row, or the other set, has another number of features.
    #[error("{got} features where {expected} are expected")]
    Dimensions {
        /// Features of a row so far.
        expected: usize,
        /// Features that were given.
        got: usize,
    },
    /// A feature is infinite or not a number.
    #[error("row {row}, feature {feature} is not finite")]
    NotFinite {
        /// Rows before the one in question.
        row: usize,
        /// Position in the row.
        feature: usize,
    },
    /// Finite features whose covariance is not.
    #[error("features too large: their covariance overflows")]
    Overflow,
}

/// Mean and covariance of features that arrive row by row, in memory that does not grow with the number of rows.
#[derive(Clone, Debug)]
pub struct FeatureStatistics {
    rows: usize,
    mean: DVector<f64>,
    /// Sum over the rows of the outer product of a row's difference from the mean.
    scatter: DMatrix<f64>,
}

impl FeatureStatistics {
    /// Statistics of no rows yet, of `dimensions` features each.
    pub fn new(dimensions: usize) -> Self {
        Self { rows: 0, mean: DVector::zeros(dimensions), scatter: DMatrix::zeros(dimensions, dimensions) }
    }

    /// Statistics of `features`, row-major `[rows, dimensions]`.
    ///
    /// # Errors
    /// A value is not finite, or the length is no multiple of `dimensions`.
    pub fn of<T: Copy + Into<f64>>(features: &[T], dimensions: usize) -> Result<Self, FrechetError> {
        let mut statistics = Self::new(dimensions);
        for row in features.chunks(dimensions.max(1)) {
            statistics.push(row)?;
        }
        Ok(statistics)
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes in one row (Welford's update).
    ///
    /// # Errors
    /// The row has another length than the rows before, or a value that is not finite; nothing is taken in then.
    pub fn push<T: Copy + Into<f64>>(&mut self, row: &[T]) -> Result<(), FrechetError> {
        if row.len() != self.mean.len() {
            return Err(FrechetError::Dimensions { expected: self.mean.len(), got: row.len() });
        }
        let row = DVector::from_iterator(row.len(), row.iter().map(|&value| value.into()));
        if let Some(feature) = row.iter().position(|value| !value.is_finite()) {
            return Err(FrechetError::NotFinite { row: self.rows, feature });
        }
        let difference = row - &self.mean;
        let before = self.rows as f64;
        self.rows += 1;
        self.mean.axpy(1.0 / (before + 1.0), &difference, 1.0);
        self.scatter.ger(before / (before + 1.0), &difference, &difference, 1.0);
        Ok(())
    }

    /// Takes in the rows of `other` (Chan's update): the statistics of both sets together.
    ///
    /// # Errors
    /// The sets have rows of different length.
    pub fn merge(&mut self, other: &Self) -> Result<(), FrechetError> {
        self.check_dimensions(other)?;
        if other.rows == 0 {
            return Ok(());
        }
        let difference = &other.mean - &self.mean;
        let (own, others) = (self.rows as f64, other.rows as f64);
        let all = own + others;
        self.rows += other.rows;
        self.mean.axpy(others / all, &difference, 1.0);
        self.scatter += &other.scatter;
        self.scatter.ger(own * others / all, &difference, &difference, 1.0);
        Ok(())
    }

    /// Unbiased covariance, `[dimensions, dimensions]`.
    fn covariance(&self) -> Result<DMatrix<f64>, FrechetError> {
        if self.rows < 2 {
            return Err(FrechetError::TooFewRows { rows: self.rows });
        }
        let covariance = &self.scatter / (self.rows - 1) as f64;
        finite(covariance)
    }

    fn check_dimensions(&self, other: &Self) -> Result<(), FrechetError> {
        let (expected, got) = (self.mean.len(), other.mean.len());
        if expected == got { Ok(()) } else { Err(FrechetError::Dimensions { expected, got }) }
    }
}

/// `|μa − μb|² + Tr(Σa + Σb − 2·(Σa·Σb)^½)`, at least 0: clean-fid's `frechet_distance`.
///
/// The trace of the root is taken as that of `(Σa^½·Σb·Σa^½)^½`, which is symmetric, so that singular covariances (fewer
/// rows than features) need no care.
///
/// # Errors
/// The sets have rows of different length, one of them has fewer than 2, or values overflow.
pub fn frechet_distance(a: &FeatureStatistics, b: &FeatureStatistics) -> Result<f64, FrechetError> {
    a.check_dimensions(b)?;
    let (covariance_a, covariance_b) = (a.covariance()?, b.covariance()?);
    let traces = covariance_a.trace() + covariance_b.trace();

    let root_a = square_root(covariance_a);
    let product = finite(&root_a * covariance_b * &root_a)?;
    let symmetric = (&product + product.transpose()) * 0.5;
    let root_trace: f64 = symmetric.symmetric_eigenvalues().iter().map(|&value| value.max(0.0).sqrt()).sum();

    let distance = (&a.mean - &b.mean).norm_squared() + traces - 2.0 * root_trace;
    if distance.is_finite() { Ok(distance.max(0.0)) } else { Err(FrechetError::Overflow) }
}

/// The symmetric root of a covariance. Eigenvalues that rounding made negative count as 0.
fn square_root(covariance: DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = covariance.symmetric_eigen();
    let roots = eigenvalues.map(|value| value.max(0.0).sqrt());
    &eigenvectors * DMatrix::from_diagonal(&roots) * eigenvectors.transpose()
}

/// The eigen-decomposition does not end on infinite values, so they stop here.
fn finite(matrix: DMatrix<f64>) -> Result<DMatrix<f64>, FrechetError> {
    if matrix.iter().all(|value| value.is_finite()) { Ok(matrix) } else { Err(FrechetError::Overflow) }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use spire_data::rng::rng;

    use super::*;

    fn features(index: u64, rows: usize, dimensions: usize) -> Vec<f64> {
        let mut rng = rng(1, "features", index);
        (0..rows * dimensions).map(|_| rng.random::<f64>()).collect()
    }

    fn distance(a: &[f64], b: &[f64], dimensions: usize) -> f64 {
        let statistics = |features| FeatureStatistics::of(features, dimensions).unwrap();
        frechet_distance(&statistics(a), &statistics(b)).unwrap()
    }

    /// Eigenvalues that should be 0 come out as 1e-17, whose roots add up.
    fn assert_close(got: f64, expected: f64) {
        assert!((got - expected).abs() <= 1e-6 * expected.abs(), "got {got}, expected {expected}");
    }

    #[test]
    fn one_feature_is_the_difference_of_mean_and_deviation() {
        // Means 2 and 7, unbiased deviations 2 and 1.
        assert_close(distance(&[0.0, 2.0, 4.0], &[6.0, 7.0, 8.0], 1), 25.0 + 1.0);
    }

    #[test]
    fn a_scaled_and_shifted_copy_has_a_closed_form_even_where_the_covariance_is_singular() {
        for (rows, dimensions) in [(40, 5), (4, 9)] {
            let a = features(0, rows, dimensions);
            let b: Vec<f64> = a.iter().map(|value| 3.0 * value - 0.5).collect();
            let statistics = FeatureStatistics::of(&a, dimensions).unwrap();
            let mean_difference: f64 = statistics.mean.iter().map(|mean| (2.0 * mean - 0.5).powi(2)).sum();
            let expected = mean_difference + statistics.covariance().unwrap().trace() * 4.0;
            assert_close(distance(&a, &b, dimensions), expected);
        }
    }

    #[test]
    fn it_is_symmetric_and_zero_on_the_diagonal() {
        for (rows, dimensions) in [(30, 6), (5, 12)] {
            let (a, b) = (features(1, rows, dimensions), features(2, rows + 3, dimensions));
            let ab = distance(&a, &b, dimensions);
            assert!(ab > 0.01, "{ab}");
            assert!((ab - distance(&b, &a, dimensions)).abs() < 1e-6, "{ab}");
            assert!(distance(&a, &a, dimensions) < 1e-6);
        }
    }

    #[test]
    fn parts_merge_into_the_whole() {
        let all = features(3, 20, 4);
        let whole = FeatureStatistics::of(&all, 4).unwrap();
        let mut merged = FeatureStatistics::new(4);
        for part in [&all[..0], &all[..12], &all[12..16], &all[16..]] {
            merged.merge(&FeatureStatistics::of(part, 4).unwrap()).unwrap();
        }
        assert_eq!(merged.rows(), 20);
        assert!((&merged.mean - &whole.mean).amax() < 1e-14);
        assert!((&merged.scatter - &whole.scatter).amax() < 1e-12);
    }

    #[test]
    fn what_cannot_be_computed_is_an_error() {
        let two = FeatureStatistics::of(&[0.0, 1.0], 1).unwrap();
        let one = FeatureStatistics::of(&[0.0], 1).unwrap();
        assert_eq!(frechet_distance(&two, &one), Err(FrechetError::TooFewRows { rows: 1 }));
        let wide = FeatureStatistics::of(&[0.0, 1.0, 2.0, 3.0], 2).unwrap();
        assert_eq!(frechet_distance(&two, &wide), Err(FrechetError::Dimensions { expected: 1, got: 2 }));
        let ragged = FeatureStatistics::of(&[0.0, 1.0, 2.0], 2).unwrap_err();
        assert_eq!(ragged, FrechetError::Dimensions { expected: 2, got: 1 });
        let not_finite = FeatureStatistics::of(&[0.0, 1.0, 2.0, f32::NAN], 2).unwrap_err();
        assert_eq!(not_finite, FrechetError::NotFinite { row: 1, feature: 1 });
        let huge = FeatureStatistics::of(&[-1e200, 1e200], 1).unwrap();
        assert_eq!(frechet_distance(&huge, &two), Err(FrechetError::Overflow));
    }
}
