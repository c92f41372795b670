//! A frozen model's configurations, read without allocating its weights.

use std::path::Path;

use anyhow::{Result, ensure};
use burn::tensor::Device;

use super::source::BaseSource;
use crate::clip::{ClipText, ClipTextConfig};
use crate::scheduler::SchedulerConfig;
use crate::unet::{UNet, UNetConfig};
use crate::vae::{Vae, VaeConfig};
use crate::weights::check_weights;

/// The configurations of a frozen model's parts.
#[derive(Clone, Debug)]
pub struct BaseConfig {
    /// The text encoder's configuration.
    pub text: ClipTextConfig,
    /// The VAE's configuration.
    pub vae: VaeConfig,
    /// The UNet's configuration.
    pub unet: UNetConfig,
    /// The noise schedule and the prediction type.
    pub scheduler: SchedulerConfig,
}

impl BaseConfig {
    /// Reads the model that [`locate`](super::locate) found, and checks its weights one tensor at a time.
    ///
    /// # Errors
    /// As [`Base::load`](super::Base::load).
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_variant(path, None)
    }

    /// As [`Self::read`], of a variant: see [`BaseSource::open_variant`].
    ///
    /// # Errors
    /// As [`Self::read`], or the model has no such variant.
    pub fn read_variant(path: &Path, variant: Option<&str>) -> Result<Self> {
        // No tensor is allocated on it.
        let device = &Device::flex();
        let source = BaseSource::open_variant(path, variant)?;
        let (vae, vae_weights) = source.vae()?;
        let (unet, unet_weights) = source.unet()?;
        check_latents(path, &vae, &unet)?;
        let scheduler = source.scheduler()?;
        let (text, text_weights) = source.text_encoder()?;
        source.tokenizer()?;
        check_weights(&ClipText::new(&text, device)?, &text_weights)?;
        check_weights(&Vae::new(&vae, device)?, &vae_weights)?;
        check_weights(&UNet::new(&unet, device)?, &unet_weights)?;
        Ok(Self { text, vae, unet, scheduler })
    }

    /// As [`Base::side_multiple`](super::Base::side_multiple).
    pub fn side_multiple(&self) -> usize {
        side_multiple(&self.vae, &self.unet)
    }
}

/// Checks that the UNet accepts the VAE's latents.
pub(super) fn check_latents(path: &Path, vae: &VaeConfig, unet: &UNetConfig) -> Result<()> {
    ensure!(
        vae.latent_channels == unet.in_channels,
        "{}: the VAE has {} latent channels, the UNet takes {}",
        path.display(),
        vae.latent_channels,
        unet.in_channels
    );
    Ok(())
}

/// The product of the VAE's and the UNet's downscaling factors.
pub(super) fn side_multiple(vae: &VaeConfig, unet: &UNetConfig) -> usize {
    vae.downscale() << (unet.block_out_channels.len() - 1)
}
