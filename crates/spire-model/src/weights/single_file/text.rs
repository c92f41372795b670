//! The text encoder of SD 1.x files: transformers' CLIP behind a prefix.

use anyhow::Result;

use super::count;
use crate::clip::ClipTextConfig;
use crate::weights::Tensors;

/// Width of a head, in all of CLIP's text towers.
pub const HEAD_WIDTH: usize = 64;

const MODEL: &str = "text_model.";

pub fn convert(tensors: &Tensors) -> Result<(ClipTextConfig, Tensors)> {
    // Some tools leave out the second prefix.
    let converted = tensors.renamed(|name| {
        let name = name.strip_prefix("transformer.")?;
        let known = name.starts_with(MODEL) || name.starts_with("text_projection.");
        Some(if known { name.to_owned() } else { format!("{MODEL}{name}") })
    });
    let [vocab_size, hidden_size] = converted.shape("text_model.embeddings.token_embedding.weight")?;
    let [max_position_embeddings, _] = converted.shape("text_model.embeddings.position_embedding.weight")?;
    let [intermediate_size, _] = converted.shape("text_model.encoder.layers.0.mlp.fc1.weight")?;
    let config = ClipTextConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers: count(&converted, "text_model.encoder.layers."),
        num_attention_heads: (hidden_size / HEAD_WIDTH).max(1),
        max_position_embeddings,
        ..ClipTextConfig::default()
    };
    Ok((config, converted))
}
