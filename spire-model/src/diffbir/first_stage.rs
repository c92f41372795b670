//! The first stage: a network that removes degradations, and the sizes around it.

use anyhow::Result;
use burn::tensor::Tensor;

use super::padded;
use crate::feedforward::{Network, NetworkKind, Tiling};
use crate::nn::pixels::resize;

/// The second stage was trained on pictures of this side: smaller ones are enlarged.
const SHORTEST_SIDE: usize = 512;

/// The sides of a SwinIR's pictures are padded to multiples of this many pixels.
const SWIN_MULTIPLE: usize = 64;

/// The network of the first stage.
#[derive(Debug)]
pub struct FirstStage {
    network: Network,
    kind: NetworkKind,
    shortest: usize,
}

impl FirstStage {
    /// Wraps a loaded network.
    pub fn new(kind: NetworkKind, network: Network) -> Self {
        Self { network, kind, shortest: SHORTEST_SIDE }
    }

    /// For comparisons on small pictures: another side to which smaller pictures are enlarged.
    pub fn with_shortest_side(self, shortest: usize) -> Self {
        Self { shortest, ..self }
    }

    /// The condition for the second stage: `degraded` `[batch, 3, height, width]` in \[0, 1\] without its degradations, at least
    /// as large as `size`, the height and width of the restored picture. `tile` is the side of the tiles of larger pictures,
    /// 0 for none.
    ///
    /// # Errors
    /// As [`Network::restore_tensor`].
    pub fn restore(&self, degraded: Tensor<4>, size: [usize; 2], tile: usize) -> Result<Tensor<4>> {
        match self.kind {
            // It enlarges pictures itself.
            NetworkKind::BsrNet => {
                let cleaned = self.clean(degraded, tile)?;
                let [_, _, height, width] = cleaned.dims();
                let size = if self.is_small(size) { self.enough([height, width]) } else { size };
                Ok(resize(cleaned, size))
            }
            NetworkKind::SwinIr => {
                let enlarged = resize(degraded, self.at_least(size));
                let [batch, channels, height, width] = enlarged.dims();
                let cleaned = self.clean(padded(enlarged, |side| side.next_multiple_of(SWIN_MULTIPLE)), tile)?;
                Ok(cleaned.slice([0..batch, 0..channels, 0..height, 0..width]))
            }
            NetworkKind::ScuNet => Ok(resize(self.clean(resize(degraded, size), tile)?, self.at_least(size))),
        }
    }

    fn clean(&self, degraded: Tensor<4>, tile: usize) -> Result<Tensor<4>> {
        let [_, _, height, width] = degraded.dims();
        if tile == 0 || height.max(width) <= tile {
            return Ok(self.network.forward(degraded));
        }
        self.network.restore_tensor(degraded, Tiling { side: tile, ..Tiling::default() })
    }

    /// Whether a picture is too small for the second stage.
    fn is_small(&self, [height, width]: [usize; 2]) -> bool {
        height.min(width) < self.shortest
    }

    /// `size`, or a larger one in its proportions if it is too small.
    fn at_least(&self, size: [usize; 2]) -> [usize; 2] {
        if self.is_small(size) { self.enough(size) } else { size }
    }

    /// The proportions of `size`, with the smallest shorter side that the second stage restores.
    fn enough(&self, size: [usize; 2]) -> [usize; 2] {
        let shorter = size[0].min(size[1]);
        let scaled = |side: usize| (side as f64 * (self.shortest as f64 / shorter as f64)) as usize;
        size.map(|side| if side == shorter { self.shortest } else { scaled(side) })
    }
}
