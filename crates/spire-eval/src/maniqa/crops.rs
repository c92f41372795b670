//! The squares that MANIQA looks at: evenly spread over the picture, not drawn.

use burn::tensor::{Device, Tensor, TensorData};

/// Where the squares' top left corners are, rows and columns, in a picture of at least `side` by `side` pixels: the first
/// `count` of a grid whose steps are those of ⌊√count⌋ squares a side, row after row. They may overlap.
pub fn corners(height: usize, width: usize, side: usize, count: usize) -> Vec<[usize; 2]> {
    let floor = count.isqrt();
    let ceiling = if floor * floor == count { floor } else { floor + 1 };
    let [down, right] = [height, width].map(|length| (length - side) / floor);
    (0..count).map(|i| [i / ceiling * down, i % ceiling * right]).collect()
}

/// `picture`, `[batch, 3, height, width]`, enlarged where it is not more than `side` pixels high or wide, so that the
/// shorter side has one more: bilinear, as torch's `interpolate` with a scale factor, whose lengths are rounded down while
/// pixels keep the exact distance.
pub fn enlarged(picture: Tensor<4>, side: usize) -> Tensor<4> {
    let [.., height, width] = picture.dims();
    let shorter = height.min(width);
    if shorter > side {
        return picture;
    }
    let factor = (side + 1) as f64 / shorter as f64;
    let device = picture.device();
    let [rows, columns] = [height, width].map(|length| bilinear(length, factor, &device));
    rows.unsqueeze().matmul(picture).matmul(columns.transpose().unsqueeze())
}

/// What of each of `length` pixels is in each of the ⌊`length`·`factor`⌋ that they become, as a matrix.
fn bilinear(length: usize, factor: f64, device: &Device) -> Tensor<2> {
    let enlarged = (length as f64 * factor) as usize;
    let distance = (1.0 / factor) as f32;
    let mut weights = vec![0.0; enlarged * length];
    for (i, row) in weights.chunks_exact_mut(length).enumerate() {
        let position = (distance * (i as f32 + 0.5) - 0.5).max(0.0);
        let before = (position as usize).min(length - 1);
        let after = (before + 1).min(length - 1);
        row[before] += 1.0 - (position - before as f32);
        row[after] += position - before as f32;
    }
    Tensor::from_data(TensorData::new(weights, [enlarged, length]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// pyiqa: `uniform_crop` of a picture that holds its own coordinates.
    #[test]
    fn corners_are_those_of_the_reference() {
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
    fn pixels_are_those_of_the_reference() {
        let picture =
            Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &Device::default()).reshape([1, 1, 2, 3]);
        let values: Vec<f32> = enlarged(picture, 4).into_data().iter().collect();
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
            let [.., height, width] = enlarged(Tensor::zeros([1, 3, height, width], &Device::default()), 224).dims();
            [height, width]
        };
        assert_eq!(size(225, 300), [225, 300]);
        assert_eq!(size(224, 300), [225, 301]);
        assert_eq!(size(300, 200), [337, 225]);
        assert_eq!(size(1, 2), [225, 450]);
    }
}
