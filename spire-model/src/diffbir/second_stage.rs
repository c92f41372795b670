//! The second stage: from the first stage's picture to the restored one.

use anyhow::{Result, ensure};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::sampler::{LAST, SpacedSampler, noisy};
use super::{IrControlNet, Version};
use crate::guidance::classifier_free;
use crate::nn::repeat_batch;
use crate::unet::UNet;
use crate::vae::Vae;

/// Latents of multiples of this many positions fit the UNet.
const LATENT_MULTIPLE: usize = 8;

/// The networks of the second stage.
#[derive(Clone, Copy, Debug)]
pub struct SecondStage<'a> {
    /// Which noise schedule and prediction.
    pub version: Version,
    /// Stable Diffusion's UNet.
    pub unet: &'a UNet,
    /// Its VAE.
    pub vae: &'a Vae,
    /// The factor of its latents.
    pub scaling_factor: f64,
    /// The control branch.
    pub control: &'a IrControlNet,
}

/// Settings of sampling.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Denoising steps.
    pub steps: usize,
    /// Weight of classifier-free guidance; 1 disables it.
    pub guidance_scale: f64,
    /// Whether guidance grows from 1 to its weight as noise decreases.
    pub rescale_guidance: bool,
    /// Factor of the control branch's features.
    pub strength: f64,
    /// What sampling starts from.
    pub start_point: StartPoint,
    /// Training timestep whose noise is added to the condition's latent; 0 for none.
    pub noise_augmentation: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            steps: 50,
            guidance_scale: 6.0,
            rescale_guidance: false,
            strength: 1.0,
            start_point: StartPoint::Noise,
            noise_augmentation: 0,
        }
    }
}

/// What sampling starts from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StartPoint {
    /// Noise.
    #[default]
    Noise,
    /// The condition's latent, with the noise of the last timestep.
    Cond,
}

impl Settings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The message names the setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        ensure!((1..=LAST + 1).contains(&self.steps), "steps must be from 1 to {}", LAST + 1);
        ensure!(self.guidance_scale.is_finite(), "guidance_scale must be a number");
        ensure!(self.strength.is_finite(), "strength must be a number");
        ensure!(self.noise_augmentation <= LAST, "noise_augmentation must be at most {LAST}");
        Ok(())
    }

    /// The weight of guidance at a timestep.
    fn guidance_at(&self, timestep: usize) -> f64 {
        if !self.rescale_guidance || self.guidance_scale <= 1.0 {
            return self.guidance_scale;
        }
        let progress = (1000.0 - timestep as f64) / 1000.0;
        1.0 + self.guidance_scale * (1.0 - (std::f64::consts::PI * progress.powi(5)).cos()) / 2.0
    }
}

impl SecondStage<'_> {
    /// The restored picture of `condition`, the first stage's picture, both `[batch, 3, height, width]` in \[0, 1\] (the result
    /// is not clamped). `prompts` and `negative` are their prompts' states `[batch, tokens, width]`. `noise` draws standard
    /// normal noise of a shape: first for the start, then for the condition if it is augmented, then for each step.
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn restore(
        &self,
        condition: Tensor<4>,
        prompts: Tensor<3>,
        negative: Tensor<3>,
        settings: &Settings,
        noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
    ) -> Result<Tensor<4>> {
        let [batch, channels, height, width] = condition.dims();
        let size = [height, width].map(|side| side.next_multiple_of(8 * LATENT_MULTIPLE));
        // Black beyond the edges, as in the original code.
        let padded = Tensor::zeros([batch, channels, size[0], size[1]], &condition.device())
            .slice_assign([0..batch, 0..channels, 0..height, 0..width], condition);
        let (mean, _) = self.vae.encode(padded.mul_scalar(2.0).sub_scalar(1.0));
        let latent = self.sample(mean.mul_scalar(self.scaling_factor), prompts, negative, settings, noise)?;
        let decoded = self.vae.decode(latent.div_scalar(self.scaling_factor));
        Ok(decoded.add_scalar(1.0).div_scalar(2.0).slice([0..batch, 0..channels, 0..height, 0..width]))
    }

    /// A latent, given the condition's, `[batch, channels, height, width]`. As [`Self::restore`].
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn sample(
        &self,
        condition: Tensor<4>,
        prompts: Tensor<3>,
        negative: Tensor<3>,
        settings: &Settings,
        noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
    ) -> Result<Tensor<4>> {
        settings.validate()?;
        let shape = condition.dims();
        let mut latent = noise(shape);
        if settings.start_point == StartPoint::Cond {
            latent = noisy(self.version, condition.clone(), latent, LAST);
        }
        let condition = match settings.noise_augmentation {
            0 => condition,
            timestep => noisy(self.version, condition, noise(shape), timestep),
        };
        let sampler = SpacedSampler::new(self.version, settings.steps)?;
        for (i, timestep) in sampler.timesteps().enumerate() {
            let scale = settings.guidance_at(timestep);
            let predict = |states: Tensor<3>| {
                let passes = states.dims()[0] / shape[0];
                let (sample, condition) =
                    (repeat_batch(latent.clone(), passes), repeat_batch(condition.clone(), passes));
                let time = Tensor::full([sample.dims()[0]], timestep as f32, &sample.device());
                self.control.predict(self.unet, sample, condition, time, states, settings.strength)
            };
            let output = if scale == 1.0 {
                predict(prompts.clone())
            } else {
                let both = predict(Tensor::cat(vec![negative.clone(), prompts.clone()], 0)).chunk(2, 0);
                classifier_free(both[0].clone(), both[1].clone(), scale)
            };
            latent = sampler.step(i, output, latent, noise(shape));
        }
        Ok(latent)
    }
}
