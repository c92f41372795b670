//! Restoring pictures as SwinIR's official test script does: in one piece, or in tiles whose overlaps are averaged.

use std::ops::Range;

use anyhow::{Result, ensure};
use burn::tensor::{Tensor, TensorData};
use spire_core::Picture;

use super::network::Network;
use crate::nn::pixels::{Mirror, extend};
use crate::restore::tiles::windows;

/// Red, green and blue in a grey picture (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// How large pictures are split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiling {
    /// Side of the tiles in pixels of the degraded picture; 0 for pictures in one piece.
    pub side: usize,
    /// Overlap of neighbouring tiles in pixels.
    pub overlap: usize,
}

impl Default for Tiling {
    /// Tiles of 512 pixels, with the official overlap.
    fn default() -> Self {
        Self { side: 512, overlap: 32 }
    }
}

impl Network {
    /// The restored picture; a network for super-resolution enlarges it. A network for grey pictures gets the luma, and
    /// returns a grey picture.
    ///
    /// # Errors
    /// The picture has no pixels, or the overlap is not smaller than the tiles.
    pub fn restore(&self, picture: &Picture, tiling: Tiling) -> Result<Picture> {
        ensure!(picture.width > 0 && picture.height > 0, "a picture without pixels can't be restored");
        let area = picture.width * picture.height;
        let values: Vec<f32> = match self.channels() {
            1 => (0..area)
                .map(|i| (0..3).map(|channel| LUMA[channel] * picture.data[channel * area + i]).sum())
                .collect(),
            _ => picture.data.to_vec(),
        };
        let shape = [1, self.channels(), picture.height, picture.width];
        let restored = self.restore_tensor(Tensor::from_data(TensorData::new(values, shape), &self.device), tiling)?;
        let [_, channels, height, width] = restored.dims();
        let values: Vec<f32> = restored.clamp(0.0, 1.0).into_data().iter::<f32>().collect();
        Ok(Picture { width, height, data: values.repeat(3 / channels).into() })
    }

    /// As [`Self::restore`], of `[batch, channels, height, width]` in \[0, 1\]; the result is not clamped.
    ///
    /// # Errors
    /// The overlap is not smaller than the tiles.
    pub fn restore_tensor(&self, degraded: Tensor<4>, tiling: Tiling) -> Result<Tensor<4>> {
        let [batch, channels, height, width] = degraded.dims();
        let padded = [height, width].map(|side| self.network.padded(side));
        let degraded = extend(degraded, padded, Mirror::WithEdge);
        let side = match tiling.side {
            0 => padded[0].max(padded[1]),
            side => side.next_multiple_of(self.network.side_multiple()),
        };
        let [factor, folded] = self.network.enlarged();
        let scaled = |range: Range<usize>| range.start * factor / folded..range.end * factor / folded;
        let restored = if padded.iter().all(|&length| length <= side) {
            self.forward(degraded)
        } else {
            ensure!(tiling.overlap < side, "an overlap of {} needs tiles larger than {side} pixels", tiling.overlap);
            let size = padded.map(|length| length * factor / folded);
            let mut sum = Tensor::zeros([batch, channels, size[0], size[1]], &degraded.device());
            let mut weight = Tensor::zeros([1, 1, size[0], size[1]], &degraded.device());
            for tile in windows(padded[0], padded[1], side, tiling.overlap) {
                let part = self.forward(tile.cut(&degraded, 1));
                let place = [scaled(tile.rows(1)), scaled(tile.columns(1))];
                weight = add(weight, place.clone(), part.ones_like().slice([0..1, 0..1]));
                sum = add(sum, place, part);
            }
            sum / weight
        };
        Ok(restored.slice([0..batch, 0..channels, scaled(0..height), scaled(0..width)]))
    }
}

fn add(whole: Tensor<4>, [rows, columns]: [Range<usize>; 2], part: Tensor<4>) -> Tensor<4> {
    let [batch, channels, _, _] = whole.dims();
    let place = [0..batch, 0..channels, rows, columns];
    let before = whole.clone().slice(place.clone());
    whole.slice_assign(place, before + part)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;

    use super::*;
    use crate::feedforward::NetworkKind;

    fn network(kind: NetworkKind, name: &str) -> Network {
        let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(name);
        Network::load(kind, &weights, &Device::flex()).unwrap()
    }

    #[test]
    fn pictures_of_every_size_are_restored() {
        for (kind, name) in [
            (NetworkKind::SwinIr, "swinir-grey-denoising"),
            (NetworkKind::SwinIr, "swinir-lightweight"),
            (NetworkKind::BsrNet, "bsrnet-2"),
        ] {
            let network = network(kind, name);
            for (width, height) in [(1, 1), (3, 21), (17, 8)] {
                let picture = Picture::filled(width, height, [0.3, 0.5, 0.7]);
                let tiling = Tiling { side: 16, overlap: 4 };
                let restored = network.restore(&picture, tiling).unwrap();
                assert_eq!((restored.width, restored.height), network.restored_size((width, height)), "{name}");
                assert!(restored.data.iter().all(|value| (0.0..=1.0).contains(value)), "{name}");
                if network.channels() == 1 {
                    assert_eq!(restored.plane(0), restored.plane(2));
                }
            }
            let empty = Picture::filled(0, 3, [0.0; 3]);
            assert!(network.restore(&empty, Tiling::default()).is_err());
        }
    }

    #[test]
    fn the_overlap_must_be_smaller_than_the_tiles() {
        let network = network(NetworkKind::SwinIr, "swinir-grey-denoising");
        let picture = Picture::filled(40, 40, [0.5; 3]);
        let error = network.restore(&picture, Tiling { side: 8, overlap: 8 }).unwrap_err();
        assert!(error.to_string().contains("an overlap of 8"), "{error}");
    }
}
