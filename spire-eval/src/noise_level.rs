//! Noise estimation without reference.

use spire_data::Picture;

use crate::pixels::luma;

/// The standard deviation of the noise in the luma (white is 1): the median of the absolute diagonal Haar details over
/// 0.6745 (Donoho and Johnstone, 1994). The median is robust against the few edge pixels. 0 for a picture of less than
/// 2 × 2 pixels.
pub fn noise_level(picture: &Picture) -> f64 {
    let (luma, width) = (luma(picture), picture.width);
    let mut details: Vec<f64> = (0..picture.height / 2)
        .flat_map(|y| (0..width / 2).map(move |x| 2 * (y * width + x)))
        .map(|i| ((luma[i] - luma[i + 1] - luma[i + width] + luma[i + width + 1]) / 2.0).abs())
        .collect();
    if details.is_empty() {
        return 0.0;
    }
    let middle = details.len() / 2;
    *details.select_nth_unstable_by(middle, f64::total_cmp).1 / 0.6745
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand_distr::StandardNormal;
    use spire_data::rng::rng;

    use super::*;

    #[test]
    fn the_deviation_of_added_noise_is_estimated_despite_edges() {
        let mut rng = rng(0, "test", 0);
        for sigma in [0.0_f32, 0.02, 0.1] {
            let edges = |i: usize| if (i % 128 / 33 + i / 128 / 33).is_multiple_of(2) { 0.3 } else { 0.7 };
            let noisy = |i: usize| edges(i % 16384) + sigma * rng.sample::<f32, _>(StandardNormal);
            let data: Vec<f32> = (0..3 * 128 * 128).map(noisy).collect();
            // The luma averages three independent channels.
            let of_luma = f64::from(sigma) * f64::hypot(f64::hypot(0.299, 0.587), 0.114);
            let found = noise_level(&Picture { width: 128, height: 128, data: data.into() });
            assert!((found - of_luma).abs() < 0.12 * of_luma + 1e-6, "{sigma}: {found}, expected {of_luma}");
        }
    }

    #[test]
    fn a_picture_too_small_has_none() {
        assert_eq!(noise_level(&Picture::filled(1, 5, [0.5; 3])), 0.0);
    }
}
