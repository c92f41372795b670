//! Rearrangement of channels and pixels, reflection at the edges, and resizing.

use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// PyTorch's `PixelShuffle`: `[batch, factor² · channels, height, width]` to
/// `[batch, channels, factor · height, factor · width]`.
pub fn pixel_shuffle(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let channels = channels / factor.pow(2);
    x.reshape([batch, channels, factor, factor, height, width]).permute([0, 1, 4, 2, 5, 3]).reshape([
        batch,
        channels,
        factor * height,
        factor * width,
    ])
}

/// PyTorch's `PixelUnshuffle`, the inverse of [`pixel_shuffle`]; `factor` divides height and width.
pub fn pixel_unshuffle(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let (height, width) = (height / factor, width / factor);
    x.reshape([batch, channels, height, factor, width, factor]).permute([0, 1, 3, 5, 2, 4]).reshape([
        batch,
        channels * factor.pow(2),
        height,
        width,
    ])
}

/// Every pixel as a square of two by two: `[batch, channels, height, width]` to twice the size.
pub fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    interpolate(x, InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([2 * height, 2 * width]))
}

/// What lies beyond the last row and column.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mirror {
    /// The picture's reflection without its edge, as in PyTorch's padding mode `reflect`.
    WithoutEdge,
    /// The picture's reflection with its edge.
    WithEdge,
    /// The edge again, as in PyTorch's padding mode `replicate`.
    Edge,
}

/// Extends `[batch, channels, height, width]` downwards and to the right to `size`, height and width.
pub fn extend(x: Tensor<4>, size: [usize; 2], mirror: Mirror) -> Tensor<4> {
    size.into_iter().enumerate().fold(x, |x, (axis, to)| {
        let from = x.dims()[2 + axis];
        if from == to {
            return x;
        }
        let places: Vec<i64> = (0..to).map(|place| mirror.source(place, from) as i64).collect();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [to]), &x.device());
        x.select(2 + axis, places)
    })
}

impl Mirror {
    /// The row of `count` that is shown at `place`.
    fn source(self, place: usize, count: usize) -> usize {
        let (period, edge) = match self {
            Self::Edge => return place.min(count - 1),
            Self::WithEdge => (2 * count, 1),
            // A single row has no neighbour to reflect.
            Self::WithoutEdge => ((2 * (count - 1)).max(1), 0),
        };
        let place = place % period;
        if place < count { place } else { period - edge - place }
    }
}

/// `x`, moved by one place along an axis towards its start or end; the edge is repeated. `by` is 1 for the neighbour at the
/// higher place, -1 for the one at the lower.
pub fn shifted(x: &Tensor<4>, axis: usize, by: i64) -> Tensor<4> {
    let count = x.dims()[axis] as i64;
    let places: Vec<i64> = (0..count).map(|place| (place + by).clamp(0, count - 1)).collect();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count as usize]), &x.device());
    x.clone().select(axis, places)
}

/// Bicubic resizing of `[batch, channels, height, width]` to `size`, height and width: PyTorch's `interpolate` with
/// `antialias`, which computes as Pillow does. Its weights sum to 1 at the edges too.
pub fn resize(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if [height, width] == size {
        return x;
    }
    let (rows, columns) = (weights(height, size[0], &x.device()), weights(width, size[1], &x.device()));
    rows.matmul(x).matmul(columns.swap_dims(2, 3))
}

/// The matrix `[1, 1, to, from]` that resizes a line of `from` pixels to `to`.
fn weights(from: usize, to: usize, device: &Device) -> Tensor<4> {
    let scale = from as f64 / to as f64;
    // Reducing, the kernel covers as many pixels as one becomes.
    let width = scale.max(1.0);
    let mut matrix = Vec::with_capacity(to * from);
    for row in 0..to {
        let centre = scale * (row as f64 + 0.5);
        let weight = |place: usize| cubic((place as f64 + 0.5 - centre) / width);
        let sum: f64 = (0..from).map(weight).sum();
        matrix.extend((0..from).map(|place| (weight(place) / sum) as f32));
    }
    Tensor::from_data(TensorData::new(matrix, [1, 1, to, from]), device)
}

/// Keys' kernel with a = −0.5.
fn cubic(distance: f64) -> f64 {
    let x = distance.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn shuffling_back_restores_a_picture() {
        let values: Vec<f32> = (0..2 * 3 * 6 * 12).map(|i| i as f32).collect();
        let x = Tensor::<4>::from_data(TensorData::new(values, [2, 3, 6, 12]), &Device::flex());
        let small = pixel_unshuffle(x.clone(), 3);
        assert_eq!(small.dims(), [2, 27, 2, 4]);
        // Channel 1 of the nine is the pixel to the right.
        assert_eq!(
            small.clone().slice([0..1, 1..2, 0..1, 0..2]).into_data().iter::<f32>().collect::<Vec<_>>(),
            [1.0, 4.0]
        );
        assert_eq!(pixel_shuffle(small, 3).into_data(), x.into_data());
    }

    #[test]
    fn mirrors_reflect_as_often_as_needed() {
        let shown = |mirror: Mirror, count| (0..7).map(|place| mirror.source(place, count)).collect::<Vec<_>>();
        assert_eq!(shown(Mirror::WithoutEdge, 3), [0, 1, 2, 1, 0, 1, 2]);
        assert_eq!(shown(Mirror::WithEdge, 3), [0, 1, 2, 2, 1, 0, 0]);
        assert_eq!(shown(Mirror::Edge, 3), [0, 1, 2, 2, 2, 2, 2]);
        assert_eq!(shown(Mirror::WithoutEdge, 1), [0; 7]);
        assert_eq!(shown(Mirror::WithEdge, 1), [0; 7]);
    }

    /// What Pillow's `resize` with its bicubic filter makes of floats.
    #[test]
    fn resizes_as_pillow_does() {
        let device = Device::flex();
        let squares: Vec<f32> = (0..7).map(|i| (i * i) as f32).collect();
        let x = Tensor::<4>::from_data(TensorData::new(squares, [1, 1, 1, 7]), &device);
        let reduced = [0.6774, 9.3639, 28.0645];
        let enlarged = [-0.0703, 0.2569, 1.1901, 2.9835, 5.5868, 9.0, 13.2231, 18.2562, 24.0992, 31.9078, 36.7734];
        for expected in [&reduced[..], &enlarged] {
            let resized: Vec<f32> = resize(x.clone(), [1, expected.len()]).into_data().iter::<f32>().collect();
            for (found, expected) in resized.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-3, "{found} {expected}");
            }
        }
    }
}
