//! Restoration (paper section 3.1): deterministic sampling from noise, guided by the semantic prompt and conditioned on
//! the degraded picture and the restoration prompt.

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};
use spire_data::Picture;
use spire_data::rng::rng;

use crate::base::Base;
use crate::control::Control;
use crate::pictures;
use crate::scheduler::SamplerKind;

/// How a picture is sampled.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// `ddim`, `dpm++2m` or `euler`.
    pub sampler: SamplerKind,
    /// Denoising steps.
    pub steps: usize,
    /// Weight w of classifier-free guidance on the semantic prompt; 1 is none.
    pub guidance_scale: f64,
    /// Replaces the empty prompt in the unconditional half.
    pub negative: String,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { sampler: SamplerKind::Ddim, steps: 50, guidance_scale: 2.0, negative: String::new() }
    }
}

impl SamplingConfig {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// Names the setting that does not.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.steps > 0, "steps must be at least 1");
        ensure!(self.guidance_scale.is_finite(), "guidance_scale must be a number");
        Ok(())
    }
}

/// One restoration: the degraded picture and the two prompts.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is to be restored.
    pub degraded: Picture,
    /// What it shows; may be empty.
    pub semantic: String,
    /// What is to be undone.
    pub restoration: String,
    /// Decides the initial noise.
    pub seed: u64,
}

/// Standard normal noise `[1, channels, height, width]` that depends on `seed` alone, not on device or batch.
pub fn initial_noise(seed: u64, [channels, height, width]: [usize; 3], device: &Device) -> Tensor<4> {
    noise(&mut rng(seed, "initial noise", 0), [channels, height, width], device)
}

/// Standard normal noise `[1, channels, height, width]` drawn from `rng`.
pub fn noise(rng: &mut spire_data::rng::Rng, [channels, height, width]: [usize; 3], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..channels * height * width).map(|_| rng.sample(StandardNormal)).collect();
    Tensor::from_data(TensorData::new(values, [1, channels, height, width]), device)
}

/// Samples latents from `noise` `[batch, channels, height, width]`: `predict(sample, timestep, semantic, halves)` gives
/// ε (or v) for `halves · batch` samples, `semantic` their prompts' states. With guidance the unconditional and the
/// conditional half go through the network in one batch:
/// `ε = ε("") + w·(ε(cs) − ε(""))`.
///
/// # Errors
/// The scheduler's settings and the sampler do not go together.
pub fn sample(
    base: &Base,
    config: &SamplingConfig,
    semantic: &[String],
    noise: Tensor<4>,
    predict: impl Fn(Tensor<4>, Tensor<1>, Tensor<3>, usize) -> Tensor<4>,
) -> Result<Tensor<4>> {
    config.validate()?;
    let batch = noise.dims()[0];
    let device = noise.device();
    let guided = config.guidance_scale != 1.0;
    let conditional = base.prompts.encode(semantic);
    let states = if guided {
        Tensor::cat(vec![base.prompts.encode(&vec![config.negative.clone(); batch]), conditional], 0)
    } else {
        conditional
    };
    let mut sampler = config.sampler.build(&base.scheduler, config.steps)?;
    let timesteps = sampler.timesteps().to_vec();
    let mut latent = noise.mul_scalar(sampler.init_noise_sigma());
    for (i, &timestep) in timesteps.iter().enumerate() {
        let input = sampler.scale_model_input(latent.clone(), i);
        let halves = if guided { 2 } else { 1 };
        let input = if guided { Tensor::cat(vec![input.clone(), input], 0) } else { input };
        let time = Tensor::full([halves * batch], timestep, &device);
        let output = predict(input, time, states.clone(), halves);
        let output = if guided {
            let parts = output.chunk(2, 0);
            parts[0].clone() + (parts[1].clone() - parts[0].clone()).mul_scalar(config.guidance_scale)
        } else {
            output
        };
        latent = sampler.step(output, i, latent);
    }
    Ok(latent)
}

/// Restores pictures of one size, in one batch. The sides may be any: pictures are padded by repeating their edges and
/// cropped back.
///
/// # Errors
/// There are none, their sizes differ, or the sampler and the scheduler do not go together.
pub fn restore(base: &Base, control: &Control, config: &SamplingConfig, requests: &[Request]) -> Result<Vec<Picture>> {
    ensure!(!requests.is_empty(), "there is nothing to restore");
    let (width, height) = (requests[0].degraded.width, requests[0].degraded.height);
    ensure!(
        requests.iter().all(|request| (request.degraded.width, request.degraded.height) == (width, height)),
        "pictures that are restored in one batch must have one size"
    );
    let device = base.unet.conv_in().weight.val().device();
    let padded: Vec<_> = requests.iter().map(|request| pad(&request.degraded, base.side_multiple())).collect();
    let degraded = pictures::to_tensor(&padded, &device);
    let [_, _, padded_height, padded_width] = degraded.dims();
    let downscale = base.vae_config.downscale();
    let shape = [base.unet_config.in_channels, padded_height / downscale, padded_width / downscale];
    let noise = Tensor::cat(requests.iter().map(|request| initial_noise(request.seed, shape, &device)).collect(), 0);
    let semantic: Vec<_> = requests.iter().map(|request| request.semantic.clone()).collect();
    let restoration: Vec<_> = requests.iter().map(|request| request.restoration.as_str()).collect();
    let restoration = base.prompts.encode(&restoration);
    let latent = sample(base, config, &semantic, noise, |sample, time, states, halves| {
        crate::spire::predict(
            &base.unet,
            control,
            sample,
            time,
            states,
            restoration.clone().repeat_dim(0, halves),
            degraded.clone().repeat_dim(0, halves),
        )
    })?;
    let restored = pictures::from_tensor(base.decode_latents(latent));
    Ok(restored.into_iter().map(|picture| picture.crop(0, 0, width, height)).collect())
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
    Picture { width, height, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_repeats_the_edges() {
        let picture = Picture { width: 2, height: 1, data: vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6] };
        let padded = pad(&picture, 3);
        assert_eq!((padded.width, padded.height), (3, 3));
        assert_eq!(padded.plane(1), [0.3, 0.4, 0.4].repeat(3));
        assert_eq!(padded.crop(0, 0, 2, 1), picture);
    }
}
