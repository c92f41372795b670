//! Settings of DiffBIR's sampling.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{RestorationGuidance, Version};
use crate::aggregation::check_shortest_side;
use crate::restore::{ClipGuidanceConfig, ColourFix, StartFrom};
use crate::scheduler::spaced::LAST;

/// The negative prompt with which versions 2 and 2.1 are published.
const NEGATIVE: &str = "low quality, blurry, low-resolution, noisy, unsharp, weird textures";

/// The sides of tiles are multiples of this many pixels, so that the UNet can halve them.
const TILE_MULTIPLE: usize = 64;

/// Settings of sampling. Their names are those of [`SamplingConfig`](crate::restore::SamplingConfig) where they mean the
/// same.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Steps of the spaced sampler.
    pub steps: usize,
    /// Weight of classifier-free guidance; 1 disables it.
    pub guidance_scale: f64,
    /// Whether guidance grows from 1 to its weight as noise decreases.
    pub rescale_guidance: bool,
    /// A prompt for good quality, which follows a picture's own.
    pub prompt: String,
    /// The negative prompt.
    pub negative: String,
    /// Factor of the control branch's features.
    pub control_scale: f64,
    /// Where sampling starts: `noise`, or the first stage's `picture` with the noise of the last timestep.
    pub start: StartFrom,
    /// Training timestep whose noise is added to the condition's latent; 0 for none.
    pub noise_augmentation: usize,
    /// Below 1, the restored picture is then edited by the text-to-image model alone (SDEdit,
    /// <https://arxiv.org/abs/2108.01073>): it gets noise, and this fraction of the steps is taken with the picture's prompt.
    pub strength: f64,
    /// CLIP guidance by the picture's prompt, which the UNet then does not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_guidance: Option<ClipGuidanceConfig>,
    /// Restoration guidance towards the first stage's picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restoration_guidance: Option<RestorationGuidance>,
    /// Colour correction towards the first stage's picture.
    pub colour_fix: ColourFix,
    /// Side of the tiles of larger pictures in pixels, a multiple of 64; they overlap by half. 0 for no tiles.
    pub tile: usize,
    /// Pictures whose shorter side is below this are enlarged to it: the model was trained on pictures of 512 pixels.
    pub shortest_side: usize,
}

impl Default for Settings {
    /// Version 1's.
    fn default() -> Self {
        Self {
            steps: 50,
            guidance_scale: 1.0,
            rescale_guidance: false,
            prompt: String::new(),
            negative: String::new(),
            control_scale: 1.0,
            start: StartFrom::Noise,
            noise_augmentation: 0,
            strength: 1.0,
            clip_guidance: None,
            restoration_guidance: None,
            colour_fix: ColourFix::Wavelet,
            tile: 512,
            shortest_side: 512,
        }
    }
}

impl Settings {
    /// The settings with which a version is published. Version 2.1 is published with another sampler, which this program does
    /// not have: it gets those of version 2.
    pub fn published(version: Version) -> Self {
        match version {
            Version::V1 => Self::default(),
            Version::V2 | Version::V2_1 => {
                Self { guidance_scale: 4.0, negative: NEGATIVE.to_owned(), ..Self::default() }
            }
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The message names the setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        ensure!((1..=LAST + 1).contains(&self.steps), "steps must be from 1 to {}", LAST + 1);
        ensure!(self.guidance_scale.is_finite(), "guidance_scale must be a number");
        ensure!(self.control_scale.is_finite(), "control_scale must be a number");
        ensure!(self.noise_augmentation <= LAST, "noise_augmentation must be at most {LAST}");
        ensure!(self.strength > 0.0 && self.strength <= 1.0, "strength must be above 0 and at most 1");
        ensure!(
            self.tile.is_multiple_of(TILE_MULTIPLE),
            "tile must be a multiple of {TILE_MULTIPLE}, or 0 for no tiles"
        );
        check_shortest_side(self.shortest_side)?;
        self.restoration_guidance.as_ref().map_or(Ok(()), RestorationGuidance::validate)?;
        if let Some(guidance) = &self.clip_guidance {
            ensure!(guidance.scale.is_finite(), "clip_guidance.scale must be a number");
            ensure!(self.strength == 1.0, "clip_guidance and strength below 1 (SDEdit) can't be set together");
        }
        Ok(())
    }

    /// The weight of guidance at a timestep.
    pub(super) fn guidance_at(&self, timestep: usize) -> f64 {
        if !self.rescale_guidance || self.guidance_scale <= 1.0 {
            return self.guidance_scale;
        }
        let progress = (1000.0 - timestep as f64) / 1000.0;
        1.0 + self.guidance_scale * (1.0 - (std::f64::consts::PI * progress.powi(5)).cos()) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Settings);

    #[test]
    fn settings_out_of_range_are_named() {
        let refused: [(&str, Change); 5] = [
            ("steps", |settings| settings.steps = 0),
            ("noise_augmentation", |settings| settings.noise_augmentation = 1000),
            ("strength", |settings| settings.strength = 0.0),
            ("tile", |settings| settings.tile = 100),
            ("clip_guidance and strength", |settings| {
                settings.strength = 0.5;
                settings.clip_guidance = Some(ClipGuidanceConfig { clip: "clip".into(), scale: 0.1 });
            }),
        ];
        assert!(Settings::published(Version::V2).validate().is_ok());
        for (name, change) in refused {
            let mut settings = Settings::default();
            change(&mut settings);
            let message = settings.validate().unwrap_err().to_string();
            assert!(message.starts_with(name), "{message}");
        }
    }

    #[test]
    fn rescaled_guidance_grows_as_noise_decreases() {
        let settings = Settings { guidance_scale: 4.0, rescale_guidance: true, ..Settings::default() };
        assert!((settings.guidance_at(999) - 1.0).abs() < 1e-6);
        assert!((settings.guidance_at(0) - 5.0).abs() < 1e-6);
        assert!(settings.guidance_at(300) < settings.guidance_at(100));
    }
}
