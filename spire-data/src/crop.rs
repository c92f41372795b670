//! Which square of a picture becomes a training picture, and how it is cut.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::Picture;
use crate::degrade::{Filter, resize};
use crate::rng::Rng;
use crate::source::Pixels;

/// Which square of a picture is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// The largest square from the centre, resized.
    #[default]
    Center,
    /// A random square at the picture's own resolution; for a picture that is too small, the largest, enlarged.
    Random,
}

/// A square of a picture, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Square {
    left: usize,
    top: usize,
    side: usize,
}

/// Around a part of a picture that is enlarged, bicubic interpolation reads so many more pixels.
const MARGIN: usize = 2;

impl Square {
    /// The square of a picture of `width` × `height` pixels that becomes one of `size` × `size`.
    pub fn draw((width, height): (usize, usize), size: usize, crop: Crop, rng: &mut Rng) -> Self {
        let shorter = width.min(height);
        match crop {
            Crop::Center => Self { left: (width - shorter) / 2, top: (height - shorter) / 2, side: shorter },
            Crop::Random => {
                let side = shorter.min(size);
                let left = rng.random_range(0..=width - side);
                Self { left, top: rng.random_range(0..=height - side), side }
            }
        }
    }

    /// The square of `picture`, resized to `size` × `size`: reduced by area averaging, enlarged by bicubic interpolation.
    ///
    /// # Panics
    /// If the square reaches outside the picture.
    pub fn of(self, picture: &Pixels, size: usize) -> Picture {
        scaled(picture.crop(self.left, self.top, self.side, self.side), size)
    }

    /// As [`of`](Self::of) of a picture that is `factor` times smaller than the one for which the square was drawn. It is
    /// enlarged first, by bicubic interpolation, as the Real-ESRGAN pipeline enlarges what it has reduced. Only the part that
    /// the square needs is enlarged.
    ///
    /// # Panics
    /// If the square reaches outside the enlarged picture.
    pub fn of_smaller(self, picture: &Pixels, factor: usize, size: usize) -> Picture {
        if factor == 1 {
            return self.of(picture, size);
        }
        let (width, height) = picture.size();
        let part = |start: usize, whole: usize| {
            let first = (start / factor).saturating_sub(MARGIN);
            (first, whole.min((start + self.side).div_ceil(factor) + MARGIN))
        };
        let ((left, right), (top, bottom)) = (part(self.left, width), part(self.top, height));
        let needed = picture.crop(left, top, right - left, bottom - top);
        let mut enlarged = resize(&needed, needed.width * factor, needed.height * factor, Filter::Bicubic);
        enlarged.clamp();
        scaled(enlarged.crop(self.left - left * factor, self.top - top * factor, self.side, self.side), size)
    }
}

fn scaled(square: Picture, size: usize) -> Picture {
    if square.width == size {
        return square;
    }
    let filter = if square.width > size { Filter::Area } else { Filter::Bicubic };
    let mut scaled = resize(&square, size, size, filter);
    scaled.clamp();
    scaled
}

/// The picture with left and right exchanged.
pub(crate) fn mirrored(picture: &Picture) -> Picture {
    let rows = picture.data.chunks_exact(picture.width);
    let data: Vec<f32> = rows.flat_map(|row| row.iter().rev().copied()).collect();
    Picture { width: picture.width, height: picture.height, data: data.into() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::rng;

    fn cut(picture: &Pixels, size: usize, crop: Crop, rng: &mut Rng) -> Picture {
        Square::draw(picture.size(), size, crop, rng).of(picture, size)
    }

    #[test]
    fn a_center_crop_keeps_the_centre_and_resizes_it() {
        let mut draws = rng(0, "crop", 0);
        let mut wide = Picture::filled(30, 10, [1.0, 0.0, 0.0]);
        for y in 0..10 {
            wide.data[y * 30 + 10..y * 30 + 20].fill(0.25);
        }
        let wide = Pixels::Values(wide);
        for size in [4, 10, 16] {
            let cut = cut(&wide, size, Crop::Center, &mut draws);
            assert_eq!((cut.width, cut.height), (size, size));
            assert!(cut.plane(0).iter().all(|value| (value - 0.25).abs() < 1e-5), "size {size}");
        }
    }

    #[test]
    fn a_random_crop_keeps_the_resolution_and_reaches_every_place() {
        let mut ramp = Picture::filled(9, 8, [0.0; 3]);
        ramp.data.iter_mut().enumerate().for_each(|(i, value)| *value = (i % 72) as f32 / 72.0);
        let mut corners = BTreeSet::new();
        for n in 0..200 {
            let cut = cut(&Pixels::Values(ramp.clone()), 6, Crop::Random, &mut rng(0, "crop", n));
            let corner = (cut.data[0] * 72.0).round() as usize;
            assert_eq!(cut, ramp.crop(corner % 9, corner / 9, 6, 6));
            corners.insert(corner);
        }
        assert_eq!(corners.len(), 12);
        let small = cut(&Pixels::Values(ramp), 16, Crop::Random, &mut rng(0, "crop", 0));
        assert_eq!((small.width, small.height), (16, 16));
        assert!(small.data.iter().all(|value| (0.0..=1.0).contains(value)));
    }

    /// The part of a small picture is enlarged as if the whole picture were.
    #[test]
    fn a_square_of_a_smaller_picture_lies_where_that_of_the_large_one_does() {
        let mut small = Picture::filled(17, 13, [0.0; 3]);
        small.data.iter_mut().enumerate().for_each(|(i, value)| *value = (i * 37 % 101) as f32 / 101.0);
        for factor in [1, 2, 3, 4] {
            let mut whole = resize(&small, 17 * factor, 13 * factor, Filter::Bicubic);
            whole.clamp();
            for (size, crop) in [(11, Crop::Random), (5, Crop::Center), (64, Crop::Random)] {
                for n in 0..20 {
                    let square = Square::draw((17 * factor, 13 * factor), size, crop, &mut rng(3, "crop", n));
                    let expected = square.of(&Pixels::Values(whole.clone()), size);
                    let found = square.of_smaller(&Pixels::Values(small.clone()), factor, size);
                    let apart = expected.data.iter().zip(&*found.data).map(|(a, b)| (a - b).abs());
                    let apart = apart.fold(0.0, f32::max);
                    assert!(apart < 1e-5, "factor {factor}, {crop:?} to {size}, n = {n}: {apart}");
                }
            }
        }
    }
}
