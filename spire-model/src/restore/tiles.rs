//! Overlapping tiles for pictures larger than the model was trained on. The tiles' predictions are averaged at each
//! step with Gaussian weights, as in Mixture of Diffusers (<https://arxiv.org/abs/2302.02412>) and StableSR; so are the
//! VAE's encodings and decodings. Units are latent positions.

use burn::tensor::{Device, Tensor, TensorData};

/// Minimum overlap of neighbouring tiles, as a fraction of the side.
const OVERLAP: f64 = 0.25;

/// Variance of the Gaussian weights in units of the tile's side: the weight at the edge is 4e-6 of that in the centre.
const VARIANCE: f64 = 0.01;

/// A rectangle of the latent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tile {
    /// The first row.
    pub top: usize,
    /// The first column.
    pub left: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

impl Tile {
    /// The tile's part of `map`, which is `scale` times as large as the latent: `[batch, channels, height, width]`.
    pub fn cut(&self, map: &Tensor<4>, scale: usize) -> Tensor<4> {
        let [batch, channels, _, _] = map.dims();
        map.clone().slice([0..batch, 0..channels, self.rows(scale), self.columns(scale)])
    }

    /// The tile's rows in such a map.
    pub fn rows(&self, scale: usize) -> std::ops::Range<usize> {
        scale * self.top..scale * (self.top + self.height)
    }

    /// The tile's columns in such a map.
    pub fn columns(&self, scale: usize) -> std::ops::Range<usize> {
        scale * self.left..scale * (self.left + self.width)
    }

    /// Gaussian weights, `[1, 1, scale · height, scale · width]`, largest at the centre plus `shift`, in rows.
    fn weights(&self, scale: usize, shift: f64, device: &Device) -> Tensor<4> {
        let (rows, columns) = (gaussian(scale * self.height, shift), gaussian(scale * self.width, 0.0));
        let weights: Vec<f32> =
            rows.iter().flat_map(|row| columns.iter().map(move |column| (row * column) as f32)).collect();
        Tensor::from_data(TensorData::new(weights, [1, 1, rows.len(), columns.len()]), device)
    }
}

fn gaussian(side: usize, shift: f64) -> Vec<f64> {
    let middle = (side as f64 - 1.0) / 2.0 + shift;
    (0..side).map(|i| (-((i as f64 - middle) / side as f64).powi(2) / (2.0 * VARIANCE)).exp()).collect()
}

/// Tiles of at most `side` by `side` that cover `height` by `width`, evenly spaced.
pub fn tiles(height: usize, width: usize, side: usize) -> Vec<Tile> {
    let (rows, columns) = (starts(height, side), starts(width, side));
    let (tile_height, tile_width) = (side.min(height), side.min(width));
    rows.iter()
        .flat_map(|&top| columns.iter().map(move |&left| Tile { top, left, height: tile_height, width: tile_width }))
        .collect()
}

fn starts(length: usize, side: usize) -> Vec<usize> {
    if length <= side {
        return vec![0];
    }
    let stride = (side as f64 * (1.0 - OVERLAP)).floor().max(1.0) as usize;
    let (room, count) = (length - side, (length - side).div_ceil(stride));
    (0..=count).map(|i| (i * room + count / 2) / count).collect()
}

/// Windows of at most `side` by `side` at equal distances, which overlap by `overlap`; the last one ends at the edge, as in
/// DiffBIR and StableSR.
pub fn windows(height: usize, width: usize, side: usize, overlap: usize) -> Vec<Tile> {
    let [tall, wide] = [height, width].map(|length| side.min(length));
    let starts = |length: usize, side: usize| {
        let (last, stride) = (length - side, side.saturating_sub(overlap).max(1));
        (0..last).step_by(stride).chain([last]).collect::<Vec<_>>()
    };
    let (rows, columns) = (starts(height, tall), starts(width, wide));
    let tile = |top: usize, left: usize| Tile { top, left, height: tall, width: wide };
    rows.iter().flat_map(|&top| columns.iter().map(move |&left| tile(top, left))).collect()
}

/// As [`blend`], with the weights of DiffBIR and StableSR, whose centre is half a row too low.
pub fn blend_windows(
    tiles: &[Tile],
    size: [usize; 2],
    scale: usize,
    compute: impl Fn(usize, &Tile) -> Tensor<4>,
) -> Tensor<4> {
    blend_shifted(tiles, size, scale, 0.5, compute)
}

