//! How a restored picture was made, as JSON in the metadata of its file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use spire_core::picture_file::read_note;
use spire_model::restore::SamplingConfig;
use spire_model::weights::Precision;

/// The keyword of the note in the file.
pub const KEYWORD: &str = "spire";

/// Everything that a restored picture depends on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Provenance {
    /// `spire` and its version.
    pub program: String,
    /// The run whose model was used.
    pub run: String,
    /// SHA-256 of the degraded picture's file.
    pub input_sha256: String,
    /// The semantic prompt.
    pub semantic: String,
    /// The restoration prompt.
    pub restoration: String,
    /// The seed of the initial noise.
    pub seed: u64,
    /// SHA-256 of the file with the initial noise, if it was not drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents_sha256: Option<String>,
    /// The factor by which the picture was enlarged first.
    pub upscale: f64,
    /// How it was sampled.
    pub sampling: SamplingConfig,
    /// Weights and precision of the model.
    pub model: ModelIdentity,
}

/// What makes two models compute the same, wherever their files are.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ModelIdentity {
    /// SHA-256 over the files of the text-to-image model.
    pub base_sha256: String,
    /// SHA-256 over the files of the control branch.
    pub control_sha256: String,
    /// SHA-256 over the files of the CLIP of `clip_guidance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_sha256: Option<String>,
    /// Float type in which the text-to-image model computed.
    pub precision: Precision,
    /// Float type in which the branch computed.
    pub control_precision: Precision,
}

impl Provenance {
    /// Reads the provenance of a picture that this program wrote; `None` for any other file.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&read_note(path, KEYWORD)?).ok()
    }
}
