//! The second stage: from the first stage's picture to the restored one.

use anyhow::Result;
use burn::tensor::Tensor;

use super::{IrControlNet, Settings, Version, padded};
use crate::aggregation::{Aggregation, DOWNSCALE};
use crate::guidance::{PromptStates, classifier_free};
use crate::nn::{Features, repeat_batch};
use crate::restore::StartFrom;
use crate::restore::clip_guidance::ClipGuidance;
use crate::restore::tiles::Tile;
use crate::scheduler::PredictionType;
use crate::scheduler::spaced::{LAST, SpacedSampler};
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

/// Draws standard normal noise of a shape.
pub type Noise<'a> = dyn FnMut([usize; 4]) -> Tensor<4> + 'a;

impl SecondStage<'_> {
    /// The restored picture of `condition`, the first stage's picture, both `[batch, 3, height, width]` in \[0, 1\] (the result
    /// is not clamped). `noise` is drawn first for the start, then for the condition if it is augmented, then for each step.
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn restore(
        &self,
        condition: Tensor<4>,
        prompts: &PromptStates,
        settings: &Settings,
        noise: &mut Noise,
    ) -> Result<Tensor<4>> {
        self.restore_guided(condition, prompts, None, settings, noise)
    }

    /// As [`Self::restore`], with CLIP guidance.
    ///
    /// # Errors
    /// As [`Self::restore`]; or CLIP can't guide a step.
    pub(super) fn restore_guided(
        &self,
        condition: Tensor<4>,
        prompts: &PromptStates,
        clip: Option<&ClipGuidance>,
        settings: &Settings,
        noise: &mut Noise,
    ) -> Result<Tensor<4>> {
        let (run, encoded) = Run::new(self, &condition, prompts, settings)?;
        let shape = encoded.dims();
        let mut latent = noise(shape);
        if settings.start == StartFrom::Picture {
            latent = run.sampler.noisy(encoded.clone(), latent, LAST);
        }
        let augmented = match settings.noise_augmentation {
            0 => encoded,
            timestep => run.sampler.noisy(encoded, noise(shape), timestep),
        };
        let run = Run { clip, condition: Some(augmented), ..run };
        let latent = run.sample(0, latent, noise)?;
        Ok(run.decode(&latent, &condition))
    }

    /// SDEdit: `picture` `[batch, 3, height, width]` in \[0, 1\] with noise, from which the text-to-image model alone takes the
    /// last steps. The result has its shape, and is not clamped.
    ///
    /// # Errors
    /// A setting is out of range.
    pub(super) fn edit(
        &self,
        picture: Tensor<4>,
        prompts: &PromptStates,
        settings: &Settings,
        noise: &mut Noise,
    ) -> Result<Tensor<4>> {
        let (run, encoded) = Run::new(self, &picture, prompts, settings)?;
        let run = Run { target: None, ..run };
        // As diffusers' image-to-image: rounded down, but at least one.
        let taken = ((settings.steps as f64 * settings.strength) as usize).max(1);
        let first = settings.steps - taken;
        let shape = encoded.dims();
        let timestep = run.sampler.timesteps().nth(first).unwrap_or(0);
        let latent = run.sampler.noisy(encoded, noise(shape), timestep);
        let latent = run.sample(first, latent, noise)?;
        Ok(run.decode(&latent, &picture))
    }

    /// A picture in \[0, 1\] as the VAE reads it, black beyond its edges as in the original code; its latent and its windows.
    fn encode(&self, picture: &Tensor<4>, tile: usize) -> (Tensor<4>, Tensor<4>, Aggregation) {
        let multiple = |side: usize| {
            // In tiles, each of which fits the UNet, the whole need not.
            let in_tiles = tile > 0 && side >= tile;
            side.next_multiple_of(if in_tiles { DOWNSCALE } else { DOWNSCALE * LATENT_MULTIPLE })
        };
        let picture = padded(picture.clone(), multiple).mul_scalar(2.0).sub_scalar(1.0);
        let [_, _, height, width] = picture.dims();
        let windows = Aggregation::new([height / DOWNSCALE, width / DOWNSCALE], tile, tile / 2);
        let latent = windows.encode(&picture, |part| self.vae.encode(part).0).mul_scalar(self.scaling_factor);
        (picture, latent, windows)
    }
}

