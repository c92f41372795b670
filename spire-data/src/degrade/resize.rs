//! Resizing with the numerics of torch's `F.interpolate` (`align_corners=False`, no antialiasing).

use std::ops::Range;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::simd::vectorized;
use crate::Picture;
use crate::buffer::Buffer;
use crate::rng::Rng;

/// The interpolation of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Area averaging (adaptive average pooling).
    Area,
    /// Bilinear, from the 2 × 2 nearest pixels.
    Bilinear,
    /// Bicubic with a = -0.75, from the 4 × 4 nearest pixels. Overshoots at edges.
    Bicubic,
    /// Bicubic with a = -0.5, with antialiasing for reduction: MATLAB's `imresize`, which makes the test sets of
    /// super-resolution.
    BicubicAntialiased,
}

impl Filter {
    /// Draws area, bilinear or bicubic with equal probability.
    pub fn random(rng: &mut Rng) -> Self {
        [Self::Area, Self::Bilinear, Self::Bicubic][rng.random_range(0..3)]
    }
}

/// Resizes to `width` × `height` pixels (at least 1 × 1). Bicubic can produce values outside \[0, 1\].
pub fn resize(picture: &Picture, width: usize, height: usize, filter: Filter) -> Picture {
    let columns = Windows::between(picture.width, width, filter);
    let rows = Windows::between(picture.height, height, filter);
    resample(picture, &columns, &rows)
}

/// [`resize`] for one plane whose `size` is (width, height).
///
/// # Panics
/// If the number of values does not match the size.
pub fn resize_plane(plane: &[f32], size: (usize, usize), width: usize, height: usize, filter: Filter) -> Vec<f32> {
    assert_eq!(plane.len(), size.0 * size.1, "a plane has width × height values");
    let columns = Windows::between(size.0, width, filter);
    let rows = Windows::between(size.1, height, filter);
    let mut output = vec![0.0; columns.len() * rows.len()];
    resample_plane(plane, size.0, &columns, &rows, &mut output);
    output
}

/// Resizes by `factor`, rounded down to whole pixels (at least 1 × 1).
///
/// As with torch's `scale_factor`, bilinear and bicubic step by exactly `1 / factor` pixels, not by old size / new
/// size.
pub fn rescale(picture: &Picture, factor: f64, filter: Filter) -> Picture {
    let windows = |size: usize| Windows::new(size, ((size as f64 * factor) as usize).max(1), 1.0 / factor, filter);
    resample(picture, &windows(picture.width), &windows(picture.height))
}

fn resample(picture: &Picture, columns: &Windows, rows: &Windows) -> Picture {
    let mut data = Buffer::zeroed(3 * columns.len() * rows.len());
    for (plane, output) in picture.planes().zip(data.chunks_exact_mut(columns.len() * rows.len())) {
        resample_plane(plane, picture.width, columns, rows, output);
    }
    Picture { width: columns.len(), height: rows.len(), data }
}

/// The direction that leaves less work for the other goes first.
fn resample_plane(plane: &[f32], width: usize, columns: &Windows, rows: &Windows, output: &mut [f32]) {
    if rows.len() * width < plane.len() {
        let mut between = Buffer::zeroed(rows.len() * width);
        rows.across_rows(plane, width, &mut between);
        columns.along_rows(&between, width, output);
    } else {
        let mut between = Buffer::zeroed(plane.len() / width * columns.len());
        columns.along_rows(plane, width, &mut between);
        rows.across_rows(&between, columns.len(), output);
    }
}

/// For every output pixel of a line: the range of source pixels and their weights.
struct Windows {
    runs: Vec<Run>,
    weights: Vec<f32>,
}

struct Run {
    first: usize,
    weights: Range<usize>,
}

impl Windows {
    /// The weights for resizing a line of `size` pixels to `new_size` (at least 1).
    fn between(size: usize, new_size: usize, filter: Filter) -> Self {
        let new_size = new_size.max(1);
        Self::new(size, new_size, size as f64 / new_size as f64, filter)
    }

    fn new(size: usize, new_size: usize, step: f64, filter: Filter) -> Self {
        let mut windows = Self { runs: Vec::with_capacity(new_size), weights: Vec::new() };
        for i in 0..new_size {
            let centre = (i as f64 + 0.5) * step - 0.5;
            match filter {
                Filter::Area => {
                    let (start, end) = (i * size / new_size, ((i + 1) * size).div_ceil(new_size));
                    windows.push(size, start as i64, &vec![1.0 / (end - start) as f64; end - start]);
                }
                Filter::Bilinear => {
                    let centre = centre.max(0.0);
                    let t = centre.fract();
                    windows.push(size, centre as i64, &[1.0 - t, t]);
                }
                Filter::Bicubic => {
                    let t = centre - centre.floor();
                    let weights = [1.0 + t, t, 1.0 - t, 2.0 - t].map(|distance| cubic(distance, -0.75));
                    windows.push(size, centre.floor() as i64 - 1, &weights);
                }
                Filter::BicubicAntialiased => {
                    let widening = step.max(1.0);
                    let first = (centre - 2.0 * widening).floor() as i64;
                    let last = (centre + 2.0 * widening).ceil() as i64;
                    let weight = |position: i64| cubic((position as f64 - centre).abs() / widening, -0.5);
                    let weights: Vec<f64> = (first..=last).map(weight).collect();
                    let sum: f64 = weights.iter().sum();
                    windows.push_mirrored(size, first, &weights.iter().map(|weight| weight / sum).collect::<Vec<_>>());
                }
            }
        }
        windows
    }

