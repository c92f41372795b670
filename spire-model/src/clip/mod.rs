//! CLIP: the text encoder that conditions the diffusion model, and the image encoder for training and evaluation.

mod encoder;
mod folder;
mod guide;
mod preprocessor;
pub(crate) mod text;
mod vision;

pub use encoder::HiddenAct;
pub use folder::ClipFolder;
pub use guide::{ClipGuidanceConfig, ClipGuide};
pub use preprocessor::PreprocessorConfig;
pub use text::{ClipText, ClipTextConfig, ClipTextOutput};
pub use vision::{ClipVision, ClipVisionConfig};

/// Reads `null`, which transformers writes for an absent list, as an empty list.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(<Option<Vec<String>> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}
