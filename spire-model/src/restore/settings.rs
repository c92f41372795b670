//! The settings of sampling, as configurations have them.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::colour::ColourFix;
use super::quality::QualityPrompts;
use crate::clip::ClipGuidanceConfig;
use crate::scheduler::SamplerKind;

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
    /// `ddim`, `dpm++2m` or `euler`; or one that adds fresh noise in every step: `ddpm`, `dpm++2m-sde` or `euler-a`.
    pub sampler: SamplerKind,
    /// Denoising steps.
    pub steps: usize,
    /// Weight w of classifier-free guidance on the semantic prompt; 1 disables it.
    pub guidance_scale: f64,
    /// Published quality prompts, which the next two keys replace: `none`, `seesr` or `diffbir`.
    pub quality_prompts: QualityPrompts,
    /// Words for a good picture, appended to every semantic prompt.
    pub positive: String,
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
    /// Side of the VAE's tiles in pixels; if not set, that of `tile`; 0 disables them. The VAE takes more memory a pixel
    /// than the UNet, but knows no size that it was trained for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_tile: Option<usize>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            sampler: SamplerKind::Ddim,
            steps: 50,
            guidance_scale: 2.0,
            quality_prompts: QualityPrompts::None,
            positive: String::new(),
            negative: String::new(),
            strength: 1.0,
            start: StartFrom::Noise,
            control_scale: 1.0,
            control_start: 0.0,
            control_end: 1.0,
            clip_guidance: None,
            colour_fix: ColourFix::None,
            tile: None,
            vae_tile: None,
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
                self.sampler.keeps_training_scale(),
                "clip_guidance supports all samplers but euler and euler-a, whose latents are not scaled as in training"
            );
        }
        for (key, side) in [("tile", self.tile), ("vae_tile", self.vae_tile)] {
            ensure!(side.is_none_or(|side| side <= LARGEST_TILE), "{key} must be at most {LARGEST_TILE} pixels");
        }
        Ok(())
    }

    /// The suffix of the semantic prompts, and the negative prompt: the keys, or else those of `quality_prompts`.
    pub fn quality(&self) -> (&str, &str) {
        fn or<'a>(own: &'a str, preset: &'static str) -> &'a str {
            if own.is_empty() { preset } else { own }
        }
        (or(&self.positive, self.quality_prompts.positive()), or(&self.negative, self.quality_prompts.negative()))
    }

    /// The same settings with the words of `quality_prompts` in `positive` and `negative`.
    pub fn with_quality_written_out(self) -> Self {
        let (positive, negative) = self.quality();
        let (positive, negative) = (positive.to_owned(), negative.to_owned());
        Self { quality_prompts: QualityPrompts::None, positive, negative, ..self }
    }

    /// Whether sampling starts from the degraded picture's latent.
    pub fn starts_from_picture(&self) -> bool {
        self.strength < 1.0 || self.start == StartFrom::Picture
    }

    /// The factor of the control branch's effect at step `i` of `steps`, as diffusers' pipelines decide it: a step belongs
    /// to the window if it lies in it as a whole.
    pub(super) fn control_scale_at(&self, i: usize, steps: usize) -> f64 {
        let fraction = |step: usize| step as f64 / steps as f64;
        let outside = fraction(i) < self.control_start || fraction(i + 1) > self.control_end;
        if outside { 0.0 } else { self.control_scale }
    }
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
}
