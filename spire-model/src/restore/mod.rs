//! Restoration (paper section 3.1): deterministic sampling from noise, guided by the semantic prompt and conditioned on
//! the degraded picture and the restoration prompt.

mod clip_guidance;
mod colour;
mod sample;
mod tiles;

use std::ops::ControlFlow;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};
use spire_core::Picture;
use spire_core::rng::rng;

pub use crate::clip::{ClipGuidanceConfig, ClipGuide};
pub use colour::ColourFix;
use sample::{SampledStep, sample_watched};
pub use sample::{Start, sample};
use tiles::{Tile, blend, tiles};

use crate::base::Base;
use crate::control::Control;
use crate::pictures;
use crate::scheduler::SamplerKind;
use crate::spire::predict;

/// Limit on the side of a tile, in pixels: attention over more would not fit into memory.
const LARGEST_TILE: usize = 1 << 16;

/// Settings of sampling.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// `ddim`, `dpm++2m` or `euler`.
    pub sampler: SamplerKind,
    /// Denoising steps.
    pub steps: usize,
    /// Weight w of classifier-free guidance on the semantic prompt; 1 disables it.
    pub guidance_scale: f64,
    /// The negative prompt: replaces the empty prompt in the unconditional pass.
    pub negative: String,
    /// Fraction of the steps that are taken, starting from the degraded picture with the corresponding noise; 1 starts
    /// from pure noise. SDEdit, <https://arxiv.org/abs/2108.01073>.
    pub strength: f64,
    /// CLIP guidance, for a model trained without semantic prompts; the UNet then gets no semantic prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_guidance: Option<ClipGuidanceConfig>,
    /// Colour correction towards the degraded picture: `none`, `wavelet` or `adain`.
    pub colour_fix: ColourFix,
    /// Side of the tiles in pixels; larger pictures are restored in tiles. If not set, the size that the UNet was
    /// trained on; 0 disables tiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tile: Option<usize>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            sampler: SamplerKind::Ddim,
            steps: 50,
            guidance_scale: 2.0,
            negative: String::new(),
            strength: 1.0,
            clip_guidance: None,
            colour_fix: ColourFix::None,
            tile: None,
        }
    }
}

impl SamplingConfig {
    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// The message names the setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.steps > 0, "steps must be at least 1");
        ensure!(self.guidance_scale.is_finite(), "guidance_scale must be a number");
        ensure!(self.strength > 0.0 && self.strength <= 1.0, "strength must be above 0 and at most 1");
        if let Some(guidance) = &self.clip_guidance {
            ensure!(guidance.scale.is_finite(), "clip_guidance.scale must be a number");
            ensure!(
                self.sampler != SamplerKind::Euler,
                "clip_guidance supports the samplers ddim and dpm++2m only: their latents are scaled as in training"
            );
        }
        ensure!(self.tile.is_none_or(|side| side <= LARGEST_TILE), "tile must be at most {LARGEST_TILE} pixels");
        Ok(())
    }
}

/// One restoration: the degraded picture and the two prompts.
#[derive(Clone, Debug)]
pub struct Request {
    /// The degraded picture.
    pub degraded: Picture,
    /// The semantic prompt: what the picture shows; may be empty.
    pub semantic: String,
    /// The restoration prompt: what to undo.
    pub restoration: String,
    /// The seed of the initial noise.
    pub seed: u64,
}

/// Standard normal noise `[1, channels, height, width]` that depends only on `seed`, not on device or batch.
pub fn initial_noise(seed: u64, [channels, height, width]: [usize; 3], device: &Device) -> Tensor<4> {
    noise(&mut rng(seed, "initial noise", 0), [channels, height, width], device)
}

/// Standard normal noise `[1, channels, height, width]` drawn from `rng`.
pub fn noise(rng: &mut spire_core::rng::Rng, [channels, height, width]: [usize; 3], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..channels * height * width).map(|_| rng.sample(StandardNormal)).collect();
    Tensor::from_data(TensorData::new(values, [1, channels, height, width]), device)
}

/// A step of a restoration.
pub struct RestoringStep<'a> {
    /// Steps done, this one included.
    pub done: usize,
    /// Steps of the whole restoration.
    pub steps: usize,
    step: &'a SampledStep<'a>,
    base: &'a Base,
    canvas: &'a Canvas,
}

impl RestoringStep<'_> {
    /// The clean pictures that this step predicts, without colour correction. Decoding them takes time.
    pub fn predicted(&self) -> Vec<Picture> {
        self.canvas.decode(self.base, &self.step.predicted_clean())
    }
}

/// Restores pictures of one size in one batch. The size is arbitrary: pictures are padded by repeating their edges and
/// cropped back, and large ones are restored in tiles.
///
/// # Errors
/// There are no pictures, their sizes differ, or the sampler does not support the scheduler's settings.
pub fn restore(base: &Base, control: &Control, config: &SamplingConfig, requests: &[Request]) -> Result<Vec<Picture>> {
    let restored = restore_watched(base, control, config, requests, &mut |_| ControlFlow::Continue(()))?;
    Ok(restored.expect("nothing breaks off the restoration"))
}

