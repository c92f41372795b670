//! Colour correction of a restored picture towards the degraded one, as in StableSR and DiffBIR: diffusion shifts
//! colours slightly, and degradations mostly preserve them.

use serde::{Deserialize, Serialize};
use spire_core::Picture;

/// Levels of the wavelet decomposition: structures coarser than 2⁵ pixels count as colour.
const LEVELS: u32 = 5;

/// Avoids division by zero on a flat plane.
const EPSILON: f32 = 1e-5;

/// How colours are corrected.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ColourFix {
    /// No correction.
    #[default]
    None,
    /// Combines the fine wavelet levels of the restored picture with the coarse level of the degraded one.
    Wavelet,
    /// Takes each channel's mean and standard deviation from the degraded picture.
    Adain,
}

impl ColourFix {
    /// `restored` with the colours of `degraded`, which has the same size; clamped to \[0, 1\].
    pub fn apply(self, restored: Picture, degraded: &Picture) -> Picture {
        let mut fixed = self.apply_unclamped(restored, degraded);
        fixed.clamp();
        fixed
    }

    /// As [`Self::apply`], without the clamp.
    pub(crate) fn apply_unclamped(self, restored: Picture, degraded: &Picture) -> Picture {
        let fixed = match self {
            Self::None => return restored,
            Self::Wavelet => by_plane(&restored, degraded, wavelet),
            Self::Adain => by_plane(&restored, degraded, |restored, degraded, _| adain(restored, degraded)),
        };
        Picture { data: fixed.into(), ..restored }
    }
}

fn by_plane(restored: &Picture, degraded: &Picture, fix: impl Fn(&[f32], &[f32], usize) -> Vec<f32>) -> Vec<f32> {
    restored.planes().zip(degraded.planes()).flat_map(|(r, d)| fix(r, d, restored.width)).collect()
}

/// `restored − coarse(restored) + coarse(degraded)`.
fn wavelet(restored: &[f32], degraded: &[f32], width: usize) -> Vec<f32> {
    let (own, wanted) = (coarse(restored, width), coarse(degraded, width));
    restored.iter().zip(own).zip(wanted).map(|((r, own), wanted)| r - own + wanted).collect()
}

/// The plane through a 3×3 binomial blur at strides 1, 2, 4, …: the à trous wavelet transform's coarsest level.
fn coarse(plane: &[f32], width: usize) -> Vec<f32> {
    (0..LEVELS).fold(plane.to_vec(), |plane, level| {
        let blurred = binomial(&plane, width, 1 << level, true);
        binomial(&blurred, width, 1 << level, false)
    })
}

/// `[1, 2, 1] / 4` with its taps `stride` apart, along rows or down columns; edges are repeated.
fn binomial(plane: &[f32], width: usize, stride: usize, along_rows: bool) -> Vec<f32> {
    let height = plane.len() / width;
    let tap = |x: usize, y: usize| plane[y * width + x];
    let at = |x: usize, y: usize| {
        let (before, after) = if along_rows {
            (tap(x.saturating_sub(stride), y), tap((x + stride).min(width - 1), y))
        } else {
            (tap(x, y.saturating_sub(stride)), tap(x, (y + stride).min(height - 1)))
        };
        (before + 2.0 * tap(x, y) + after) / 4.0
    };
    (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| at(x, y)).collect()
}

/// `(restored − mean) / std · std(degraded) + mean(degraded)`.
fn adain(restored: &[f32], degraded: &[f32]) -> Vec<f32> {
    let ((mean, std), (wanted_mean, wanted_std)) = (mean_and_std(restored), mean_and_std(degraded));
    restored.iter().map(|value| (value - mean) / std * wanted_std + wanted_mean).collect()
}

fn mean_and_std(plane: &[f32]) -> (f32, f32) {
    let count = plane.len() as f64;
    let mean = plane.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares = plane.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
    // The unbiased variance; it is undefined for a single pixel.
    let variance = squares / (count - 1.0).max(1.0);
    (mean as f32, (variance as f32 + EPSILON).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripes(width: usize, height: usize, colour: [f32; 3]) -> Picture {
        let mut picture = Picture::filled(width, height, colour);
        for (i, value) in picture.data.iter_mut().enumerate() {
            *value += if i % 2 == 0 { 0.05 } else { -0.05 };
        }
        picture
    }

    fn means(picture: &Picture) -> Vec<f32> {
        picture.planes().map(|plane| mean_and_std(plane).0).collect()
    }

    #[test]
    fn both_corrections_take_the_colour_and_keep_the_detail() {
        let (restored, degraded) = (stripes(64, 48, [0.7, 0.4, 0.3]), Picture::filled(64, 48, [0.6, 0.5, 0.2]));
        for fix in [ColourFix::Wavelet, ColourFix::Adain] {
            let fixed = fix.apply(restored.clone(), &degraded);
            for (mean, wanted) in means(&fixed).into_iter().zip([0.6, 0.5, 0.2]) {
                assert!((mean - wanted).abs() < 1e-3, "{fix:?}: {mean} {wanted}");
            }
        }
        // The degraded picture is flat; the wavelet correction keeps the restored picture's contrast.
        let fixed = ColourFix::Wavelet.apply(restored.clone(), &degraded);
        assert!((fixed.data[2 * 64 + 20] - fixed.data[2 * 64 + 21] - 0.1).abs() < 5e-3);
        assert_eq!(ColourFix::None.apply(restored.clone(), &degraded), restored);
    }

    #[test]
    fn a_picture_of_one_pixel_is_handled() {
        let (one, other) = (Picture::filled(1, 1, [0.5; 3]), Picture::filled(1, 1, [0.25; 3]));
        for fix in [ColourFix::Wavelet, ColourFix::Adain] {
            assert_eq!(fix.apply(one.clone(), &other).data, other.data);
        }
    }

    /// DiffBIR's `wavelet_reconstruction` and StableSR's `adaptive_instance_normalization` on the same planes, in
    /// PyTorch: see scripts/reference/colour.py.
    #[test]
    fn agrees_with_the_reference() {
        let value = |i: usize, a: usize, b: usize| (i * a % b) as f32 / b as f32;
        let restored = Picture { width: 9, height: 7, data: (0..189).map(|i| value(i, 37, 101)).collect() };
        let degraded = Picture { width: 9, height: 7, data: (0..189).map(|i| value(i, 53, 97)).collect() };
        let wavelet = by_plane(&restored, &degraded, wavelet);
        let adain = by_plane(&restored, &degraded, |restored, degraded, _| adain(restored, degraded));
        for (got, want) in [0, 50, 100, 188].map(|i| [wavelet[i], adain[i]]).into_iter().zip(REFERENCE) {
            assert!((got[0] - want[0]).abs() < 1e-5 && (got[1] - want[1]).abs() < 1e-5, "{got:?} {want:?}");
        }
    }

    const REFERENCE: [[f32; 2]; 4] =
        [[-0.0259386, -0.0208477], [0.2886795, 0.2955917], [0.6280711, 0.6376853], [0.8756245, 0.8860561]];
}
