//! A frozen text-to-image model: the text encoder, the VAE, the UNet and the noise schedule.

mod config;
mod prior;
mod prompts;
mod source;

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device, Tensor};

pub use config::BaseConfig;
pub use prior::Prior;
pub use prompts::{LongPrompts, PromptEncoder};
pub use source::{BaseSource, checksum, locate, locate_variant};

use crate::clip::{ClipGuidanceConfig, ClipGuide, ClipText};
use crate::device::ensure_computes_in;
use crate::scheduler::SchedulerConfig;
use crate::unet::{UNet, UNetConfig};
use crate::vae::{Vae, VaeConfig};
use crate::weights::{Precision, fill};

/// The frozen model.
#[derive(Debug)]
pub struct Base {
    /// Encodes prompts.
    pub prompts: PromptEncoder,
    /// Encodes pictures to latents and decodes them.
    pub vae: Vae,
    /// The VAE's configuration.
    pub vae_config: VaeConfig,
    /// The denoiser.
    pub unet: UNet,
    /// The denoiser's configuration.
    pub unet_config: UNetConfig,
    /// The noise schedule and the model's default sampler.
    pub scheduler: SchedulerConfig,
    /// The CLIP for `clip_guidance`, if it is loaded.
    pub clip: Option<ClipGuide>,
}

impl Base {
    /// Loads a folder in the Hugging Face layout or a single file, with all weights in `precision`.
    ///
    /// # Errors
    /// A part is missing or not supported, its weights do not fit its configuration, or the device does not compute in
    /// `precision`.
    pub fn load(path: &Path, precision: Precision, device: &Device) -> Result<Self> {
        Self::load_variant(path, None, precision, device)
    }

    /// As [`Self::load`], with the weights of a variant: see [`BaseSource::open_variant`].
    ///
    /// # Errors
    /// As [`Self::load`], or the model has no such variant.
    pub fn load_variant(path: &Path, variant: Option<&str>, precision: Precision, device: &Device) -> Result<Self> {
        ensure_computes_in(precision, device, &format!("precision {precision}"))?;
        let source = BaseSource::open_variant(path, variant)?;
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

    /// Loads the CLIP of `guidance`, or unloads it for `None`.
    ///
    /// # Errors
    /// The folder is missing or does not hold a CLIP.
    pub fn guide_by(&mut self, guidance: Option<&ClipGuidanceConfig>) -> Result<()> {
        let device = self.unet.conv_in().weight.val().device();
        let clip = guidance.map(|guidance| ClipGuide::load(&guidance.clip, &device)).transpose();
        self.clip = clip.context("clip_guidance.clip")?;
        Ok(())
    }

    /// Encodes `pictures` `[batch, 3, height, width]` in \[-1, 1\] to f32 latents `[batch, channels, height / 8, width
    /// / 8]`: the posterior's mean times the scaling factor.
    pub fn encode_pictures(&self, pictures: Tensor<4>) -> Tensor<4> {
        let (mean, _) = self.vae.encode(pictures.cast(self.vae.dtype()));
        mean.cast(DType::F32).mul_scalar(self.vae_config.scaling_factor)
    }

    /// Decodes such latents to pictures `[batch, 3, height, width]`, clamped to \[-1, 1\].
    pub fn decode_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decode_unclamped(latents).clamp(-1.0, 1.0)
    }

    /// As [`Self::decode_latents`], without the clamp, which turns infinity into white or black.
    pub(crate) fn decode_unclamped(&self, latents: Tensor<4>) -> Tensor<4> {
        let latents = latents.div_scalar(self.vae_config.scaling_factor);
        self.vae.decode(latents.cast(self.vae.dtype())).cast(DType::F32)
    }

    /// The sides of pictures must be multiples of this: the product of the VAE's and the UNet's downscaling factors.
    pub fn side_multiple(&self) -> usize {
        config::side_multiple(&self.vae_config, &self.unet_config)
    }
}