    /// Adds an output pixel computed from `weights.len()` source pixels starting at `first`. Positions outside the line
    /// use the edge pixel.
    fn push(&mut self, size: usize, first: i64, weights: &[f64]) {
        let inside = |position: i64| position.clamp(0, size as i64 - 1) as usize;
        let (start, end) = (inside(first), inside(first + weights.len() as i64 - 1));
        let base = self.weights.len();
        self.weights.resize(base + end - start + 1, 0.0);
        for (position, &weight) in (first..).zip(weights) {
            self.weights[base + inside(position) - start] += weight as f32;
        }
        self.runs.push(Run { first: start, weights: base..self.weights.len() });
    }

    /// As [`push`](Self::push), but positions outside the line are reflected.
    fn push_mirrored(&mut self, size: usize, first: i64, weights: &[f64]) {
        let inside = |position: i64| {
            let around = position.rem_euclid(2 * size as i64) as usize;
            around.min(2 * size - 1 - around)
        };
        let touched = || (first..).zip(weights).map(|(position, weight)| (inside(position), weight));
        let start = touched().map(|(position, _)| position).min().unwrap_or(0);
        let end = touched().map(|(position, _)| position).max().unwrap_or(0);
        let base = self.weights.len();
        self.weights.resize(base + end - start + 1, 0.0);
        for (position, &weight) in touched() {
            self.weights[base + position - start] += weight as f32;
        }
        self.runs.push(Run { first: start, weights: base..self.weights.len() });
    }

    fn len(&self) -> usize {
        self.runs.len()
    }

    /// Resamples every row of `width` pixels.
    fn along_rows(&self, plane: &[f32], width: usize, output: &mut [f32]) {
        for (row, output) in plane.chunks_exact(width).zip(output.chunks_exact_mut(self.len())) {
            for (Run { first, weights }, output) in self.runs.iter().zip(output) {
                let weights = &self.weights[weights.clone()];
                *output = row[*first..].iter().zip(weights).map(|(value, weight)| value * weight).sum();
            }
        }
    }

    /// Computes every output row of `width` pixels as a weighted sum of input rows.
    fn across_rows(&self, plane: &[f32], width: usize, output: &mut [f32]) {
        vectorized(|| self.sum_rows(plane, width, output));
    }

    #[inline(always)]
    fn sum_rows(&self, plane: &[f32], width: usize, output: &mut [f32]) {
        for (sums, Run { first, weights }) in output.chunks_exact_mut(width).zip(&self.runs) {
            for (row, &weight) in plane[first * width..].chunks_exact(width).zip(&self.weights[weights.clone()]) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
        }
    }
}

/// Keys' cubic convolution kernel at `distance` pixels from its centre.
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance;
    match x {
        ..=1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        ..2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}

/// The picture, scaled down by area averaging if its longer side has more than `longest` pixels.
pub fn at_most(picture: &Picture, longest: usize) -> Picture {
    let side = picture.width.max(picture.height);
    if side <= longest {
        return picture.clone();
    }
    let scaled = |pixels: usize| (pixels * longest).div_ceil(side);
    resize(picture, scaled(picture.width), scaled(picture.height), Filter::Area)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 4] = [Filter::Area, Filter::Bilinear, Filter::Bicubic, Filter::BicubicAntialiased];

    fn ramp(width: usize, height: usize) -> Picture {
        let data = (0..3 * width * height).map(|i| (i * 37 % 101) as f32 / 101.0).collect();
        Picture { width, height, data }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        for filter in FILTERS {
            assert_eq!(resize(&ramp(7, 5), 7, 5, filter), ramp(7, 5));
            assert_eq!(rescale(&ramp(7, 5), 1.0, filter), ramp(7, 5));
        }
    }

    #[test]
    fn flat_colour_stays_flat_at_any_size() {
        let flat = Picture::filled(5, 3, [0.25, 0.5, 0.75]);
        for filter in FILTERS {
            for (width, height) in [(1, 1), (2, 7), (13, 2), (40, 30)] {
                let resized = resize(&flat, width, height, filter);
                assert_eq!((resized.width, resized.height), (width, height));
                for (got, want) in resized.data.iter().zip(&Picture::filled(width, height, [0.25, 0.5, 0.75]).data) {
                    assert!((got - want).abs() < 1e-6, "{filter:?} {width}×{height}");
                }
            }
        }
    }

    #[test]
    fn area_halves_by_the_mean_of_four() {
        let half = resize(&ramp(4, 4), 2, 2, Filter::Area);
        let plane = ramp(4, 4).plane(2).to_vec();
        let want = (plane[2] + plane[3] + plane[6] + plane[7]) / 4.0;
        assert!((half.plane(2)[1] - want).abs() < 1e-6);
    }

    #[test]
    fn a_scale_factor_rounds_down_and_keeps_its_own_step() {
        let line = Picture { width: 5, height: 1, data: [0.0, 0.25, 0.5, 0.75, 1.0].repeat(3).into() };
        let scaled = rescale(&line, 0.5, Filter::Bilinear);
        assert_eq!((scaled.width, scaled.height), (2, 1));
        assert_eq!(scaled.plane(0), [0.125, 0.625]);
        assert_eq!(rescale(&line, 0.01, Filter::Bicubic).data.len(), 3);
    }
}
