//! The sampling loop (paper section 3.1).

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use burn::tensor::{DType, Tensor};

use super::clip_guidance::ClipGuidance;
use super::quality::with_suffix;
use super::{SamplingConfig, step_noise};
use crate::base::Base;
use crate::clip::ClipGuidanceConfig;
use crate::finite::{ensure_finite, is_finite};
use crate::guidance::GuidedPrompts;
use crate::scheduler::{NoiseSchedule, Sampler};

/// The start of sampling.
#[derive(Clone, Debug)]
pub struct Start {
    /// Standard normal noise `[batch, channels, height, width]`.
    pub noise: Tensor<4>,
    /// The latent that the noise is added to, of the same shape, if sampling does not start from noise alone.
    pub clean: Option<Tensor<4>>,
    /// Seeds of the noise that a stochastic sampler adds in its steps, one per picture.
    pub seeds: Vec<u64>,
}

/// A step whose network evaluation is done.
pub(super) struct SampledStep<'a> {
    /// Steps done, this one included.
    pub done: usize,
    /// Steps of the whole run.
    pub steps: usize,
    sampler: &'a dyn Sampler,
    index: usize,
    output: &'a Tensor<4>,
    latent: &'a Tensor<4>,
}

impl SampledStep<'_> {
    /// The clean latent that this step predicts, `[batch, channels, height, width]`.
    pub fn predicted_clean(&self) -> Tensor<4> {
        self.sampler.predicted_clean(self.output.clone(), self.index, self.latent.clone())
    }
}

/// Samples latents, `[batch, channels, height, width]`, with classifier-free guidance.
///
/// `predict(sample, timestep, states, control_scale)` is the network: `sample` `[batch, channels, height, width]`, `timestep`
/// `[batch]`, the semantic prompts' `states` `[passes · batch, tokens, width]`, and the factor of the control branch's effect
/// at this step, to `[passes · batch, channels, height, width]`. With guidance there are two passes, the unconditional one
/// first.
///
/// # Errors
/// The sampler does not support the scheduler's settings, or `clip_guidance` is set and [`Base::clip`] is not loaded; or a
/// prediction is NaN or infinite.
pub fn sample(
    base: &Base,
    config: &SamplingConfig,
    semantic: &[String],
    start: Start,
    predict: impl Fn(Tensor<4>, Tensor<1>, Tensor<3>, f64) -> Tensor<4>,
) -> Result<Tensor<4>> {
    let sampled = sample_watched(base, config, semantic, start, predict, &mut |_| ControlFlow::Continue(()))?;
    Ok(sampled.expect("nothing breaks off the run"))
}

/// As [`sample`]; calls `watch` after each network evaluation. `None` if `watch` breaks off the run.
pub(super) fn sample_watched(
    base: &Base,
    config: &SamplingConfig,
    semantic: &[String],
    start: Start,
    predict: impl Fn(Tensor<4>, Tensor<1>, Tensor<3>, f64) -> Tensor<4>,
    watch: &mut dyn FnMut(&SampledStep) -> ControlFlow<()>,
) -> Result<Option<Tensor<4>>> {
    config.validate()?;
    let batch = start.noise.dims()[0];
    let device = start.noise.device();
    let alphas_cumprod = NoiseSchedule::new(&base.scheduler)?.alphas_cumprod().to_vec();
    let clip = match &config.clip_guidance {
        Some(ClipGuidanceConfig { scale, .. }) => {
            let guide = base.clip.as_ref().context("clip_guidance is set, but no CLIP is loaded")?;
            let (prediction, prompts) = (base.scheduler.prediction_type, guide.prompts(semantic)?);
            Some(ClipGuidance { guide, scale: *scale, prediction, prompts })
        }
        None => None,
    };
    let (positive, negative) = config.quality();
    // With CLIP guidance the UNet does not see the semantic prompt.
    let semantic: Vec<String> = match &clip {
        Some(_) => vec![negative.to_owned(); batch],
        None => semantic.iter().map(|prompt| with_suffix(prompt, positive)).collect(),
    };
    let prompts = GuidedPrompts::new(&base.prompts, &semantic, negative, config.guidance_scale);
    let dtype = base.unet.conv_in().weight.dtype();
    ensure_finite(&prompts.states, "the text encoder's encoding of the semantic prompt", dtype)?;
    let mut sampler = config.sampler.build(&base.scheduler, config.steps)?;
    let timesteps = sampler.timesteps().to_vec();
    let (first, mut latent) = match start.clean {
        // As diffusers' image-to-image: `strength` of the steps, rounded down, but at least one.
        Some(clean) => {
            let taken = ((timesteps.len() as f64 * config.strength) as usize).max(1);
            let first = timesteps.len() - taken;
            (first, sampler.noisy(clean, start.noise, first))
        }
        None => (0, start.noise.mul_scalar(sampler.init_noise_sigma())),
    };
    for (i, &timestep) in timesteps.iter().enumerate().skip(first) {
        let input = sampler.scale_model_input(latent.clone(), i);
        let control_scale = config.control_scale_at(i - first, timesteps.len() - first);
        let time = Tensor::full([batch], timestep, &device);
        let predicted = predict(input, time, prompts.states.clone(), control_scale);
        let output = prompts.combine(predicted.clone());
        let output = match &clip {
            Some(clip) => {
                let alpha = f64::from(alphas_cumprod[timestep as usize]);
                clip.apply(output, latent.clone(), alpha, |latents| base.decode_latents(latents))?
            }
            None => output,
        };
        let (done, steps) = (i + 1 - first, timesteps.len() - first);
        let step = SampledStep { done, steps, sampler: &*sampler, index: i, output: &output, latent: &latent };
        if watch(&step).is_break() {
            return Ok(None);
        }
        latent = sampler.step(output, i, latent);
        let fresh = sampler.noise_scale(i);
        if fresh > 0.0 {
            latent = latent.clone() + step_noise(&start.seeds, i, &latent).mul_scalar(fresh);
        }
        if !is_finite(&latent) {
            // The steps that follow would compute on nothing else.
            let step = format!("in step {} of {}", i + 1, timesteps.len());
            ensure_finite(&predicted, &format!("the UNet's prediction {step}"), dtype)?;
            ensure_finite(&latent, &format!("the latent after guidance {step}"), DType::F32)?;
        }
    }
    Ok(Some(latent))
}
