//! How a restored picture was made, as JSON in the metadata of its file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use spire_core::picture_file::read_note;
use spire_model::restore::SamplingConfig;

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
    /// The factor by which the picture was enlarged first.
    pub upscale: f64,
    /// How it was sampled.
    pub sampling: SamplingConfig,
}

impl Provenance {
    /// Reads the provenance of a picture that this program wrote; `None` for any other file.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&read_note(path, KEYWORD)?).ok()
    }
}
