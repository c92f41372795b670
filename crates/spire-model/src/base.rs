//! A frozen text-to-image model in the Hugging Face folder layout: `unet/`, `vae/`, `text_encoder/`, `tokenizer/`,
//! `scheduler/`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::clip::{ClipText, ClipTextConfig};
use crate::scheduler::SchedulerConfig;
use crate::tokenizer::Tokenizer;
use crate::unet::{UNet, UNetConfig};
use crate::vae::{Vae, VaeConfig};

/// A text encoder with its tokenizer; what it once encoded it remembers.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    text_encoder: ClipText,
    context_length: usize,
    device: Device,
    /// Training repeats few restoration prompts and many captions; both are computed once.
    seen: Mutex<HashMap<String, Tensor<2>>>,
}

impl PromptEncoder {
    /// Joins the two; texts are cut or padded to the encoder's `max_position_embeddings`.
    pub fn new(tokenizer: Tokenizer, text_encoder: ClipText, config: &ClipTextConfig, device: &Device) -> Self {
        let context_length = config.max_position_embeddings;
        Self { tokenizer, text_encoder, context_length, device: device.clone(), seen: Mutex::default() }
    }

    /// From a folder with `tokenizer/` and `text_encoder/`.
    ///
    /// # Errors
    /// Unreadable, or weights that do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let encoder = folder.join("text_encoder");
        Ok(Self::new(
            Tokenizer::from_folder(folder.join("tokenizer"))?,
            ClipText::load(&encoder, device)?,
            &ClipTextConfig::read(&encoder)?,
            device,
        ))
    }

    /// Token ids, padded: `[prompts, context_length]`.
    pub fn tokenize<S: AsRef<str>>(&self, prompts: &[S]) -> Tensor<2, Int> {
        let ids: Vec<i64> = prompts
            .iter()
            .flat_map(|prompt| {
                self.tokenizer.encode_padded(prompt.as_ref(), self.context_length, self.tokenizer.pad_id())
            })
            .collect();
        Tensor::from_data(TensorData::new(ids, [prompts.len(), self.context_length]), &self.device)
    }

    /// What the UNet attends to: `[prompts, context_length, width]`.
    pub fn encode<S: AsRef<str>>(&self, prompts: &[S]) -> Tensor<3> {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let states = prompts.iter().map(AsRef::as_ref).map(|prompt: &str| {
            // One at a time: in a batch of another size a state may round differently, and a run that goes on from a
            // checkpoint must find the states of the run that wrote it.
            let encode = || self.text_encoder.forward(self.tokenize(&[prompt])).last_hidden_state.squeeze_dim(0);
            seen.entry(prompt.to_owned()).or_insert_with(encode).clone()
        });
        Tensor::stack(states.collect(), 0)
    }
}

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
}

impl Base {
    /// From a folder in the Hugging Face layout.
    ///
    /// # Errors
    /// A part is missing, unsupported, or its weights do not fit its configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        ensure!(folder.is_dir(), "there is no model folder {}", folder.display());
        let base = Self {
            prompts: PromptEncoder::load(folder, device)?,
            vae: Vae::load(&folder.join("vae"), device)?,
            vae_config: VaeConfig::read(&folder.join("vae"))?,
            unet: UNet::load(&folder.join("unet"), device)?,
            unet_config: UNetConfig::read(&folder.join("unet"))?,
            scheduler: SchedulerConfig::from_file(folder.join("scheduler")).context("the scheduler's settings")?,
        };
        ensure!(
            base.vae_config.latent_channels == base.unet_config.in_channels,
            "{}: the VAE has {} latent channels, the UNet takes {}",
            folder.display(),
            base.vae_config.latent_channels,
            base.unet_config.in_channels
        );
        Ok(base)
    }

    /// Latents as the UNet knows them, `[batch, 4, height / 8, width / 8]`: the mean of the posterior of `pictures`
    /// `[batch, 3, height, width]` in \[-1, 1\], times the scaling factor.
    pub fn encode_pictures(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.vae.encode(pictures).0.mul_scalar(self.vae_config.scaling_factor)
    }

    /// Pictures, clamped to \[-1, 1\], of such latents.
    pub fn decode_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        self.vae.decode(latents.div_scalar(self.vae_config.scaling_factor)).clamp(-1.0, 1.0)
    }

    /// Pictures' sides must be a multiple of this: the VAE's factor times the UNet's.
    pub fn side_multiple(&self) -> usize {
        self.vae_config.downscale() << (self.unet_config.block_out_channels.len() - 1)
    }
}
