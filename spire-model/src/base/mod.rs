//! A frozen text-to-image model: the text encoder, the VAE, the UNet and the noise schedule.

mod config;
mod prompts;
mod source;

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device, Tensor};

pub use config::BaseConfig;
pub use prompts::PromptEncoder;
pub use source::{BaseSource, locate};

use crate::clip::{ClipGuidanceConfig, ClipGuide, ClipText};
use crate::device::ensure_computes_in;
use crate::scheduler::SchedulerConfig;
use crate::unet::{UNet, UNetConfig};
use crate::vae::{Vae, VaeConfig};
use crate::weights::{Precision, fill};

/// The frozen model.
#[derive(Debug)]
pub struct Base {
    /// Text to tokens' states.
    pub prompts: PromptEncoder,
    /// Pictures to latents and back.
    pub vae: Vae,
    /// The VAE's settings.
    pub vae_config: VaeConfig,
    /// The denoiser.
    pub unet: UNet,
    /// The denoiser's settings.
    pub unet_config: UNetConfig,
    /// The noise schedule and the sampler that the model was made for.
    pub scheduler: SchedulerConfig,
    /// What guides sampling with `clip_guidance`, if it is loaded.
    pub clip: Option<ClipGuide>,
}

impl Base {
    /// From a folder in the Hugging Face layout or a single file, with all weights kept in `precision`.
    ///
    /// # Errors
    /// A part is missing, unsupported, or its weights do not fit its configuration; the device does not compute in `precision`.
    pub fn load(path: &Path, precision: Precision, device: &Device) -> Result<Self> {
        ensure_computes_in(precision, device, &format!("precision {precision}"))?;
        let source = BaseSource::open(path)?;
        let (vae_config, vae) = source.vae()?;
        let (unet_config, unet) = source.unet()?;
        config::check_latents(path, &vae_config, &unet_config)?;
        let scheduler = source.scheduler()?;
        let (text_config, text) = source.text_encoder()?;
        let text = fill(ClipText::new(&text_config, device)?, text, precision)?;
        Ok(Self {
            prompts: PromptEncoder::new(source.tokenizer()?, text, &text_config, device),
            vae: fill(Vae::new(&vae_config, device)?, vae, precision)?,
            vae_config,
            unet: fill(UNet::new(&unet_config, device)?, unet, precision)?,
            unet_config,
            scheduler,
            clip: None,
        })
    }

    /// Loads the CLIP that is to guide sampling, if one is.
    ///
    /// # Errors
    /// Its folder is not there, or not a CLIP's.
    pub fn guide_by(&mut self, guidance: Option<&ClipGuidanceConfig>) -> Result<()> {
        let device = self.unet.conv_in().weight.val().device();
        let clip = guidance.map(|guidance| ClipGuide::load(&guidance.clip, &device)).transpose();
        self.clip = clip.context("clip_guidance.clip")?;
        Ok(())
    }

    /// Latents as the UNet knows them, `[batch, channels, height / 8, width / 8]`, in 32 bits: the mean of the posterior of
    /// `pictures` `[batch, 3, height, width]` in \[-1, 1\], times the scaling factor.
    pub fn encode_pictures(&self, pictures: Tensor<4>) -> Tensor<4> {
        let (mean, _) = self.vae.encode(pictures.cast(self.vae.dtype()));
        mean.cast(DType::F32).mul_scalar(self.vae_config.scaling_factor)
    }

    /// Pictures, clamped to \[-1, 1\], of such latents.
    pub fn decode_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        let latents = latents.div_scalar(self.vae_config.scaling_factor);
        self.vae.decode(latents.cast(self.vae.dtype())).cast(DType::F32).clamp(-1.0, 1.0)
    }

    /// Pictures' sides must be a multiple of this: the VAE's factor times the UNet's.
    pub fn side_multiple(&self) -> usize {
        config::side_multiple(&self.vae_config, &self.unet_config)
    }
}
