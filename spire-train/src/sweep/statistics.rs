//! Statistics over seeds: mean, standard error and rank correlation.

use std::collections::BTreeMap;

use serde::Serialize;

/// A mean over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Standard error of the mean: the sample standard deviation over √n. `None` for a single value.
    pub standard_error: Option<f64>,
    /// The value of each seed. A method without seeds has one value, with an empty name.
    pub values: BTreeMap<String, f64>,
}

impl Estimate {
    /// The mean of the values of some seeds; `None` without values.
    pub fn of(values: BTreeMap<String, f64>) -> Option<Self> {
        let (mean, standard_error) = mean_and_error(&values.values().copied().collect::<Vec<_>>())?;
        Some(Self { mean, standard_error, values })
    }

    /// The mean of the differences to `other`, seed by seed, over the seeds that both have. A method without seeds has the
    /// same value for each. `None` if there are no such seeds.
    pub fn minus(&self, other: &Self) -> Option<Self> {
        let value = |of: &Self, seed: &String| of.values.get(seed).or_else(|| of.values.get("")).copied();
        let seeds = self.values.keys().chain(other.values.keys());
        Self::of(seeds.filter_map(|seed| Some((seed.clone(), value(self, seed)? - value(other, seed)?))).collect())
    }
}

/// Mean and standard error of the mean: the sample standard deviation (with n − 1) over √n. The error is `None` for a
/// single value, the result for none.
pub fn mean_and_error(values: &[f64]) -> Option<(f64, Option<f64>)> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let error = (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
    Some((mean, error))
}

/// Spearman's rank correlation of `values` with their order, in \[-1, 1\]. Equal values share their mean rank. 0 if all
/// values are equal or there are fewer than two.
pub fn rank_correlation(values: &[f64]) -> f64 {
    let below = |value: f64| values.iter().filter(|other| **other < value).count();
    let equal = |value: f64| values.iter().filter(|other| **other == value).count();
    // Centred: both ranks and orders have mean 0.
    let middle = (values.len() as f64 - 1.0) / 2.0;
    let ranks: Vec<f64> =
        values.iter().map(|&value| below(value) as f64 + (equal(value) as f64 - 1.0) / 2.0 - middle).collect();
    let orders = || (0..values.len()).map(|order| order as f64 - middle);
    let products: f64 = ranks.iter().zip(orders()).map(|(rank, order)| rank * order).sum();
    let squares: f64 = ranks.iter().map(|rank| rank * rank).sum();
    if squares > 0.0 { products / (squares * orders().map(|order| order * order).sum::<f64>()).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error() {
        // The standard deviation is √(10 / 3); n = 4.
        let (mean, error) = mean_and_error(&[1.0, 2.0, 4.0, 5.0]).unwrap();
        assert_eq!(mean, 3.0);
        assert!((error.unwrap() - 0.912_870_929).abs() < 1e-9);
        assert_eq!(mean_and_error(&[2.5]), Some((2.5, None)));
        assert_eq!(mean_and_error(&[2.0, 2.0]), Some((2.0, Some(0.0))));
        assert_eq!(mean_and_error(&[]), None);
    }

    #[test]
    fn differences_are_of_the_same_seed() {
        let of = |values: &[(&str, f64)]| {
            Estimate::of(values.iter().map(|&(seed, value)| (seed.to_owned(), value)).collect()).unwrap()
        };
        let (seeds, input) = (of(&[("1", 3.0), ("2", 5.0), ("3", 9.0)]), of(&[("", 1.0)]));
        let difference = seeds.minus(&of(&[("2", 4.0), ("1", 4.0)])).unwrap();
        assert_eq!((difference.mean, difference.standard_error), (0.0, Some(1.0)));
        assert_eq!(seeds.minus(&input).unwrap().values.values().copied().collect::<Vec<_>>(), [2.0, 4.0, 8.0]);
        assert_eq!(input.minus(&seeds).unwrap().mean, -14.0 / 3.0);
        assert_eq!(seeds.minus(&of(&[("4", 1.0)])), None);
    }

    #[test]
    fn rank_correlation_is_spearman_s() {
        assert_eq!(rank_correlation(&[1.0, 2.0, 30.0]), 1.0);
        assert_eq!(rank_correlation(&[3.0, 2.0, -7.0, -8.0]), -1.0);
        // scipy.stats.spearmanr([0, 1, 2, 3, 4], …)
        for (values, expected) in
            [([1.0, 3.0, 2.0, 5.0, 4.0], 0.8), ([2.0, 2.0, 1.0, 4.0, 4.0], 0.632_455_532_033_673_7)]
        {
            assert!((rank_correlation(&values) - expected).abs() < 1e-12, "{}", rank_correlation(&values));
        }
        assert_eq!([rank_correlation(&[2.0; 3]), rank_correlation(&[]), rank_correlation(&[1.0])], [0.0; 3]);
    }
}