/// One run of the sampler.
struct Run<'a> {
    stage: &'a SecondStage<'a>,
    settings: &'a Settings,
    sampler: SpacedSampler,
    windows: Aggregation,
    prompts: &'a PromptStates,
    clip: Option<&'a ClipGuidance<'a>>,
    /// The latent that the control branch reads; `None` for the text-to-image model alone.
    condition: Option<Tensor<4>>,
    /// The picture towards which restoration guidance moves, in \[-1, 1\].
    target: Option<Tensor<4>>,
}

impl<'a> Run<'a> {
    /// A run of the text-to-image model alone, and the latent of `picture`.
    fn new(
        stage: &'a SecondStage,
        picture: &Tensor<4>,
        prompts: &'a PromptStates,
        settings: &'a Settings,
    ) -> Result<(Self, Tensor<4>)> {
        settings.validate()?;
        let version = stage.version;
        let sampler = SpacedSampler::new(version.prediction(), version == Version::V2_1, settings.steps)?;
        let (picture, encoded, windows) = stage.encode(picture, settings.tile);
        let target = Some(picture);
        Ok((Self { stage, settings, sampler, windows, prompts, clip: None, condition: None, target }, encoded))
    }

    /// The steps from `first` on, from `latent` to a clean one.
    fn sample(&self, first: usize, mut latent: Tensor<4>, noise: &mut Noise) -> Result<Tensor<4>> {
        for (i, timestep) in self.sampler.timesteps().enumerate().skip(first) {
            let mut output = self.windows.denoise(|window| self.predict(&latent, window, timestep));
            if let Some(clip) = self.clip {
                let decode = |latents: Tensor<4>| self.decode_windows(&latents).clamp(-1.0, 1.0);
                output = clip.apply(output, latent.clone(), self.sampler.signal(i), decode)?;
            }
            let mut clean = self.sampler.clean(i, output, latent.clone());
            if let (Some(guidance), Some(target)) = (&self.settings.restoration_guidance, &self.target)
                && guidance.guides(timestep)
            {
                let rescale = 1.0 / self.sampler.clean_weight(i);
                clean = guidance.guide(clean, target, rescale, |latents| self.decode_windows(&latents))?;
            }
            let shape = latent.dims();
            latent = self.sampler.step(i, clean, latent, noise(shape));
        }
        Ok(latent)
    }

    /// The guided prediction for a window of the latent.
    fn predict(&self, latent: &Tensor<4>, window: &Tile, timestep: usize) -> Tensor<4> {
        let SecondStage { unet, control, .. } = self.stage;
        let sample = window.cut(latent, 1);
        let condition = self.condition.as_ref().map(|condition| window.cut(condition, 1));
        let predict = |states: Tensor<3>| {
            let passes = states.dims()[0] / sample.dims()[0];
            let sample = repeat_batch(sample.clone(), passes);
            let time = Tensor::full([sample.dims()[0]], timestep as f32, &sample.device());
            match &condition {
                Some(condition) => {
                    let condition = repeat_batch(condition.clone(), passes);
                    let features = control.residuals(sample.clone(), condition, time.clone(), &states);
                    let Features { down, mid } = features.scaled(self.settings.control_scale);
                    unet.forward_controlled(sample, time, states, down, mid)
                }
                None => unet.forward(sample, time, states),
            }
        };
        let PromptStates { conditional, unconditional } = self.prompts.clone();
        let scale = self.settings.guidance_at(timestep);
        match unconditional.filter(|_| scale != 1.0) {
            Some(unconditional) => {
                let both = predict(Tensor::cat(vec![unconditional, conditional], 0)).chunk(2, 0);
                classifier_free(both[0].clone(), both[1].clone(), scale)
            }
            None => predict(conditional),
        }
    }

    /// The picture in \[0, 1\], not clamped, of the shape of `like`.
    fn decode(&self, latent: &Tensor<4>, like: &Tensor<4>) -> Tensor<4> {
        let decoded = self.decode_windows(latent).add_scalar(1.0).div_scalar(2.0);
        decoded.slice(like.dims().map(|length| 0..length))
    }

    fn decode_windows(&self, latent: &Tensor<4>) -> Tensor<4> {
        let SecondStage { vae, scaling_factor, .. } = self.stage;
        self.windows.decode(|window| vae.decode(window.cut(latent, 1).div_scalar(*scaling_factor)))
    }
}

impl Version {
    /// What the UNet predicts.
    pub(super) fn prediction(self) -> PredictionType {
        match self {
            Self::V1 | Self::V2 => PredictionType::Epsilon,
            Self::V2_1 => PredictionType::VPrediction,
        }
    }
}
