//! A text-to-image model for methods that bring their own noise schedule.

use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;

use super::{BaseSource, PromptEncoder};
use crate::clip::ClipText;
use crate::unet::UNet;
use crate::vae::Vae;
use crate::weights::{Precision, fill};

/// The networks of a text-to-image model, in float32.
#[derive(Debug)]
pub struct Prior {
    /// Encodes prompts.
    pub prompts: PromptEncoder,
    /// Encodes pictures to latents and decodes them.
    pub vae: Vae,
    /// Factor of its latents.
    pub scaling_factor: f64,
    /// The denoiser.
    pub unet: UNet,
}

impl Prior {
    /// Loads a folder in the Hugging Face layout or a single file.
    ///
    /// # Errors
    /// A part is missing or not supported, or its weights do not fit its configuration.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let source = BaseSource::open(path)?;
        let (vae_config, vae) = source.vae()?;
        let (unet_config, unet) = source.unet()?;
        super::config::check_latents(path, &vae_config, &unet_config)?;
        let (text_config, text) = source.text_encoder()?;
        let text = fill(ClipText::new(&text_config, device)?, text, Precision::F32)?;
        Ok(Self {
            prompts: PromptEncoder::new(source.tokenizer()?, text, &text_config, device),
            vae: fill(Vae::new(&vae_config, device)?, vae, Precision::F32)?,
            scaling_factor: vae_config.scaling_factor,
            unet: fill(UNet::new(&unet_config, device)?, unet, Precision::F32)?,
        })
    }
}