/// As [`restore`], with the same result; calls `watch` after each step. `None` if `watch` breaks off the restoration.
///
/// # Errors
/// As [`restore`].
pub fn restore_watched(
    base: &Base,
    control: &Control,
    config: &SamplingConfig,
    requests: &[Request],
    watch: &mut dyn FnMut(&RestoringStep) -> ControlFlow<()>,
) -> Result<Option<Vec<Picture>>> {
    config.validate()?;
    ensure!(!requests.is_empty(), "there is nothing to restore");
    let (width, height) = (requests[0].degraded.width, requests[0].degraded.height);
    ensure!(width > 0 && height > 0, "a picture without pixels can't be restored");
    ensure!(
        requests.iter().all(|request| (request.degraded.width, request.degraded.height) == (width, height)),
        "pictures that are restored in one batch must have one size"
    );
    let device = base.unet.conv_in().weight.val().device();
    let padded: Vec<_> = requests.iter().map(|request| pad(&request.degraded, base.side_multiple())).collect();
    let degraded = pictures::to_tensor(&padded, &device);
    let [_, _, padded_height, padded_width] = degraded.dims();
    let downscale = base.vae_config.downscale();
    let size = [padded_height / downscale, padded_width / downscale];
    let tiles = tiles(size[0], size[1], tile_side(base, config));
    let canvas = Canvas { tiles, size, downscale, width, height };
    let tiles = &canvas.tiles;

    let shape = [base.unet_config.in_channels, size[0], size[1]];
    let noise = Tensor::cat(requests.iter().map(|request| initial_noise(request.seed, shape, &device)).collect(), 0);
    let clean = (config.strength < 1.0)
        .then(|| blend(tiles, size, 1, |_, tile| base.encode_pictures(tile.cut(&degraded, downscale))));
    let semantic: Vec<_> = requests.iter().map(|request| request.semantic.clone()).collect();
    let restoration: Vec<_> = requests.iter().map(|request| request.restoration.as_str()).collect();
    let restoration = base.prompts.encode(&restoration);
    let embedded: Vec<_> = tiles.iter().map(|tile| control.embed(tile.cut(&degraded, downscale))).collect();
    let denoise = |sample: Tensor<4>, time: Tensor<1>, states: Tensor<3>| {
        blend(tiles, size, 1, |i, tile| {
            let (sample, embedded) = (tile.cut(&sample, 1), embedded[i].clone());
            predict(&base.unet, control, sample, time.clone(), states.clone(), restoration.clone(), embedded)
        })
    };
    let mut watch =
        |step: &SampledStep| watch(&RestoringStep { done: step.done, steps: step.steps, step, base, canvas: &canvas });
    let start = Start { noise, clean };
    let Some(latent) = sample_watched(base, config, &semantic, start, denoise, &mut watch)? else { return Ok(None) };
    let restored = canvas.decode(base, &latent).into_iter().zip(requests);
    Ok(Some(restored.map(|(picture, request)| config.colour_fix.apply(picture, &request.degraded)).collect()))
}

/// The padded latent of a batch and the pictures inside it.
struct Canvas {
    tiles: Vec<Tile>,
    /// Height and width of the latent.
    size: [usize; 2],
    /// Pixels per latent position.
    downscale: usize,
    /// Width of the pictures in pixels.
    width: usize,
    /// Height of the pictures in pixels.
    height: usize,
}

impl Canvas {
    /// Decodes a latent and removes the padding.
    fn decode(&self, base: &Base, latent: &Tensor<4>) -> Vec<Picture> {
        let decode = |_, tile: &Tile| base.decode_latents(tile.cut(latent, 1));
        let decoded = blend(&self.tiles, self.size, self.downscale, decode);
        pictures::from_tensor(decoded).iter().map(|picture| picture.crop(0, 0, self.width, self.height)).collect()
    }
}

/// The side of a tile in latent positions, rounded up so that the UNet can halve it.
fn tile_side(base: &Base, config: &SamplingConfig) -> usize {
    let (downscale, multiple) = (base.vae_config.downscale(), base.side_multiple());
    let made_for = base.unet_config.sample_size.unwrap_or(64) * downscale;
    match config.tile.unwrap_or(made_for) {
        0 => usize::MAX,
        side => side.next_multiple_of(multiple) / downscale,
    }
}

/// Extends a picture to the right and downwards to multiples of `multiple` by repeating its last column and row.
fn pad(picture: &Picture, multiple: usize) -> Picture {
    let (width, height) = (picture.width.next_multiple_of(multiple), picture.height.next_multiple_of(multiple));
    let mut data = Vec::with_capacity(3 * width * height);
    for plane in picture.planes() {
        for y in 0..height {
            let y = y.min(picture.height - 1);
            data.extend((0..width).map(|x| plane[y * picture.width + x.min(picture.width - 1)]));
        }
    }
    Picture { width, height, data: data.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_repeats_the_edges() {
        let picture = Picture { width: 2, height: 1, data: vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6].into() };
        let padded = pad(&picture, 3);
        assert_eq!((padded.width, padded.height), (3, 3));
        assert_eq!(padded.plane(1), [0.3, 0.4, 0.4].repeat(3));
        assert_eq!(padded.crop(0, 0, 2, 1), picture);
    }
}
