//! The cost of CLIP's text encoder.

use super::{Cost, Counter};
use crate::clip::ClipTextConfig;

/// One prompt, padded to the full context. The attention mask saves no operations.
pub fn text_encoder(config: &ClipTextConfig) -> Cost {
    let (tokens, width, inner) = (config.max_position_embeddings, config.hidden_size, config.intermediate_size);
    let mut counter = Counter::frozen();
    counter.parameters((config.vocab_size + tokens) * width);
    for _ in 0..config.num_hidden_layers {
        counter.layer_norm(tokens, width, false);
        counter.self_attention(tokens, width, config.num_attention_heads, [true, true], false);
        counter.layer_norm(tokens, width, false);
        counter.linear(tokens, width, inner, true, false);
        counter.linear(tokens, inner, width, true, false);
    }
    counter.layer_norm(tokens, width, false);
    if config.is_projected() {
        counter.linear(1, width, config.projection_dim, false, false);
    }
    counter.cost
}