/// The weighted average of the tiles' maps. `compute` gets a tile's index and the tile, and returns a map `scale` times
/// as large as the tile. The result is `scale` times as large as the latent of `[height, width]`. A single tile's map
/// is returned unchanged.
pub fn blend(tiles: &[Tile], size: [usize; 2], scale: usize, compute: impl Fn(usize, &Tile) -> Tensor<4>) -> Tensor<4> {
    blend_shifted(tiles, size, scale, 0.0, compute)
}

fn blend_shifted(
    tiles: &[Tile],
    [height, width]: [usize; 2],
    scale: usize,
    shift: f64,
    compute: impl Fn(usize, &Tile) -> Tensor<4>,
) -> Tensor<4> {
    if let [tile] = tiles {
        return compute(0, tile);
    }
    let mut sums: Option<(Tensor<4>, Tensor<4>)> = None;
    for (i, tile) in tiles.iter().enumerate() {
        let part = compute(i, tile);
        let [batch, channels, _, _] = part.dims();
        let device = part.device();
        let (sum, weight) = sums.take().unwrap_or_else(|| {
            let zeros = |batch, channels| Tensor::zeros([batch, channels, scale * height, scale * width], &device);
            (zeros(batch, channels), zeros(1, 1))
        });
        let weights = tile.weights(scale, shift, &device);
        let add = |whole: Tensor<4>, part: Tensor<4>| {
            let [batch, channels, _, _] = whole.dims();
            let place = [0..batch, 0..channels, tile.rows(scale), tile.columns(scale)];
            let before = whole.clone().slice(place.clone());
            whole.slice_assign(place, before + part)
        };
        sums = Some((add(sum, part * weights.clone()), add(weight, weights)));
    }
    let (sum, weight) = sums.expect("a latent has at least one tile");
    sum / weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_everything_and_overlap() {
        for (length, side) in [(64, 64), (65, 64), (96, 64), (200, 64), (1000, 64), (7, 1), (3, 2), (10, 64)] {
            let starts = starts(length, side);
            assert_eq!(starts[0], 0);
            assert_eq!(starts.last().unwrap() + side.min(length), length, "{length} in tiles of {side}");
            for pair in starts.windows(2) {
                let overlap = (pair[0] + side) as f64 - pair[1] as f64;
                assert!(pair[0] < pair[1] && overlap >= (side as f64 * OVERLAP).floor(), "{length} {side} {starts:?}");
            }
        }
        assert_eq!(tiles(8, 20, 8).len(), starts(20, 8).len());
    }

    #[test]
    fn windows_are_at_equal_distances_and_the_last_ends_at_the_edge() {
        let places = |length| windows(4, length, 40, 8).iter().map(|tile| tile.left).collect::<Vec<_>>();
        assert_eq!(places(40), [0]);
        assert_eq!(places(100), [0, 32, 60]);
        assert_eq!(places(104), [0, 32, 64]);
        assert_eq!(windows(4, 100, 40, 8)[1], Tile { top: 0, left: 32, height: 4, width: 40 });
    }

    #[test]
    fn blending_tiles_of_one_map_restores_it() {
        let device = Device::flex();
        let values: Vec<f32> = (0..2 * 3 * 20 * 34).map(|i| (i * 7 % 113) as f32).collect();
        let map = Tensor::<4>::from_data(TensorData::new(values, [2, 3, 20, 34]), &device);
        let tiles = tiles(10, 17, 6);
        assert!(tiles.len() > 4);
        let joined = blend(&tiles, [10, 17], 2, |_, tile| tile.cut(&map, 2));
        let worst = (joined - map).abs().max().into_scalar::<f32>();
        assert!(worst < 1e-4, "{worst}");
    }

    #[test]
    fn tiles_of_different_level_leave_no_step() {
        // Two flat tiles that differ by 1: the transition must rise evenly over the overlap.
        let device = Device::flex();
        let tiles = tiles(1, 112, 64);
        let levels = [0.0, 1.0];
        let joined = blend(&tiles, [1, 112], 1, |_, tile| {
            Tensor::full([1, 1, 1, 64], levels[usize::from(tile.left > 0)], &device)
        });
        let row: Vec<f32> = joined.into_data().iter::<f32>().collect();
        assert!(row[0] == 0.0 && row[111] == 1.0);
        let steepest = row.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max);
        assert!(row.windows(2).all(|pair| pair[1] >= pair[0]) && steepest < 0.4, "{steepest}");
    }
}
