//! Peak signal-to-noise ratio.

use spire_data::Picture;

use crate::pixels::{Compared, MetricError, check_sizes, planes};

/// Peak signal-to-noise ratio in dB of `picture` against `reference`, over all RGB values in 8-bit levels, peak 255.
/// Infinite for equal pictures. The numerics are those of scikit-image's `peak_signal_noise_ratio` on `uint8`.
///
/// # Errors
/// The sizes differ, or the pictures are empty.
pub fn psnr(reference: &Picture, picture: &Picture) -> Result<f64, MetricError> {
    psnr_of(reference, picture, Compared::default())
}

/// As [`psnr`], optionally on the luma and without a border: the numerics are those of BasicSR's `calculate_psnr` with
/// `test_y_channel` and `crop_border`.
///
/// # Errors
/// The sizes differ, or nothing is left inside the border.
pub fn psnr_of(reference: &Picture, picture: &Picture, compared: Compared) -> Result<f64, MetricError> {
    check_sizes(reference, picture, compared, 1)?;
    let ((a, _), (b, _)) = (planes(reference, compared), planes(picture, compared));
    let pairs = || a.iter().flatten().zip(b.iter().flatten());
    let mean_square = pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>() / pairs().count() as f64;
    Ok(10.0 * (255.0_f64.powi(2) / mean_square).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_difference_has_a_closed_form() {
        let black = Picture::filled(5, 4, [0.0; 3]);
        let grey = Picture::filled(5, 4, [51.0 / 255.0; 3]);
        let expected = 20.0 * 5.0_f64.log10();
        assert!((psnr(&black, &grey).unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn pictures_that_are_one_file_are_equal() {
        let a = Picture::filled(3, 3, [0.5; 3]);
        let b = Picture::filled(3, 3, [0.5005; 3]);
        assert_eq!(psnr(&a, &b).unwrap(), f64::INFINITY);
    }

    #[test]
    fn sizes_must_agree() {
        let error = psnr(&Picture::filled(3, 4, [0.0; 3]), &Picture::filled(4, 3, [0.0; 3])).unwrap_err();
        assert!(error.to_string().contains("3×4") && error.to_string().contains("4×3"), "{error}");
        let empty = Picture::filled(0, 0, [0.0; 3]);
        assert!(matches!(psnr(&empty, &empty), Err(MetricError::TooSmall { .. })));
    }
}
