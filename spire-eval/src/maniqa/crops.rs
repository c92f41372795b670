//! MANIQA's crops: on a regular grid instead of at random.

use anyhow::{Result, ensure};
use burn::tensor::{Int, Tensor};

/// Limit on the aspect ratio of a picture that has to be enlarged.
const MOST_NARROW: usize = 100;

/// The top left corners (row, column) of the crops in a picture of at least `side` by `side` pixels: the first `count`,
/// row by row, of a grid with the step of ⌊√count⌋ crops per side. Crops may overlap.
pub fn corners(height: usize, width: usize, side: usize, count: usize) -> Vec<[usize; 2]> {
    let floor = count.isqrt();
    let ceiling = if floor * floor == count { floor } else { floor + 1 };
    let [down, right] = [height, width].map(|length| (length - side) / floor);
    (0..count).map(|i| [i / ceiling * down, i % ceiling * right]).collect()
}

/// Enlarges `picture` `[batch, 3, height, width]` if a side has at most `side` pixels, so that the shorter side has
/// `side + 1`. Bilinear as in torch's `interpolate` with a scale factor: lengths are rounded down, and pixel distances
/// keep the exact factor.
///
/// # Errors
/// The picture is so narrow that the result would be too large.
pub fn enlarged(picture: Tensor<4>, side: usize) -> Result<Tensor<4>> {
    let [.., height, width] = picture.dims();
    let shorter = height.min(width);
    if shorter > side {
        return Ok(picture);
    }
    ensure!(
        height.max(width) < MOST_NARROW * shorter,
        "a picture of {width}×{height} is too narrow: enlarged so that its shorter side has {} pixels, it would be too large",
        side + 1
    );
    let factor = (side + 1) as f64 / shorter as f64;
    Ok(bilinear(bilinear(picture, 2, factor), 3, factor))
}

/// Resizes one dimension of `x` by `factor`, rounded down, with linear interpolation.
fn bilinear(x: Tensor<4>, dim: usize, factor: f64) -> Tensor<4> {
    let length = x.dims()[dim];
    let distance = (1.0 / factor) as f32;
    let (mut before, mut after, mut shares) = (vec![], vec![], vec![]);
    for i in 0..(length as f64 * factor) as usize {
        let position = (distance * (i as f32 + 0.5) - 0.5).max(0.0);
        let index = (position as usize).min(length - 1);
        before.push(index as i64);
        after.push((index + 1).min(length - 1) as i64);
        shares.push(position - index as f32);
    }
    let mut shape = [1; 4];
    shape[dim] = shares.len();
    let device = x.device();
    let share = Tensor::<1>::from_floats(shares.as_slice(), &device).reshape(shape);
    let [before, after] =
        [before, after].map(|indices| x.clone().select(dim, Tensor::<1, Int>::from_ints(indices.as_slice(), &device)));
    before * (1.0 - share.clone()) + after * share
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// pyiqa's `uniform_crop` on a picture of coordinates.
    #[test]
    fn corners_agree_with_the_reference() {
        assert_eq!(corners(300, 400, 224, 1), [[0, 0]]);
        assert_eq!(corners(300, 400, 224, 3), [[0, 0], [0, 176], [76, 0]]);
        assert_eq!(corners(300, 400, 224, 4), [[0, 0], [0, 88], [38, 0], [38, 88]]);
        let twenty = corners(300, 400, 224, 20);
        assert_eq!(twenty.len(), 20);
        assert_eq!(twenty[..6], [[0, 0], [0, 44], [0, 88], [0, 132], [0, 176], [19, 0]]);
        assert_eq!(twenty[19], [57, 176]);
    }

    /// torch 2.13: `interpolate(arange(6).reshape(1, 1, 2, 3), scale_factor=2.5, mode="bilinear")`.
    #[test]
    fn pixels_agree_with_the_reference() {
        let picture =
            Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &Device::default()).reshape([1, 1, 2, 3]);
        let values: Vec<f32> = enlarged(picture, 4).unwrap().into_data().iter().collect();
        #[rustfmt::skip]
        let want = [
            0.0, 0.1, 0.5, 0.9, 1.3, 1.7, 2.0,
            0.3, 0.4, 0.8, 1.2, 1.6, 2.0, 2.3,
            1.5, 1.6, 2.0, 2.4, 2.8, 3.2, 3.5,
            2.7, 2.8, 3.2, 3.6, 4.0, 4.4, 4.7,
            3.0, 3.1, 3.5, 3.9, 4.3, 4.7, 5.0,
        ];
        assert_eq!(values.len(), want.len());
        assert!(values.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-5), "{values:?}");
    }

    #[test]
    fn only_pictures_that_are_too_small_are_enlarged() {
        let size = |height, width| {
            let picture = Tensor::zeros([1, 3, height, width], &Device::default());
            enlarged(picture, 224).map(|picture| [picture.dims()[2], picture.dims()[3]])
        };
        assert_eq!(size(225, 300).unwrap(), [225, 300]);
        assert_eq!(size(224, 300).unwrap(), [225, 301]);
        assert_eq!(size(300, 200).unwrap(), [337, 225]);
        assert_eq!(size(1, 2).unwrap(), [225, 450]);
        // 225 / 21 times 21 is a little less than 225.
        assert_eq!(size(21, 28).unwrap(), [224, 300]);
        assert_eq!(size(225, 30_000).unwrap(), [225, 30_000]);
        assert!(size(2, 200).unwrap_err().to_string().contains("200×2 is too narrow"));
    }
}
