//! Restoration (paper section 3.1): deterministic sampling from noise, guided by the semantic prompt and conditioned on
//! the degraded picture and the restoration prompt.

pub(crate) mod clip_guidance;
mod colour;
mod sample;
pub(crate) mod tiles;

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use anyhow::{Result, bail, ensure};
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
use crate::finite::{ensure_finite, is_finite, not_finite};
use crate::pictures;
use crate::scheduler::SamplerKind;
use crate::spire::{DenoiserInputs, branch_features, predict};

/// Limit on the side of a tile, in pixels: attention over more would not fit into memory.
const LARGEST_TILE: usize = 1 << 16;

/// Where sampling starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// Pure noise.
    #[default]
    Noise,
    /// The degraded picture's latent with the noise of the first step. Training's last timestep leaves a trace of the
    /// picture, which pure noise lacks: large areas keep their colours. SeeSR's default,
    /// <https://arxiv.org/abs/2311.16518>.
    Picture,
}

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
    /// Where all steps start if `strength` is 1: `noise`, or the degraded `picture` with the noise of the first step.
    pub start: StartFrom,
    /// Factor of the control branch's effect; 0 is the frozen model alone.
    pub control_scale: f64,
    /// The branch acts from this fraction of the steps that are taken on.
    pub control_start: f64,
    /// The branch acts until this fraction of the steps that are taken.
    pub control_end: f64,
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
            start: StartFrom::Noise,
            control_scale: 1.0,
            control_start: 0.0,
            control_end: 1.0,
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
        ensure!(
            self.control_scale.is_finite() && self.control_scale >= 0.0,
            "control_scale must be a number that is not negative"
        );
        ensure!(
            0.0 <= self.control_start && self.control_start < self.control_end && self.control_end <= 1.0,
            "control_start must be at least 0 and below control_end, which must be at most 1"
        );
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

    /// Whether sampling starts from the degraded picture's latent.
    pub fn starts_from_picture(&self) -> bool {
        self.strength < 1.0 || self.start == StartFrom::Picture
    }

    /// The factor of the control branch's effect at step `i` of `steps`, as diffusers' pipelines decide it: a step belongs
    /// to the window if it lies in it as a whole.
    fn control_scale_at(&self, i: usize, steps: usize) -> f64 {
        let fraction = |step: usize| step as f64 / steps as f64;
        let outside = fraction(i) < self.control_start || fraction(i + 1) > self.control_end;
        if outside { 0.0 } else { self.control_scale }
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
        self.canvas.decode(self.base, &self.step.predicted_clean()).0
    }
}

/// Restores pictures of one size in one batch. The size is arbitrary: pictures are padded by repeating their edges and
/// cropped back, and large ones are restored in tiles.
///
/// # Errors
/// There are no pictures, their sizes differ, the sampler does not support the scheduler's settings, or a part of the model
/// computes values that are NaN or infinite; the message names the first such part.
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
    let (width, height) = common_size(requests)?;
    ensure!(width > 0 && height > 0, "a picture without pixels can't be restored");
    let padded: Vec<_> = requests
        .iter()
        .map(|request| Request { degraded: pad(&request.degraded, base.side_multiple()), ..request.clone() })
        .collect();
    let device = base.unet.conv_in().weight.val().device();
    let shape = latent_shape(base, &padded[0].degraded);
    let noise = Tensor::cat(requests.iter().map(|request| initial_noise(request.seed, shape, &device)).collect(), 0);
    let restored = run(base, control, config, &padded, noise, (width, height), watch)?;
    let corrected = |(picture, request): (Picture, &Request)| config.colour_fix.apply(picture, &request.degraded);
    Ok(restored.map(|restored| restored.into_iter().zip(requests).map(corrected).collect()))
}

/// Restores pictures of one size from given standard normal `noise`, `[batch, channels, height / 8, width / 8]`, without
/// padding and colour correction. The seeds of `requests` are not used.
///
/// # Errors
/// There are no pictures, their sizes differ, a side is no multiple of the VAE's downscaling, the noise has another shape,
/// or the sampler does not support the scheduler's settings.
pub fn restore_from(
    base: &Base,
    control: &Control,
    config: &SamplingConfig,
    requests: &[Request],
    noise: Tensor<4>,
) -> Result<Vec<Picture>> {
    config.validate()?;
    let (width, height) = common_size(requests)?;
    let downscale = base.vae_config.downscale();
    ensure!(
        width > 0 && height > 0 && width.is_multiple_of(downscale) && height.is_multiple_of(downscale),
        "a picture of {width}×{height} has no latent: its sides must be multiples of {downscale}"
    );
    let [channels, rows, columns] = latent_shape(base, &requests[0].degraded);
    let expected = [requests.len(), channels, rows, columns];
    ensure!(noise.dims() == expected, "the noise has shape {:?}, the latents {expected:?}", noise.dims());
    let watch = &mut |_: &RestoringStep| ControlFlow::Continue(());
    let restored = run(base, control, config, requests, noise, (width, height), watch)?;
    Ok(restored.expect("nothing breaks off the restoration"))
}

/// Width and height of the pictures of a batch.
fn common_size(requests: &[Request]) -> Result<(usize, usize)> {
    let Some(first) = requests.first() else { bail!("there is nothing to restore") };
    let size = (first.degraded.width, first.degraded.height);
    ensure!(
        requests.iter().all(|request| (request.degraded.width, request.degraded.height) == size),
        "pictures that are restored in one batch must have one size"
    );
    Ok(size)
}

