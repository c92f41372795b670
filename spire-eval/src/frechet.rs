//! Fréchet distance between two sets of features, modelled as Gaussians (Heusel et al., 2017).

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Scale, Side, get_global_parallelism};
use thiserror::Error;

/// A Fréchet distance can't be computed.
#[derive(Debug, Error, PartialEq)]
pub enum FrechetError {
    /// There are fewer than two rows.
    #[error("{rows} row(s) of features: a covariance needs at least 2")]
    TooFewRows {
        /// Number of rows.
        rows: usize,
    },
    /// A row or the other set has another number of features.
    #[error("{got} features where {expected} are expected")]
    Dimensions {
        /// The expected number.
        expected: usize,
        /// The given number.
        got: usize,
    },
    /// A feature is not finite.
    #[error("row {row}, feature {feature} is not finite")]
    NotFinite {
        /// Index of the row.
        row: usize,
        /// Index in the row.
        feature: usize,
    },
    /// The covariance of finite features overflows.
    #[error("features too large: their covariance overflows")]
    Overflow,
}

/// Rows processed together: one matrix product instead of many vector products.
const BLOCK: usize = 256;

/// Mean and covariance of features, updated row by row in constant memory.
#[derive(Clone, Debug)]
pub struct FeatureStatistics {
    /// Number of rows in `mean` and `scatter`; others are `pending`.
    rows: usize,
    mean: Vec<f64>,
    /// Sum of the outer products of the rows' differences from the mean.
    scatter: Mat<f64>,
    pending: Vec<f64>,
}

impl FeatureStatistics {
    /// Empty statistics for rows of `dimensions` features.
    pub fn new(dimensions: usize) -> Self {
        let (mean, scatter) = (vec![0.0; dimensions], Mat::zeros(dimensions, dimensions));
        Self { rows: 0, mean, scatter, pending: vec![] }
    }

    /// Statistics of `features`, row-major `[rows, dimensions]`.
    ///
    /// # Errors
    /// A value is not finite, or the length is not a multiple of `dimensions`.
    pub fn of<T: Copy + Into<f64>>(features: &[T], dimensions: usize) -> Result<Self, FrechetError> {
        let mut statistics = Self::new(dimensions);
        for row in features.chunks(dimensions.max(1)) {
            statistics.push(row)?;
        }
        Ok(statistics)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows + self.pending.len() / self.dimensions().max(1)
    }

