//! A mean, and how far it could be another one with other seeds.

/// Mean and standard error of the mean: the sample's deviation (over n − 1) by the root of n, `None` of one value. `None` of no
/// values.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error() {
        // Deviation √(10 / 3), over √4.
        let (mean, error) = mean_and_error(&[1.0, 2.0, 4.0, 5.0]).unwrap();
        assert_eq!(mean, 3.0);
        assert!((error.unwrap() - 0.912_870_929).abs() < 1e-9);
        assert_eq!(mean_and_error(&[2.5]), Some((2.5, None)));
        assert_eq!(mean_and_error(&[2.0, 2.0]), Some((2.0, Some(0.0))));
        assert_eq!(mean_and_error(&[]), None);
    }
}
