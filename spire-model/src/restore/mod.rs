//! Restoration (paper section 3.1): sampling from noise, guided by the semantic prompt and conditioned on
//! the degraded picture and the restoration prompt.

pub(crate) mod clip_guidance;
mod colour;
mod quality;
mod sample;
mod settings;
pub(crate) mod tiles;

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use anyhow::{Result, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_distr::StandardNormal;
use spire_core::Picture;
use spire_core::rng::rng;

pub use crate::clip::{ClipGuidanceConfig, ClipGuide};
pub use colour::ColourFix;
pub use quality::QualityPrompts;
use sample::{SampledStep, sample_watched};
pub use sample::{Start, sample};
pub use settings::{SamplingConfig, StartFrom};
use tiles::{Tile, blend, tiles};

use crate::base::Base;
use crate::control::Control;
use crate::device::{is_cpu, on_cores};
use crate::finite::{ensure_finite, is_finite, not_finite};
use crate::pictures;
use crate::spire::{DenoiserInputs, branch_features, predict};

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

/// The noise that a stochastic sampler adds in step `index` to `latent`, a batch with a seed per picture. It does not depend
/// on device or batch.
fn step_noise(seeds: &[u64], index: usize, latent: &Tensor<4>) -> Tensor<4> {
    let [_, channels, height, width] = latent.dims();
    let of =
        |&seed: &u64| noise(&mut rng(seed, "step noise", index as u64), [channels, height, width], &latent.device());
    Tensor::cat(seeds.iter().map(of).collect(), 0)
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
    let restore = || {
        let restored = restore_watched(base, control, config, requests, &mut |_| ControlFlow::Continue(()))?;
        Ok(restored.expect("nothing breaks off the restoration"))
    };
    // Several GPUs do not wait for threads of one pool.
    if is_cpu(&base.device()) { on_cores(1, restore) } else { restore() }
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
    let drawn = |shape, device: &Device| {
        let noise = requests.iter().map(|request| initial_noise(request.seed, shape, device));
        Ok(Tensor::cat(noise.collect(), 0))
    };
    restore_padded(base, control, config, requests, drawn, watch)
}

/// As [`restore`], with the same initial `noise` for all pictures instead of that of their seeds: standard normal, `[1,
/// channels, height / 8, width / 8]` for the padded picture.
///
/// # Errors
/// As [`restore`], or the noise has another shape; the message has both.
pub fn restore_from_latents(
    base: &Base,
    control: &Control,
    config: &SamplingConfig,
    requests: &[Request],
    noise: &Tensor<4>,
) -> Result<Vec<Picture>> {
    let given = |[channels, height, width]: [usize; 3], device: &Device| {
        let expected = [1, channels, height, width];
        ensure!(noise.dims() == expected, "the latents have the shape {:?}, expected is {expected:?}", noise.dims());
        Ok(noise.clone().to_device(device).repeat_dim(0, requests.len()))
    };
    let watch = &mut |_: &RestoringStep| ControlFlow::Continue(());
    let restored = restore_padded(base, control, config, requests, given, watch)?;
    Ok(restored.expect("nothing breaks off the restoration"))
}

/// Restores pictures of any size from the noise that `noise` returns for the shape of a padded picture's latent.
fn restore_padded(
    base: &Base,
    control: &Control,
    config: &SamplingConfig,
    requests: &[Request],
    noise: impl FnOnce([usize; 3], &Device) -> Result<Tensor<4>>,
    watch: &mut dyn FnMut(&RestoringStep) -> ControlFlow<()>,
) -> Result<Option<Vec<Picture>>> {
    config.validate()?;
    let (width, height) = common_size(requests)?;
    ensure!(width > 0 && height > 0, "a picture without pixels can't be restored");
    let padded: Vec<_> = requests
        .iter()
        .map(|request| Request { degraded: pad(&request.degraded, base.side_multiple()), ..request.clone() })
        .collect();
    let device = base.device();
    let noise = noise(latent_shape(base, &padded[0].degraded), &device)?;
    let restored = run(base, control, config, &padded, noise, (width, height), watch)?;
    let corrected = |(picture, request): (Picture, &Request)| config.colour_fix.apply(picture, &request.degraded);
    Ok(restored.map(|restored| restored.into_iter().zip(requests).map(corrected).collect()))
}

/// Restores pictures of one size from given standard normal `noise`, `[batch, channels, height / 8, width / 8]`, without
/// padding and colour correction. The seeds of `requests` are those of the noise that a stochastic sampler adds.
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
    let side = tile_side(base, config.tile);
    let vae_side = config.vae_tile.map_or(side, |pixels| tile_side(base, Some(pixels)));
    let tiles = &tiles(rows, columns, side);
    let canvas = Canvas { tiles: self::tiles(rows, columns, vae_side), size, downscale, width, height };

    let degraded = pictures::to_unit_tensor(requests.iter().map(|request| &request.degraded), &device);
    let clean = config.starts_from_picture().then(|| {
        let degraded = pictures::to_tensor(requests.iter().map(|request| &request.degraded), &device);
        blend(&canvas.tiles, size, 1, |_, tile| base.encode_pictures(tile.cut(&degraded, downscale)))
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
    let start = Start { noise, clean, seeds: requests.iter().map(|request| request.seed).collect() };
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
    /// Those of the VAE.
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
fn tile_side(base: &Base, pixels: Option<usize>) -> usize {
    let (downscale, multiple) = (base.vae_config.downscale(), base.side_multiple());
    match pixels.unwrap_or(base.trained_side()) {
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
