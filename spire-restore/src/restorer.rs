//! A loaded model that restores pictures.

use std::fs;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result};
use spire_core::Picture;
use spire_core::atomic_write::write_atomic;
use spire_data::degrade::ParameterizedConfig;
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::restore::{ClipGuidanceConfig, SamplingConfig};
use spire_model::weights::checksum::checksum;

use crate::provenance::{ModelIdentity, Provenance};

/// A model that is ready to restore.
#[derive(Debug)]
pub struct Restorer {
    /// The frozen text-to-image model.
    pub base: Base,
    /// The trained control branch.
    pub control: Control,
    /// Where the model comes from, for the provenance.
    pub run: String,
    /// The ranges of the degradations on which the branch was trained.
    pub trained: ParameterizedConfig,
    /// Weights and precision, for the provenance.
    pub identity: ModelIdentity,
}

impl Restorer {
    /// Loads the CLIP of `guidance`, or unloads it for `None`.
    ///
    /// # Errors
    /// The folder is missing or does not hold a CLIP.
    pub fn guide_by(&mut self, guidance: Option<&ClipGuidanceConfig>) -> Result<()> {
        self.base.guide_by(guidance)?;
        let parts = ["", "image_encoder", "text_encoder", "tokenizer"];
        self.identity.clip_sha256 = guidance.map(|guidance| checksum(&guidance.clip, &parts)).transpose()?;
        Ok(())
    }

    /// Warns of a picture that is much smaller than those on which the model was trained. Once in a process: a folder may hold
    /// many of them.
    pub fn warn_of_small(&self, degraded: &Picture, input: &Path) {
        static WARNED: Once = Once::new();
        let (side, shorter) = (self.base.trained_side(), degraded.width.min(degraded.height));
        if 4 * shorter < 3 * side {
            WARNED.call_once(|| {
                tracing::warn!(
                    "{} has {}×{} pixels, and the model was trained on {side}×{side}: it distorts objects that are smaller than \
                     it knows them; spire restore --upscale {} enlarges the picture first (in an evaluation: upscale)",
                    input.display(),
                    degraded.width,
                    degraded.height,
                    side.div_ceil(shorter)
                );
            });
        }
    }

    /// The provenance of a picture that this model restores.
    pub fn provenance(
        &self,
        input_sha256: &str,
        semantic: &str,
        restoration: &str,
        seed: u64,
        upscale: f64,
        sampling: &SamplingConfig,
    ) -> Provenance {
        Provenance {
            program: concat!("spire ", env!("CARGO_PKG_VERSION")).to_owned(),
            run: self.run.clone(),
            input_sha256: input_sha256.to_owned(),
            semantic: semantic.to_owned(),
            restoration: restoration.to_owned(),
            seed,
            latents_sha256: None,
            upscale,
            sampling: sampling.clone(),
            model: self.identity.clone(),
        }
    }
}

/// Writes a file, and creates its folder if needed.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    create_folder_of(path)?;
    Ok(write_atomic(path, bytes)?)
}

/// Creates the folder of a file if needed.
pub(crate) fn create_folder_of(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))
}
