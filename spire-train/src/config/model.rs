//! `[model]`: the frozen model, and the control branch that is trained.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use spire_model::base::{Base, LongPrompts, Parts};
use spire_model::control::{Conditioning, ControlConfig};
use spire_model::decoupling::PromptRouting;
use spire_model::device::ensure_computes_in;
use spire_model::fusion::Fusion;
use spire_model::unet::UNetConfig;
use spire_model::weights::Precision;

/// `[model]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// The frozen text-to-image model: a folder in the Hugging Face layout, a single `.safetensors` or `.ckpt` file, or
    /// a name on the Hugging Face Hub, `owner/name`.
    pub base: PathBuf,
    /// Variant of the frozen model's weights, such as `fp16` for `diffusion_pytorch_model.fp16.safetensors`; by default
    /// the weights without one.
    pub variant: Option<String>,
    /// Float type of the frozen model: `f32`, `bf16` or `f16`.
    pub precision: Precision,
    /// Float type in which the control branch computes: `f32` or `bf16`. Its weights are float32 in any case.
    pub control_precision: Precision,
    /// Memory for cached text encoder states, in MB; the least recently used are dropped.
    pub text_cache_megabytes: usize,
    /// Memory for cached latents of clean pictures, in MB, on the device; the first that fit are kept. Nothing is kept if
    /// pictures are cut anew each time, or if `data.encoded` has the latents.
    pub latent_cache_megabytes: usize,
    /// Prompts with more tokens than the text encoder reads: `truncate`, or `chunk` to encode them in pieces.
    pub long_prompts: LongPrompts,
    /// Folder of CLIP's image tower, for the Fréchet distance; by default `image_encoder` in the base folder.
    pub image_encoder: Option<PathBuf>,
    /// Initial control branch, a folder or a name on the Hugging Face Hub; by default a copy of the UNet's encoder.
    pub control: Option<PathBuf>,
    /// Fusion of a new branch: `modulate_skip` (the default), `modulate_skip_and_up` or `add`. A branch from `control`
    /// has its own, as for the next four keys.
    pub fusion: Option<Fusion>,
    /// How e(y) enters a new branch: `concat` to the noisy latent, or `add` after `conv_in`; by default `add` with
    /// `fusion = "add"`, which is ControlNet, else `concat`.
    pub conditioning: Option<Conditioning>,
    /// Which prompts the UNet and the branch attend to: `decoupled` (the default), `joined` or `semantic`.
    pub prompts: Option<PromptRouting>,
    /// Channels of e(y)'s convolutions at full size, 1/2, 1/4 and 1/8. By default those of
    /// `default_embedding_channels`; the run folder's configuration has them.
    pub embedding_channels: Option<Vec<usize>>,
    /// Folder with initial weights of e(y) (`spire pretrain --stage embedding`); by default random ones.
    pub embedding: Option<PathBuf>,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            base: "assets/tiny".into(),
            variant: None,
            precision: Precision::default(),
            control_precision: Precision::default(),
            text_cache_megabytes: 1000,
            latent_cache_megabytes: 1000,
            long_prompts: LongPrompts::default(),
            image_encoder: None,
            control: None,
            fusion: None,
            conditioning: None,
            prompts: None,
            embedding_channels: None,
            embedding: None,
        }
    }
}

/// Channels of e(y)'s convolutions in ControlNet.
const CONTROLNET_EMBEDDING_CHANNELS: [usize; 4] = [16, 32, 96, 256];

/// Channels of e(y)'s convolutions in a new branch for `unet`, if they are not set: ControlNet's, or for a UNet whose first
/// block is narrower than their last one an eighth, a quarter, a half and all of its width.
pub(crate) fn default_embedding_channels(unet: &UNetConfig) -> Vec<usize> {
    let width = unet.block_out_channels.first().copied().unwrap_or(0);
    if width >= CONTROLNET_EMBEDDING_CHANNELS[3] {
        return CONTROLNET_EMBEDDING_CHANNELS.to_vec();
    }
    [8, 4, 2, 1].map(|part| (width / part).max(1)).to_vec()
}

impl ModelSection {
    /// The folder of CLIP's image tower, if it exists.
    pub(crate) fn image_encoder(&self) -> Option<PathBuf> {
        let folder = self.image_encoder.clone().unwrap_or_else(|| self.base.join("image_encoder"));
        folder.is_dir().then_some(folder)
    }

