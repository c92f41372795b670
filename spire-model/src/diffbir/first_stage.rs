//! The first stage: a network that removes degradations, and the sizes around it.

use anyhow::Result;
use burn::tensor::Tensor;

use super::{Settings, padded};
use crate::feedforward::{Network, NetworkKind, Tiling};
use crate::nn::pixels::resize;

/// The sides of a SwinIR's pictures are padded to multiples of this many pixels.
const SWIN_MULTIPLE: usize = 64;

/// The network of the first stage.
#[derive(Debug)]
pub struct FirstStage {
    network: Network,
    kind: NetworkKind,
}

impl FirstStage {
    /// Wraps a loaded network.
    pub fn new(kind: NetworkKind, network: Network) -> Self {
        Self { network, kind }
    }

    /// The condition for the second stage: `degraded` `[batch, 3, height, width]` in \[0, 1\] without its degradations, at least
    /// as large as `size`, the height and width of the restored picture.
    ///
    /// # Errors
    /// As [`Network::restore_tensor`].
    pub fn restore(&self, degraded: Tensor<4>, size: [usize; 2], settings: &Settings) -> Result<Tensor<4>> {
        let Settings { tile, shortest_side, .. } = *settings;
        match self.kind {
            // It enlarges pictures itself.
            NetworkKind::BsrNet => {
                let cleaned = self.clean(degraded, tile)?;
                let [_, _, height, width] = cleaned.dims();
                Ok(resize(cleaned, at_least(shortest_side, size, [height, width])))
            }
            NetworkKind::SwinIr => {
                let enlarged = resize(degraded, at_least(shortest_side, size, size));
                let [batch, channels, height, width] = enlarged.dims();
                let cleaned = self.clean(padded(enlarged, |side| side.next_multiple_of(SWIN_MULTIPLE)), tile)?;
                Ok(cleaned.slice([0..batch, 0..channels, 0..height, 0..width]))
            }
            NetworkKind::ScuNet => {
                let cleaned = self.clean(resize(degraded, size), tile)?;
                Ok(resize(cleaned, at_least(shortest_side, size, size)))
            }
        }
    }

    fn clean(&self, degraded: Tensor<4>, tile: usize) -> Result<Tensor<4>> {
        let [_, _, height, width] = degraded.dims();
        if tile == 0 || height.max(width) <= tile {
            return Ok(self.network.forward(degraded));
        }
        self.network.restore_tensor(degraded, Tiling { side: tile, ..Tiling::default() })
    }
}

/// `size`, height and width, if its shorter side is at least `shortest`; else the size of these `proportions` whose shorter
/// side is that.
fn at_least(shortest: usize, size: [usize; 2], proportions: [usize; 2]) -> [usize; 2] {
    if size[0].min(size[1]) >= shortest {
        return size;
    }
    let shorter = proportions[0].min(proportions[1]);
    let scaled = |side: usize| (side as f64 * (shortest as f64 / shorter as f64)) as usize;
    proportions.map(|side| if side == shorter { shortest } else { scaled(side) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pictures_are_enlarged_in_their_proportions() {
        assert_eq!(at_least(512, [512, 700], [512, 700]), [512, 700]);
        assert_eq!(at_least(512, [256, 300], [256, 300]), [512, 600]);
        assert_eq!(at_least(512, [300, 300], [1200, 1200]), [512, 512]);
        assert_eq!(at_least(64, [35, 65], [108, 200]), [64, 118]);
    }
}
