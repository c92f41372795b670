//! The text encoder of SD 1.x files: transformers' CLIP behind a prefix.

use anyhow::Result;

use super::count;
use crate::clip::ClipTextConfig;
use crate::clip::text::with_full_names;
use crate::weights::Tensors;

/// Width of a head in all CLIP text encoders.
pub const HEAD_WIDTH: usize = 64;

pub fn convert(tensors: &Tensors) -> Result<(ClipTextConfig, Tensors)> {
    let converted = with_full_names(&tensors.renamed(|name| name.strip_prefix("transformer.").map(Into::into)));
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
