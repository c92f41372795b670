//! Bootstrap confidence interval of a mean.

use rand::RngExt;
use serde::{Deserialize, Serialize};
use spire_data::rng::rng;

/// A mean with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// Number of bootstrap samples.
const RESAMPLES: usize = 2000;

/// The mean of `values` with its 95 % percentile bootstrap interval (Efron 1979). The draws are the same on every call.
/// `None` if there are no values. For paired differences, pass the differences.
pub fn interval(values: &[f64]) -> Option<Interval> {
    if values.is_empty() {
        return None;
    }
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count as f64;
    let mut rng = rng(0, "bootstrap", count as u64);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..count).map(|_| values[rng.random_range(0..count)]).sum::<f64>() / count as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let [low, high] = [0.025, 0.975].map(|share| means[(share * (RESAMPLES - 1) as f64).round() as usize]);
    Some(Interval { mean, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_distr::StandardNormal;

    #[test]
    fn one_value_or_equal_values_have_an_empty_interval() {
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[3.0]), Some(Interval { mean: 3.0, low: 3.0, high: 3.0 }));
        assert_eq!(interval(&[2.0; 9]), Some(Interval { mean: 2.0, low: 2.0, high: 2.0 }));
    }

    /// For a normal sample the interval is the mean ± 1.96 standard errors and contains the true mean in 95 of 100
    /// trials.
    #[test]
    fn width_and_coverage_agree_with_theory() {
        let mut held = 0;
        for trial in 0..200 {
            let mut rng = rng(1, "test", trial);
            let values: Vec<f64> = (0..100).map(|_| 5.0 + 2.0 * rng.sample::<f64, _>(StandardNormal)).collect();
            let found = interval(&values).unwrap();
            let width = found.high - found.low;
            assert!((0.55..1.05).contains(&width), "{width}, expected 0.78");
            held += usize::from(found.low <= 5.0 && 5.0 <= found.high);
        }
        assert!((180..=199).contains(&held), "{held} of 200");
    }
}