    /// Number of features per row.
    pub fn dimensions(&self) -> usize {
        self.mean.len()
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The row has another length, or a value is not finite; then the statistics are unchanged.
    pub fn push<T: Copy + Into<f64>>(&mut self, row: &[T]) -> Result<(), FrechetError> {
        if row.len() != self.dimensions() {
            return Err(FrechetError::Dimensions { expected: self.dimensions(), got: row.len() });
        }
        if let Some(feature) = row.iter().position(|&value| !value.into().is_finite()) {
            return Err(FrechetError::NotFinite { row: self.rows(), feature });
        }
        self.pending.extend(row.iter().map(|&value| value.into()));
        if self.pending.len() >= BLOCK * row.len() {
            self.take_in();
        }
        Ok(())
    }

    /// Moves pending rows into mean and scatter (Chan's update).
    fn take_in(&mut self) {
        let dimensions = self.dimensions();
        let rows = std::mem::take(&mut self.pending);
        let count = rows.len() / dimensions.max(1);
        if count == 0 {
            return;
        }
        let (own, others) = (self.rows as f64, count as f64);
        let all = own + others;
        let mean_of = |feature: usize| (0..count).map(|row| rows[row * dimensions + feature]).sum::<f64>() / others;
        let block_mean: Vec<f64> = (0..dimensions).map(mean_of).collect();
        let difference: Vec<f64> = block_mean.iter().zip(&self.mean).map(|(block, mean)| block - mean).collect();
        // One additional row: the difference of the two means.
        let between = (own * others / all).sqrt();
        let centred = Mat::from_fn(count + 1, dimensions, |row, feature| match row {
            0 => difference[feature] * between,
            row => rows[(row - 1) * dimensions + feature] - block_mean[feature],
        });
        matmul(&mut self.scatter, Accum::Add, centred.transpose(), &centred, 1.0, get_global_parallelism());
        self.rows += count;
        self.mean.iter_mut().zip(&difference).for_each(|(mean, difference)| *mean += difference * others / all);
    }

    /// The mean and the unbiased covariance `[dimensions, dimensions]`.
    fn finished(&self) -> Result<(Vec<f64>, Mat<f64>), FrechetError> {
        let mut all = self.clone();
        all.take_in();
        if all.rows < 2 {
            return Err(FrechetError::TooFewRows { rows: all.rows });
        }
        let covariance = finite(all.scatter * Scale(1.0 / (all.rows - 1) as f64))?;
        Ok((all.mean, covariance))
    }
}

/// `|μa − μb|² + Tr(Σa + Σb − 2·(Σa·Σb)^½)`, at least 0: clean-fid's `frechet_distance`.
///
/// The trace of the root is computed as that of `(Rᵀ·Σb·R)^½` with `R·Rᵀ = Σa`. This matrix is symmetric with the rank
/// of Σa as its size, so that singular covariances (fewer rows than features) need no special treatment.
///
/// # Errors
/// The sets have different numbers of features, one has fewer than 2 rows, or values overflow.
pub fn frechet_distance(a: &FeatureStatistics, b: &FeatureStatistics) -> Result<f64, FrechetError> {
    let (expected, got) = (a.dimensions(), b.dimensions());
    if expected != got {
        return Err(FrechetError::Dimensions { expected, got });
    }
    let ((mean_a, covariance_a), (mean_b, covariance_b)) = (a.finished()?, b.finished()?);
    let means: f64 = mean_a.iter().zip(&mean_b).map(|(a, b)| (a - b).powi(2)).sum();
    let trace = |matrix: &Mat<f64>| -> f64 { (0..expected).map(|i| matrix[(i, i)]).sum() };
    let root = square_root(&covariance_a)?;
    let product = finite(root.transpose() * &covariance_b * &root)?;
    let eigenvalues = product.self_adjoint_eigenvalues(Side::Lower).map_err(|_| FrechetError::Overflow)?;
    let root_trace: f64 = eigenvalues.iter().map(|value| value.max(0.0).sqrt()).sum();

    let distance = means + trace(&covariance_a) + trace(&covariance_b) - 2.0 * root_trace;
    if distance.is_finite() { Ok(distance.max(0.0)) } else { Err(FrechetError::Overflow) }
}

/// `R` with `R·Rᵀ` the covariance: one column per eigenvalue that is nonzero beyond rounding.
fn square_root(covariance: &Mat<f64>) -> Result<Mat<f64>, FrechetError> {
    let eigen = covariance.self_adjoint_eigen(Side::Lower).map_err(|_| FrechetError::Overflow)?;
    let (vectors, values) = (eigen.U(), eigen.S().column_vector());
    let largest = values.iter().copied().fold(0.0, f64::max);
    let rounding = largest * covariance.nrows() as f64 * f64::EPSILON;
    let kept: Vec<usize> = (0..values.nrows()).filter(|&i| values[i] > rounding).collect();
    Ok(Mat::from_fn(covariance.nrows(), kept.len(), |row, i| vectors[(row, kept[i])] * values[kept[i]].sqrt()))
}

/// Rejects infinite values, on which the eigendecomposition fails.
fn finite(matrix: Mat<f64>) -> Result<Mat<f64>, FrechetError> {
    if matrix.is_all_finite() { Ok(matrix) } else { Err(FrechetError::Overflow) }
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

    /// Eigenvalues that should be 0 are computed as 1e-17; their roots add up.
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
            let (mean, _) = statistics.finished().unwrap();
            let mean_difference: f64 = mean.iter().map(|mean| (2.0 * mean - 0.5).powi(2)).sum();
            let expected = mean_difference + trace_of(&statistics) * 4.0;
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

    fn trace_of(statistics: &FeatureStatistics) -> f64 {
        let (_, covariance) = statistics.finished().unwrap();
        (0..statistics.dimensions()).map(|i| covariance[(i, i)]).sum()
    }

    #[test]
    fn blocks_are_the_whole() {
        let rows = 2 * BLOCK + 17;
        let all = features(3, rows, 3);
        let statistics = FeatureStatistics::of(&all, 3).unwrap();
        assert_eq!(statistics.rows(), rows);
        let (mean, covariance) = statistics.finished().unwrap();
        let column = |i: usize| all.iter().skip(i).step_by(3).copied().collect::<Vec<f64>>();
        let average = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        for i in 0..3 {
            assert!((mean[i] - average(&column(i))).abs() < 1e-14);
            for j in 0..3 {
                let products: Vec<f64> =
                    column(i).iter().zip(column(j)).map(|(a, b)| (a - mean[i]) * (b - mean[j])).collect();
                let expected = products.iter().sum::<f64>() / (rows - 1) as f64;
                assert!((covariance[(i, j)] - expected).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn invalid_input_is_an_error() {
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