    /// Loads the frozen model.
    ///
    /// # Errors
    /// As [`Base::load_variant`].
    pub(crate) fn load_base(&self, device: &Device) -> Result<Base> {
        self.load_parts(device, Parts::ALL)
    }

    /// Loads some parts of the frozen model.
    ///
    /// # Errors
    /// As [`Base::load_variant`].
    pub(crate) fn load_parts(&self, device: &Device, parts: Parts) -> Result<Base> {
        let mut base = Base::load_parts(&self.base, self.variant.as_deref(), self.precision, device, parts)?;
        base.prompts.set_long_prompts(self.long_prompts);
        Ok(base)
    }

    /// The configuration of a new branch for this UNet.
    pub(crate) fn control_config(&self, unet: &UNetConfig) -> ControlConfig {
        let fusion = self.fusion.unwrap_or_default();
        let conditioning = self.conditioning.unwrap_or_else(|| Conditioning::with(fusion));
        let new = ControlConfig::with_conditioning(unet, fusion, conditioning, self.embedding_channels());
        ControlConfig { prompts: self.prompts.unwrap_or_default(), ..new }
    }

    /// Channels of e(y)'s convolutions in a new branch. A run folder without the key is of an earlier version, which had one
    /// default for all models.
    pub(crate) fn embedding_channels(&self) -> Vec<usize> {
        self.embedding_channels.clone().unwrap_or_else(|| CONTROLNET_EMBEDDING_CHANNELS.to_vec())
    }

    /// Checks that no key of a new branch is set beside an initial branch, which would not follow it.
    ///
    /// # Errors
    /// One is; the error names it.
    pub(super) fn check_contradictions(&self) -> Result<()> {
        let Some(control) = &self.control else { return Ok(()) };
        for (key, is_set) in [
            ("fusion", self.fusion.is_some()),
            ("conditioning", self.conditioning.is_some()),
            ("prompts", self.prompts.is_some()),
            ("embedding_channels", self.embedding_channels.is_some()),
            ("embedding", self.embedding.is_some()),
        ] {
            ensure!(
                !is_set,
                "model.{key} is for a new branch, but model.control = \"{}\" is a branch with its own: remove one of the two",
                control.display()
            );
        }
        Ok(())
    }

    /// Checks that `device` supports both float types.
    ///
    /// # Errors
    /// It does not; the error names the key.
    pub(crate) fn check_precision(&self, device: &Device) -> Result<()> {
        for (key, precision) in
            [("model.precision", self.precision), ("model.control_precision", self.control_precision)]
        {
            ensure_computes_in(precision, device, &format!("{key} = \"{precision}\""))?;
        }
        Ok(())
    }

    /// Memory for cached text encoder states, in bytes.
    pub(crate) fn text_cache_bytes(&self) -> usize {
        self.text_cache_megabytes.saturating_mul(1_000_000)
    }

    /// Memory for cached latents, in bytes.
    pub(super) fn latent_cache_bytes(&self) -> usize {
        self.latent_cache_megabytes.saturating_mul(1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

    #[test]
    fn the_channels_of_the_embedding_follow_the_unet() {
        let channels = |widths: &[usize]| {
            let unet = UNetConfig { block_out_channels: widths.to_vec(), ..UNetConfig::default() };
            default_embedding_channels(&unet)
        };
        assert_eq!(channels(&[320, 640, 1280, 1280]), [16, 32, 96, 256]);
        assert_eq!(channels(&[64, 96]), [8, 16, 32, 64]);
        assert_eq!(channels(&[4]), [1, 1, 2, 4]);
    }

    #[test]
    fn keys_of_a_new_branch_contradict_an_initial_branch() {
        let checked = |change: fn(&mut ModelSection)| {
            let mut config = RunConfig::default();
            config.model.control = Some("branch".into());
            change(&mut config.model);
            config.validate().map_err(|error| error.to_string())
        };
        assert_eq!(checked(|_| ()), Ok(()));
        for (key, change) in [
            ("model.fusion", (|model| model.fusion = Some(Fusion::ModulateSkip)) as fn(&mut ModelSection)),
            ("model.conditioning", |model| model.conditioning = Some(Conditioning::Add)),
            ("model.prompts", |model| model.prompts = Some(PromptRouting::Joined)),
            ("model.embedding_channels", |model| model.embedding_channels = Some(vec![8, 16])),
            ("model.embedding", |model| model.embedding = Some("weights".into())),
        ] {
            let message = checked(change).unwrap_err();
            assert!(message.starts_with(&format!("{key} is")) && message.contains("\"branch\""), "{message}");
        }
    }
}
