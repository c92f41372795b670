//! CLIP: a text tower that conditions the diffusion model, and an image tower for training and evaluation.

mod encoder;
pub(crate) mod text;
mod vision;

pub use encoder::HiddenAct;
pub use text::{ClipText, ClipTextConfig, ClipTextOutput};
pub use vision::{ClipVision, ClipVisionConfig};
