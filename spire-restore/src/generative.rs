//! Restoring picture files with a model of other authors that generates: DiffBIR or StableSR.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use spire_data::source::caption_of;
use spire_model::Task;
use spire_model::generative::{GenerativeKind, GenerativeModel, GenerativeSettings};
use spire_model::weights::checksum;

use crate::files::{MOST_PIXELS, RestoredFile, Semantic};
use crate::made_once::restore_once;

/// A model that is ready to restore.
#[derive(Debug)]
pub struct GenerativeRestorer {
    model: GenerativeModel,
    kind: GenerativeKind,
    settings: GenerativeSettings,
    /// SHA-256 of each checkpoint, by the file's published name.
    pub checkpoints: BTreeMap<String, String>,
    clip_sha256: Option<String>,
}

/// How to restore a file.
#[derive(Clone, Debug)]
pub struct GenerativeTask {
    /// The prompt that says what the picture shows.
    pub semantic: Semantic,
    /// The seed of the noise.
    pub seed: u64,
    /// The factor by which the picture is enlarged, at least 1.
    pub upscale: f64,
    /// Restore again even if the result exists with the same provenance.
    pub overwrite: bool,
}

/// Everything that a picture depends on that such a model restored: the JSON in its file.
#[derive(Debug, Serialize)]
struct GenerativeProvenance<'a> {
    program: &'static str,
    model: GenerativeKind,
    checkpoints: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clip_sha256: Option<&'a str>,
    settings: &'a GenerativeSettings,
    input_sha256: String,
    semantic: String,
    seed: u64,
    upscale: f64,
}

impl GenerativeRestorer {
    /// SHA-256 of each checkpoint in `folder`, by the file's published name.
    ///
    /// # Errors
    /// A file is missing, and the error says where it is published; or it can't be read.
    pub fn checksums(kind: GenerativeKind, folder: &Path) -> Result<BTreeMap<String, String>> {
        let files = kind.files_in(folder)?;
        let sum = |path: &Path| checksum::of_file(path).with_context(|| format!("can't read {}", path.display()));
        let named = kind.checkpoints().into_iter().zip(files);
        named.map(|(checkpoint, path)| Ok((checkpoint.file.to_owned(), sum(&path)?))).collect()
    }

    /// Loads the published checkpoints in `folder`.
    ///
    /// # Errors
    /// The device is unknown, or a checkpoint is missing or not what it should be.
    pub fn load(kind: GenerativeKind, folder: &Path, settings: GenerativeSettings, device: &str) -> Result<Self> {
        let device = spire_model::device::device(device)?;
        let checkpoints = Self::checksums(kind, folder)?;
        let model = GenerativeModel::load(kind, folder, &device)?;
        Self { model, kind, settings: settings.clone(), checkpoints, clip_sha256: None }.configured(settings)
    }

    /// This model with other settings. Loads the CLIP that they name.
    ///
    /// # Errors
    /// The CLIP is missing or can't be read.
    pub fn configured(mut self, settings: GenerativeSettings) -> Result<Self> {
        let guidance = settings.clip_guidance();
        self.model.guide_by(guidance)?;
        let parts = ["", "image_encoder", "text_encoder", "tokenizer"];
        self.clip_sha256 = guidance.map(|guidance| checksum::checksum(&guidance.clip, &parts)).transpose()?;
        self.settings = settings;
        Ok(self)
    }

    /// Restores `input` to `output`, a picture in the format of its name. A result that exists with the same provenance is kept.
    ///
    /// # Errors
    /// The picture can't be read or restored, has no caption where captions are read, or the file can't be written.
    pub fn restore_file(&self, task: &GenerativeTask, input: &Path, output: &Path) -> Result<RestoredFile> {
        let GenerativeTask { seed, upscale, overwrite, .. } = *task;
        ensure!(upscale.is_finite() && upscale >= 1.0, "upscale must be at least 1");
        let semantic = match &task.semantic {
            Semantic::Text(text) => text.clone(),
            Semantic::Captions => caption_of(input)?,
            Semantic::Model(endpoint) => endpoint.caption(input)?,
        };
        let provenance = |input_sha256: String| GenerativeProvenance {
            program: concat!("spire ", env!("CARGO_PKG_VERSION")),
            model: self.kind,
            checkpoints: &self.checkpoints,
            clip_sha256: self.clip_sha256.as_deref(),
            settings: &self.settings,
            input_sha256,
            semantic: semantic.clone(),
            seed,
            upscale,
        };
        restore_once(input, output, overwrite, provenance, |degraded| {
            let side = |side: usize| (side as f64 * upscale).round();
            let (width, height) = (side(degraded.width), side(degraded.height));
            ensure!(width * height > 0.0, "a picture without pixels can't be restored");
            ensure!(width * height <= MOST_PIXELS, "{width} by {height} pixels are more than can be restored");
            let size = (width as usize, height as usize);
            self.model.restore(Task { degraded, size, semantic: &semantic, seed }, &self.settings)
        })
    }
}
