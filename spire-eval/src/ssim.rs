//! Structural similarity (Wang et al., 2004).

use spire_data::Picture;

use crate::pixels::{Compared, MetricError, check_sizes, planes};

/// Standard deviation of the Gaussian window, pixels.
const SIGMA: f64 = 1.5;
/// The window reaches 3.5 standard deviations, rounded: 5 pixels to each side.
const RADIUS: usize = 5;
const WINDOW: usize = 2 * RADIUS + 1;
/// `(K1·255)²` and `(K2·255)²` avoid division by zero in black or flat windows.
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// Mean structural similarity of `picture` to `reference`, in \[-1, 1\]; 1 for equal pictures. Computed on 8-bit levels
/// with a Gaussian window of σ = 1.5 for each RGB channel, then averaged.
///
/// The numerics are those of scikit-image's `structural_similarity` with `gaussian_weights=True, sigma=1.5,
/// use_sample_covariance=False, data_range=255, channel_axis=-1`. It excludes windows that cross the border, so the
/// padding does not matter.
///
/// # Errors
/// The sizes differ, or a side is below 11 pixels.
pub fn ssim(reference: &Picture, picture: &Picture) -> Result<f64, MetricError> {
    ssim_of(reference, picture, Compared::default())
}

/// As [`ssim`], optionally on the luma and without a border: the numerics are those of BasicSR's `calculate_ssim` with
/// `test_y_channel` and `crop_border`.
///
/// # Errors
/// The sizes differ, or a side inside the border is shorter than 11 pixels.
pub fn ssim_of(reference: &Picture, picture: &Picture, compared: Compared) -> Result<f64, MetricError> {
    check_sizes(reference, picture, compared, WINDOW)?;
    let ((a, width), (b, _)) = (planes(reference, compared), planes(picture, compared));
    let similarities = a.iter().zip(&b).map(|(a, b)| channel_ssim(a, b, width));
    Ok(similarities.sum::<f64>() / a.len() as f64)
}

fn channel_ssim(a: &[f64], b: &[f64], width: usize) -> f64 {
    let product = |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x * y).collect() };
    let (mean_a, mean_b) = (smooth(a, width), smooth(b, width));
    let (aa, bb, ab) = (smooth(&product(a, a), width), smooth(&product(b, b), width), smooth(&product(a, b), width));

    let similarity = |i: usize| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (var_a, var_b, covariance) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        (2.0 * ma * mb + C1) * (2.0 * covariance + C2) / ((ma * ma + mb * mb + C1) * (var_a + var_b + C2))
    };
    (0..mean_a.len()).map(similarity).sum::<f64>() / mean_a.len() as f64
}

/// Gaussian-weighted mean of every window that lies inside the plane: `RADIUS` pixels fewer on each side.
fn smooth(plane: &[f64], width: usize) -> Vec<f64> {
    let weights = window();
    let inside = width - 2 * RADIUS;
    let rows: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| row.windows(WINDOW).map(|values| values.iter().zip(&weights).map(|(v, w)| v * w).sum::<f64>()))
        .collect();
    let height = rows.len() / inside - 2 * RADIUS;
    let mut smoothed = vec![0.0; inside * height];
    for (y, line) in smoothed.chunks_exact_mut(inside).enumerate() {
        for (row, weight) in rows[y * inside..].chunks_exact(inside).zip(&weights) {
            for (value, v) in line.iter_mut().zip(row) {
                *value += weight * v;
            }
        }
    }
    smoothed
}

fn window() -> [f64; WINDOW] {
    let mut weights = [0.0; WINDOW];
    for (i, weight) in weights.iter_mut().enumerate() {
        let x = i as f64 - RADIUS as f64;
        *weight = (-0.5 * (x / SIGMA).powi(2)).exp();
    }
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkered(width: usize, height: usize, low: f32, high: f32) -> Picture {
        let mut picture = Picture::filled(width, height, [low; 3]);
        for (i, value) in picture.data.iter_mut().enumerate() {
            if (i % width + i / width).is_multiple_of(3) {
                *value = high;
            }
        }
        picture
    }

    #[test]
    fn a_picture_has_similarity_one_to_itself() {
        let picture = checkered(17, 13, 0.2, 0.9);
        assert!((ssim(&picture, &picture).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn flat_pictures_compare_by_luminance_alone() {
        let (a, b) = (Picture::filled(11, 11, [100.0 / 255.0; 3]), Picture::filled(11, 11, [50.0 / 255.0; 3]));
        let expected = (2.0 * 100.0 * 50.0 + C1) / (100.0 * 100.0 + 50.0 * 50.0 + C1);
        assert!((ssim(&a, &b).unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn it_is_symmetric_and_falls_with_contrast() {
        let (a, b) = (checkered(24, 16, 0.1, 0.9), checkered(24, 16, 0.4, 0.6));
        let ab = ssim(&a, &b).unwrap();
        assert!((ab - ssim(&b, &a).unwrap()).abs() < 1e-12);
        assert!(ab < 0.9, "{ab}");
    }

    #[test]
    fn a_picture_below_the_window_is_refused() {
        let picture = Picture::filled(40, 10, [0.5; 3]);
        assert_eq!(ssim(&picture, &picture), Err(MetricError::TooSmall { width: 40, height: 10, least: 11 }));
    }
}
