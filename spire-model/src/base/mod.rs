//! A frozen text-to-image model: the text encoder, the VAE, the UNet and the noise schedule.

mod config;
mod prior;
mod prompts;
mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::{DType, Device, Tensor};

pub use config::BaseConfig;
pub use prior::Prior;
pub use prompts::{LongPrompts, PromptEncoder};
pub use source::{BaseSource, checksum, checksum_of_parts, locate, locate_variant, unet_config};

pub use crate::locate::portable_name;

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
    /// Encodes pictures to latents and decodes them; `None` while it is not [held](Self::hold).
    pub vae: Option<Vae>,
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
    /// Where the weights come from, if they were loaded.
    pub origin: Option<Origin>,
}

/// Where a model was loaded from.
#[derive(Clone, Debug)]
pub struct Origin {
    path: PathBuf,
    variant: Option<String>,
    precision: Precision,
}

/// Which parts of a model are in memory besides the UNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The VAE.
    pub vae: bool,
    /// The text tower. Without it only prompts whose states are given or cached can be encoded.
    pub text: bool,
}

impl Parts {
    /// All of them.
    pub const ALL: Self = Self { vae: true, text: true };
}

/// Encodes `pictures` `[batch, 3, height, width]` in \[-1, 1\] to f32 latents `[batch, channels, height / 8, width / 8]`: the
/// posterior's mean times the scaling factor.
pub fn encode_pictures(vae: &Vae, config: &VaeConfig, pictures: Tensor<4>) -> Tensor<4> {
    let (mean, _) = vae.encode(pictures.cast(vae.dtype()));
    mean.cast(DType::F32).mul_scalar(config.scaling_factor)
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
        Self::load_parts(path, variant, precision, device, Parts::ALL)
    }

    /// As [`Self::load_variant`], with some of the parts only.
    ///
    /// # Errors
    /// As [`Self::load_variant`].
    pub fn load_parts(
        path: &Path,
        variant: Option<&str>,
        precision: Precision,
        device: &Device,
        parts: Parts,
    ) -> Result<Self> {
        ensure_computes_in(precision, device, &format!("precision {precision}"))?;
        let source = BaseSource::open_variant(path, variant)?;
        let (vae_config, _) = source.vae()?;
        let (unet_config, unet) = source.unet()?;
        config::check_latents(path, &vae_config, &unet_config)?;
        let scheduler = source.scheduler()?;
        let (text_config, _) = source.text_encoder()?;
        let mut base = Self {
            prompts: PromptEncoder::without_tower(source.tokenizer()?, &text_config, device),
            vae: None,
            vae_config,
            unet: fill(UNet::new(&unet_config, device)?, unet, precision)?,
            unet_config,
            scheduler,
            clip: None,
            origin: Some(Origin { path: path.to_owned(), variant: variant.map(str::to_owned), precision }),
        };
        base.hold(parts)?;
        Ok(base)
    }

    /// Where its parts are.
    pub fn device(&self) -> Device {
        self.unet.conv_in().weight.val().device()
    }

    /// Loads the parts that are wanted and not in memory, and frees those that are not wanted.
    ///
    /// # Errors
    /// As [`Self::load_variant`].
    pub fn hold(&mut self, parts: Parts) -> Result<()> {
        let device = self.device();
        let source = |origin: &Option<Origin>| {
            let origin = origin.as_ref().context("a part of this model is not loaded, and it has no files")?;
            let source = BaseSource::open_variant(&origin.path, origin.variant.as_deref())?;
            anyhow::Ok((source, origin.precision))
        };
        match (parts.vae, self.vae.is_some()) {
            (true, false) => {
                let (source, precision) = source(&self.origin)?;
                let (config, weights) = source.vae()?;
                self.vae = Some(fill(Vae::new(&config, &device)?, weights, precision)?);
            }
            (false, true) => self.vae = None,
            _ => {}
        }
        match (parts.text, self.prompts.has_tower()) {
            (true, false) => {
                let (source, precision) = source(&self.origin)?;
                let (config, weights) = source.text_encoder()?;
                self.prompts.set_tower(Some(fill(ClipText::new(&config, &device)?, weights, precision)?));
            }
            (false, true) => self.prompts.set_tower(None),
            _ => {}
        }
        Ok(())
    }

    fn held_vae(&self) -> &Vae {
        self.vae.as_ref().expect("who encodes or decodes pictures holds the VAE")
    }

    /// Loads the CLIP of `guidance`, or unloads it for `None`.
    ///
    /// # Errors
    /// The folder is missing or does not hold a CLIP.
    pub fn guide_by(&mut self, guidance: Option<&ClipGuidanceConfig>) -> Result<()> {
        let device = self.device();
        let clip = guidance.map(|guidance| ClipGuide::load(&guidance.clip, &device)).transpose();
        self.clip = clip.context("clip_guidance.clip")?;
        Ok(())
    }

    /// As [`encode_pictures`] with this model's VAE.
    ///
    /// # Panics
    /// If the VAE is not held.
    pub fn encode_pictures(&self, pictures: Tensor<4>) -> Tensor<4> {
        encode_pictures(self.held_vae(), &self.vae_config, pictures)
    }

    /// Decodes such latents to pictures `[batch, 3, height, width]`, clamped to \[-1, 1\].
    ///
    /// # Panics
    /// If the VAE is not held.
    pub fn decode_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decode_unclamped(latents).clamp(-1.0, 1.0)
    }

    /// As [`Self::decode_latents`], without the clamp, which turns infinity into white or black.
    pub(crate) fn decode_unclamped(&self, latents: Tensor<4>) -> Tensor<4> {
        let latents = latents.div_scalar(self.vae_config.scaling_factor);
        let vae = self.held_vae();
        vae.decode(latents.cast(vae.dtype())).cast(DType::F32)
    }

    /// The side of the pictures for which the UNet was trained, in pixels.
    pub fn trained_side(&self) -> usize {
        self.unet_config.sample_size.unwrap_or(64) * self.vae_config.downscale()
    }

    /// The sides of pictures must be multiples of this: the product of the VAE's and the UNet's downscaling factors.
    pub fn side_multiple(&self) -> usize {
        config::side_multiple(&self.vae_config, &self.unet_config)
    }
}
