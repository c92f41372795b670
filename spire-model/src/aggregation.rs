//! Aggregation sampling (StableSR section 3.4): a latent larger than the network was trained on is denoised in overlapping
//! windows, whose predictions are averaged at each step. The VAE works in larger windows.

use anyhow::{Result, ensure};
use burn::tensor::Tensor;

use crate::restore::tiles::{Tile, blend_windows, windows};

/// Pixels per latent position of Stable Diffusion's VAE.
pub const DOWNSCALE: usize = 8;

/// The side of the VAE's windows, in sides of the network's: 1280 pixels for 512, as in StableSR.
const VAE_SIDE: f64 = 2.5;

/// Checks the side to which smaller pictures are enlarged.
///
/// # Errors
/// It is too small for a latent, or larger than any picture that can be restored.
pub fn check_shortest_side(side: usize) -> Result<()> {
    ensure!((64..=8192).contains(&side), "shortest_side must be from 64 to 8192");
    Ok(())
}

/// The windows of one latent.
#[derive(Clone, Debug)]
pub struct Aggregation {
    /// Height and width of the latent.
    size: [usize; 2],
    windows: Vec<Tile>,
    of_vae: Vec<Tile>,
}

impl Aggregation {
    /// The windows of a latent of `size`, height and width. `side` and `overlap` of the windows are in pixels; a side of 0
    /// is for one window.
    pub fn new(size: [usize; 2], side: usize, overlap: usize) -> Self {
        let [height, width] = size;
        let cover = |side: usize, overlap: usize| match side {
            0 => windows(height, width, usize::MAX, 0),
            side => windows(height, width, side.div_ceil(DOWNSCALE), overlap / DOWNSCALE),
        };
        let vae_side = (side as f64 * VAE_SIDE) as usize;
        Self { size, windows: cover(side, overlap), of_vae: cover(vae_side, vae_side / 4) }
    }

    /// A map of the latent's size, from those of its windows.
    pub fn denoise(&self, compute: impl Fn(&Tile) -> Tensor<4>) -> Tensor<4> {
        blend_windows(&self.windows, self.size, 1, |_, window| compute(window))
    }

    /// The encoding of `picture`, `[batch, channels, height, width]` in pixels.
    pub fn encode(&self, picture: &Tensor<4>, encode: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        blend_windows(&self.of_vae, self.size, 1, |_, window| encode(window.cut(picture, DOWNSCALE)))
    }

    /// A picture in pixels, from the decodings of windows of the latent.
    pub fn decode(&self, decode: impl Fn(&Tile) -> Tensor<4>) -> Tensor<4> {
        blend_windows(&self.of_vae, self.size, DOWNSCALE, |_, window| decode(window))
    }
}
