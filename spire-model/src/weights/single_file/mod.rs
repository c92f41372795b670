//! Stable Diffusion in one file, in the layout of the original latent-diffusion code: `model.diffusion_model.*` (the
//! UNet), `first_stage_model.*` (the VAE), `cond_stage_model.*` (the text encoder). Such a file has no `config.json`; the
//! sizes are read off the tensors' shapes.

mod open_clip;
mod text;
mod unet;
mod vae;

use anyhow::{Context, Result, ensure};
pub(crate) use unet::{EncoderLayout, control_net, structure_encoder};
pub(crate) use vae::convert as vae;

use super::Tensors;
use crate::clip::ClipTextConfig;
use crate::scheduler::{PredictionType, SchedulerConfig};
use crate::unet::UNetConfig;
use crate::vae::VaeConfig;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const TEXT: &str = "cond_stage_model.";

/// Prefix of SDXL's text encoders.
const SDXL_TEXT: &str = "conditioner.";

/// The three parts of a single file, each under diffusers' and transformers' names.
#[derive(Clone, Debug)]
pub struct SingleFile {
    tensors: Tensors,
}

impl SingleFile {
    /// Whether the tensors have the names of such a file.
    pub fn recognise(tensors: &Tensors) -> bool {
        tensors.has(UNET) || tensors.has(VAE)
    }

    /// Wraps an opened file.
    ///
    /// # Errors
    /// A part is missing, or the kind of model is not supported.
    pub fn new(tensors: Tensors) -> Result<Self> {
        let origin = tensors.origin();
        ensure!(!tensors.has(SDXL_TEXT), "{origin} is a Stable Diffusion XL model; only 1.x and 2.x are supported");
        for (prefix, part) in [(UNET, "UNet"), (VAE, "VAE"), (TEXT, "text encoder")] {
            ensure!(tensors.has(prefix), "{origin} has no {part}: no tensor's name starts with {prefix}");
        }
        Ok(Self { tensors })
    }

    /// The UNet.
    ///
    /// # Errors
    /// The shapes do not describe a UNet.
    pub fn unet(&self) -> Result<(UNetConfig, Tensors)> {
        unet::convert(&self.part(UNET)).with_context(|| self.context("UNet"))
    }

    /// The VAE.
    ///
    /// # Errors
    /// The shapes do not describe a VAE.
    pub fn vae(&self) -> Result<(VaeConfig, Tensors)> {
        vae::convert(&self.part(VAE)).with_context(|| self.context("VAE"))
    }

    /// The text encoder, with transformers' names in SD 1.x and OpenCLIP's in SD 2.x.
    ///
    /// # Errors
    /// The shapes do not describe a text encoder.
    pub fn text_encoder(&self) -> Result<(ClipTextConfig, Tensors)> {
        let text = self.part(TEXT);
        let converted = if self.is_version_2() { open_clip::convert(&text) } else { text::convert(&text) };
        converted.with_context(|| self.context("text encoder"))
    }

    /// Whether the text encoder is OpenCLIP's, as in SD 2.x.
    pub fn is_version_2(&self) -> bool {
        self.tensors.has(&format!("{TEXT}{}", open_clip::PREFIX))
    }

    /// The schedule, which is the same for all versions. The prediction type of SD 2.x, v, is a guess: the file does
    /// not contain it.
    pub fn scheduler(&self) -> SchedulerConfig {
        SchedulerConfig::stable_diffusion(if self.is_version_2() {
            PredictionType::VPrediction
        } else {
            PredictionType::Epsilon
        })
    }

    fn part(&self, prefix: &str) -> Tensors {
        self.tensors.renamed(|name| name.strip_prefix(prefix).map(Into::into))
    }

    fn context(&self, part: &str) -> String {
        format!("the {part} in {}", self.tensors.origin())
    }
}

/// Replaces the prefix `from` by `to`; the first matching pair applies.
fn replace_prefix(name: &str, pairs: &[(&str, &str)]) -> String {
    for (from, to) in pairs {
        if let Some(rest) = name.strip_prefix(from) {
            return format!("{to}{rest}");
        }
    }
    name.to_owned()
}

/// Number of numbered names: 3 if `prefix` is followed by `0.`, `1.` and `2.`.
fn count(tensors: &Tensors, prefix: &str) -> usize {
    (0..).take_while(|i| tensors.has(&format!("{prefix}{i}."))).count()
}
