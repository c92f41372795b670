//! Pillow's `Image.resize` with its bicubic filter (`Resample.c`): the preprocessing of FID and of CLIP.
//!
//! Cubic convolution with a = -0.5 and antialiasing. Weights outside the picture are dropped and the others normalised.
//! Rows are resized first, then columns. For 8-bit pictures both results are rounded to whole levels; as in Pillow,
//! this is done in integer arithmetic.

use spire_data::Picture;

use crate::pixels::level;

/// An 8-bit picture, plane by plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The red, green and blue planes of `width · height` levels.
    pub planes: [Vec<u8>; 3],
}

impl Levels {
    /// The picture's 8-bit levels.
    pub fn of(picture: &Picture) -> Self {
        let planes = [0, 1, 2].map(|i| picture.plane(i).iter().map(|&value| level(value) as u8).collect());
        Self { width: picture.width, height: picture.height, planes }
    }

    /// Resizes to `width` × `height` pixels (at least 1 × 1), as Pillow does in mode "RGB".
    #[must_use]
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let planes = self.planes.each_ref().map(|plane| resize(plane, (self.width, self.height), (width, height)));
        Self { width, height, planes }
    }

    /// The crop of `width` × `height` pixels with its upper left corner at (`left`, `top`); it must lie inside.
    #[must_use]
    pub fn cropped(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        let row = |y: usize| (top + y) * self.width + left;
        let crop = |plane: &Vec<u8>| (0..height).flat_map(|y| &plane[row(y)..row(y) + width]).copied().collect();
        Self { width, height, planes: self.planes.each_ref().map(crop) }
    }
}

/// Resizes a plane of size (width, height), as Pillow does in mode "F" (`f32`) or "L" (`u8`).
///
/// # Panics
/// If the number of values does not match the size.
pub fn resize<T: Pixel>(plane: &[T], size: (usize, usize), new_size: (usize, usize)) -> Vec<T> {
    assert_eq!(plane.len(), size.0 * size.1, "a plane has width × height values");
    let rows = if size.0 == new_size.0 { plane.to_vec() } else { along_rows(plane, size.0, new_size.0) };
    if size.1 == new_size.1 { rows } else { across_rows(&rows, new_size.0, size.1, new_size.1) }
}

/// The values of a plane.
pub trait Pixel: Copy {
    /// The type of weights.
    type Weight: Copy;
    /// The type of sums.
    type Sum: Copy + Send;
    /// The initial sum.
    const START: Self::Sum;
    /// Rounds a weight.
    fn weight(exact: f64) -> Self::Weight;
    /// Adds a product.
    fn add(sum: Self::Sum, value: Self, weight: Self::Weight) -> Self::Sum;
    /// Rounds a sum to a pixel.
    fn from_sum(sum: Self::Sum) -> Self;
}

impl Pixel for f32 {
    type Weight = f64;
    type Sum = f64;
    const START: f64 = 0.0;

    fn weight(exact: f64) -> f64 {
        exact
    }

    #[inline(always)]
    fn add(sum: f64, value: Self, weight: f64) -> f64 {
        sum + f64::from(value) * weight
    }

    #[inline(always)]
    fn from_sum(sum: f64) -> Self {
        sum as Self
    }
}

/// Fractional bits of the weights for 8-bit pictures.
const FRACTION_BITS: u32 = 32 - 8 - 2;

impl Pixel for u8 {
    type Weight = i32;
    type Sum = i32;
    const START: i32 = 1 << (FRACTION_BITS - 1);

    fn weight(exact: f64) -> i32 {
        (exact * f64::from(1 << FRACTION_BITS)).round() as i32
    }

    #[inline(always)]
    fn add(sum: i32, value: Self, weight: i32) -> i32 {
        sum + i32::from(value) * weight
    }

    #[inline(always)]
    fn from_sum(sum: i32) -> Self {
        (sum >> FRACTION_BITS).clamp(0, 255) as Self
    }
}

/// The source pixels of an output pixel: the first, and the weights.
struct Window<W> {
    first: usize,
    weights: Vec<W>,
}

fn windows<T: Pixel>(size: usize, new_size: usize) -> Vec<Window<T::Weight>> {
    let scale = size as f64 / new_size as f64;
    let widening = scale.max(1.0);
    let support = 2.0 * widening;
    let window = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(size);
        let weights: Vec<f64> = (first..end).map(|x| cubic((x as f64 - centre + 0.5) / widening)).collect();
        let sum: f64 = weights.iter().sum();
        Window { first, weights: weights.iter().map(|weight| T::weight(weight / sum)).collect() }
    };
    (0..new_size).map(window).collect()
}

/// Keys' cubic convolution kernel with a = -0.5.
fn cubic(distance: f64) -> f64 {
    let x = distance.abs();
    match x {
        ..1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        ..2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

fn along_rows<T: Pixel>(plane: &[T], width: usize, new_width: usize) -> Vec<T> {
    let windows = windows::<T>(width, new_width);
    let pixel = |row: &[T], window: &Window<T::Weight>| {
        let values = row[window.first..].iter().zip(&window.weights);
        T::from_sum(values.fold(T::START, |sum, (&value, &weight)| T::add(sum, value, weight)))
    };
    plane.chunks_exact(width).flat_map(|row| windows.iter().map(move |window| pixel(row, window))).collect()
}

fn across_rows<T: Pixel>(plane: &[T], width: usize, height: usize, new_height: usize) -> Vec<T> {
    let mut resized = Vec::with_capacity(width * new_height);
    let mut sums = vec![T::START; width];
    for Window { first, weights } in windows::<T>(height, new_height) {
        sums.fill(T::START);
        for (row, &weight) in plane[first * width..].chunks_exact(width).zip(&weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum = T::add(*sum, value, weight);
            }
        }
        resized.extend(sums.iter().map(|&sum| T::from_sum(sum)));
    }
    resized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_colour_stays_flat_at_any_size() {
        for new_size in [(1, 1), (3, 40), (17, 2), (64, 64)] {
            assert!(resize(&[200_u8; 35], (7, 5), new_size).iter().all(|&value| value == 200));
            assert!(resize(&[0.3_f32; 35], (7, 5), new_size).iter().all(|&value| (value - 0.3).abs() < 1e-6));
        }
    }

    #[test]
    fn levels_do_not_wrap_where_the_filter_overshoots() {
        let edge: Vec<u8> = (0..16).map(|x| if x < 8 { 0 } else { 255 }).collect();
        let wide = resize(&edge, (16, 1), (64, 1));
        assert_eq!((wide[0], wide[63]), (0, 255));
        assert!(wide.windows(2).all(|pair| pair[0] <= pair[1]), "{wide:?}");
        let float: Vec<f32> = edge.iter().map(|&value| f32::from(value)).collect();
        assert!(resize(&float, (16, 1), (64, 1)).iter().any(|&value| value < -1.0));
    }

    #[test]
    fn a_crop_is_a_part() {
        let picture = Picture { width: 3, height: 2, data: (0..18).map(|i| i as f32 / 255.0).collect() };
        let crop = Levels::of(&picture).cropped(1, 0, 2, 2);
        assert_eq!(crop.planes, [vec![1, 2, 4, 5], vec![7, 8, 10, 11], vec![13, 14, 16, 17]]);
    }
}
