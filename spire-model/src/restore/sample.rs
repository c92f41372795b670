//! The sampling loop with classifier-free guidance (paper section 3.1).

use anyhow::{Context, Result};
use burn::tensor::Tensor;

use super::SamplingConfig;
use super::clip_guidance::{ClipGuidanceConfig, Guided};
use crate::base::Base;
use crate::scheduler::NoiseSchedule;

/// What sampling starts from, each `[batch, channels, height, width]`.
#[derive(Clone, Debug)]
pub struct Start {
    /// Standard normal noise.
    pub noise: Tensor<4>,
    /// The latent that the noise is added to, where not all steps are taken.
    pub clean: Option<Tensor<4>>,
}

impl From<Tensor<4>> for Start {
    fn from(noise: Tensor<4>) -> Self {
        Self { noise, clean: None }
    }
}

/// Samples latents: `predict(sample, timestep, semantic)` gives ε (or v) for each of the prompts' states `semantic`, of which
/// there are several for each sample: with guidance the unconditional half, then the conditional one, which go through the
/// network in one batch: `ε = ε("") + w·(ε(cs) − ε(""))`. Where every semantic prompt is the unconditional one the halves are equal, and one is
/// computed.
///
/// # Errors
/// The scheduler's settings and the sampler do not go together; CLIP is to guide and is not loaded.
pub fn sample(
    base: &Base,
    config: &SamplingConfig,
    semantic: &[String],
    start: Start,
    predict: impl Fn(Tensor<4>, Tensor<1>, Tensor<3>) -> Tensor<4>,
) -> Result<Tensor<4>> {
    config.validate()?;
    let batch = start.noise.dims()[0];
    let device = start.noise.device();
    let alphas_cumprod = NoiseSchedule::new(&base.scheduler)?.alphas_cumprod().to_vec();
    let clip = match &config.clip_guidance {
        Some(ClipGuidanceConfig { scale, .. }) => {
            let guide = base.clip.as_ref().context("clip_guidance is set, and no CLIP is loaded")?;
            Some(Guided { guide, base, scale: *scale, prompts: guide.prompts(semantic)? })
        }
        None => None,
    };
    // CLIP guidance is for what the UNet is not told.
    let untold = vec![config.negative.clone(); batch];
    let semantic = if clip.is_some() { untold.as_slice() } else { semantic };
    // Towards the prompt that guidance leads away from there is nowhere to go.
    let guided = config.guidance_scale != 1.0 && semantic.iter().any(|prompt| *prompt != config.negative);
    let conditional = base.prompts.encode(semantic);
    let states = if guided {
        Tensor::cat(vec![base.prompts.encode(&vec![config.negative.clone(); batch]), conditional], 0)
    } else {
        conditional
    };
    let mut sampler = config.sampler.build(&base.scheduler, config.steps)?;
    let timesteps = sampler.timesteps().to_vec();
    let (first, mut latent) = match start.clean {
        // As diffusers' image-to-image: so many of the steps, rounded down, but at least one.
        Some(clean) => {
            let taken = ((timesteps.len() as f64 * config.strength) as usize).max(1);
            let first = timesteps.len() - taken;
            (first, sampler.noisy(clean, start.noise, first))
        }
        None => (0, start.noise.mul_scalar(sampler.init_noise_sigma())),
    };
    for (i, &timestep) in timesteps.iter().enumerate().skip(first) {
        let input = sampler.scale_model_input(latent.clone(), i);
        let output = predict(input, Tensor::full([batch], timestep, &device), states.clone());
        let output = if guided {
            let parts = output.chunk(2, 0);
            parts[0].clone() + (parts[1].clone() - parts[0].clone()).mul_scalar(config.guidance_scale)
        } else {
            output
        };
        let output = match &clip {
            Some(clip) => clip.apply(output, latent.clone(), f64::from(alphas_cumprod[timestep as usize]))?,
            None => output,
        };
        latent = sampler.step(output, i, latent);
    }
    Ok(latent)
}