/// The restoration of pictures whose sides are multiples of the VAE's downscaling, cropped to `width` and `height`. All
/// that [`restore_from`] checks holds.
fn run(
    base: &Base,
    control: &Control,
    config: &SamplingConfig,
    requests: &[Request],
    noise: Tensor<4>,
    (width, height): (usize, usize),
    watch: &mut dyn FnMut(&RestoringStep) -> ControlFlow<()>,
) -> Result<Option<Vec<Picture>>> {
    let (device, downscale) = (noise.device(), base.vae_config.downscale());
    let [_, _, rows, columns] = noise.dims();
    let size = [rows, columns];
    let canvas = Canvas { tiles: tiles(rows, columns, tile_side(base, config)), size, downscale, width, height };
    let tiles = &canvas.tiles;

    let degraded = pictures::to_unit_tensor(requests.iter().map(|request| &request.degraded), &device);
    let clean = config.starts_from_picture().then(|| {
        let degraded = pictures::to_tensor(requests.iter().map(|request| &request.degraded), &device);
        blend(tiles, size, 1, |_, tile| base.encode_pictures(tile.cut(&degraded, downscale)))
    });
    let semantic: Vec<_> = requests.iter().map(|request| request.semantic.clone()).collect();
    let restoration: Vec<_> = requests.iter().map(|request| request.restoration.as_str()).collect();
    let restoration = base.prompts.encode(&restoration);
    let embedded: Vec<_> = tiles.iter().map(|tile| control.embed(tile.cut(&degraded, downscale))).collect();
    let (of_base, of_branch) = (base.unet.conv_in().weight.dtype(), control.dtype());
    if let Some(clean) = &clean {
        ensure_finite(clean, "the VAE's encoding of the degraded picture", of_base)?;
    }
    ensure_finite(&restoration, "the text encoder's encoding of the restoration prompt", of_base)?;
    for embedded in &embedded {
        ensure_finite(embedded, "the control branch's embedding of the degraded picture", of_branch)?;
    }

    // What the branch read last: if a prediction is not finite, it shows where that began.
    let last: RefCell<Vec<_>> = RefCell::new(vec![None; tiles.len()]);
    let denoise = |sample: Tensor<4>, time: Tensor<1>, states: Tensor<3>, control_scale: f64| {
        let control = control.clone().with_scale(control_scale);
        blend(tiles, size, 1, |i, tile| {
            let inputs = DenoiserInputs {
                sample: tile.cut(&sample, 1),
                timestep: time.clone(),
                semantic: states.clone(),
                restoration: restoration.clone(),
                embedded: embedded[i].clone(),
            };
            last.borrow_mut()[i] = Some(inputs.clone());
            predict(&base.unet, &control, inputs)
        })
    };
    let mut watch =
        |step: &SampledStep| watch(&RestoringStep { done: step.done, steps: step.steps, step, base, canvas: &canvas });
    let start = Start { noise, clean };
    let sampled = sample_watched(base, config, &semantic, start, denoise, &mut watch).or_else(|error| {
        for inputs in last.take().into_iter().flatten() {
            for features in branch_features(control, inputs) {
                ensure_finite(&features, "what the control branch computes", of_branch)?;
            }
        }
        Err(error)
    })?;
    let Some(latent) = sampled else { return Ok(None) };
    let (restored, is_finite) = canvas.decode(base, &latent);
    ensure!(is_finite, not_finite("the VAE's decoding of the restored picture", of_base));
    Ok(Some(restored))
}

/// Channels, height and width of the latent of `picture`, whose sides are multiples of the VAE's downscaling.
fn latent_shape(base: &Base, picture: &Picture) -> [usize; 3] {
    let downscale = base.vae_config.downscale();
    [base.unet_config.in_channels, picture.height / downscale, picture.width / downscale]
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
    /// Decodes a latent and removes the padding; also says whether all decoded values are finite.
    fn decode(&self, base: &Base, latent: &Tensor<4>) -> (Vec<Picture>, bool) {
        let all_finite = Cell::new(true);
        let decoded = blend(&self.tiles, self.size, self.downscale, |_, tile| {
            let decoded = base.decode_unclamped(tile.cut(latent, 1));
            all_finite.set(all_finite.get() && is_finite(&decoded));
            decoded.clamp(-1.0, 1.0)
        });
        let pictures = pictures::from_tensor(decoded);
        (pictures.iter().map(|picture| picture.crop(0, 0, self.width, self.height)).collect(), all_finite.get())
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
    fn the_branch_acts_in_its_window_of_steps() {
        let window = |control_start, control_end| {
            let config = SamplingConfig { control_scale: 0.5, control_start, control_end, ..SamplingConfig::default() };
            config.validate().map(|()| (0..10).map(|i| config.control_scale_at(i, 10)).collect::<Vec<_>>())
        };
        assert_eq!(window(0.0, 1.0).unwrap(), [0.5; 10]);
        let expected = [0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0];
        assert_eq!(window(0.1, 0.8).unwrap(), expected);
        assert_eq!(window(0.05, 0.85).unwrap(), expected);
        for (start, end) in [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (f64::NAN, 1.0)] {
            assert!(window(start, end).unwrap_err().to_string().contains("control_start"));
        }
    }

    #[test]
    fn padding_repeats_the_edges() {
        let picture = Picture { width: 2, height: 1, data: vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6].into() };
        let padded = pad(&picture, 3);
        assert_eq!((padded.width, padded.height), (3, 3));
        assert_eq!(padded.plane(1), [0.3, 0.4, 0.4].repeat(3));
        assert_eq!(padded.crop(0, 0, 2, 1), picture);
    }
}
