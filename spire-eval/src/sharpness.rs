//! Sharpness without reference.

use spire_data::Picture;
use spire_data::degrade::blur::gaussian_blur;

use crate::pixels::luma;

/// Standard deviation in pixels of the Gaussian that suppresses noise first.
const SMOOTHING: f32 = 1.0;

/// Quantile of the gradient that counts as an edge.
const EDGES: f64 = 0.99;

/// Sharpness: the 99th percentile of the luma's gradient magnitude per pixel (white is 1) after a Gaussian of one
/// pixel, which suppresses noise. A step from black to white has 0.34, a flat picture 0; blur lowers it.
pub fn sharpness(picture: &Picture) -> f64 {
    let (width, height) = (picture.width, picture.height);
    if width < 3 || height < 3 {
        return 0.0;
    }
    let luma = luma(&gaussian_blur(picture, SMOOTHING));
    let steepness = |i: usize| f64::hypot(luma[i + 1] - luma[i - 1], luma[i + width] - luma[i - width]) / 2.0;
    let mut steepness: Vec<f64> =
        (1..height - 1).flat_map(|y| (1..width - 1).map(move |x| y * width + x)).map(steepness).collect();
    let rank = ((steepness.len() - 1) as f64 * EDGES).round() as usize;
    *steepness.select_nth_unstable_by(rank, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand_distr::StandardNormal;
    use spire_data::rng::rng;

    use super::*;

    fn squares() -> Picture {
        let value = |i: usize| if (i % 64 / 16 + i / 64 / 16).is_multiple_of(2) { 0.0 } else { 1.0 };
        Picture { width: 64, height: 64, data: (0..3 * 64 * 64).map(|i| value(i % 4096)).collect() }
    }

    #[test]
    fn blur_lowers_it_step_by_step_and_noise_hardly_raises_it() {
        let sharp = sharpness(&squares());
        assert!((0.3..0.55).contains(&sharp), "{sharp}");
        let blurred: Vec<f64> = [0.0, 0.6, 1.0, 2.0, 4.0].map(|s| sharpness(&gaussian_blur(&squares(), s))).to_vec();
        assert!(blurred.windows(2).all(|pair| pair[1] < pair[0]), "{blurred:?}");
        let mut rng = rng(0, "test", 0);
        let mut noisy = gaussian_blur(&squares(), 2.0);
        noisy.data.iter_mut().for_each(|value| *value += 0.05 * rng.sample::<f32, _>(StandardNormal));
        assert!((sharpness(&noisy) - blurred[3]).abs() < 0.25 * blurred[3], "{} {}", sharpness(&noisy), blurred[3]);
    }

    #[test]
    fn flat_and_tiny_pictures_are_not_sharp() {
        assert!(sharpness(&Picture::filled(20, 20, [0.3; 3])) < 1e-6);
        assert_eq!(sharpness(&Picture::filled(2, 20, [0.3; 3])), 0.0);
    }
}
