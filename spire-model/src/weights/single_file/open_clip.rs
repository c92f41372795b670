//! The text encoder of SD 2.x files: OpenCLIP's, without its unused last layer.

use anyhow::{Context, Result, ensure};

use super::text::HEAD_WIDTH;
use super::{count, replace_prefix};
use crate::clip::{ClipTextConfig, HiddenAct};
use crate::weights::Tensors;
use crate::weights::tensors::rows;

/// Its prefix within the part.
pub const PREFIX: &str = "model.";

const LAYERS: &str = "transformer.resblocks.";

/// Queries, keys and values, in the order of OpenCLIP's stacked rows.
const PROJECTIONS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

pub fn convert(tensors: &Tensors) -> Result<(ClipTextConfig, Tensors)> {
    let open_clip = tensors.renamed(|name| name.strip_prefix(PREFIX).map(Into::into));
    let [vocab_size, hidden_size] = open_clip.shape("token_embedding.weight")?;
    let [max_position_embeddings, _] = open_clip.shape("positional_embedding")?;
    let [intermediate_size, _] = open_clip.shape(&format!("{LAYERS}0.mlp.c_fc.weight"))?;
    // SD 2.x is conditioned on the penultimate layer, followed by the final normalisation.
    let layers = count(&open_clip, LAYERS).saturating_sub(1);
    ensure!(layers > 0, "the text encoder has no layers");
    let config = ClipTextConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers: layers,
        num_attention_heads: (hidden_size / HEAD_WIDTH).max(1),
        max_position_embeddings,
        hidden_act: HiddenAct::Gelu,
        ..ClipTextConfig::default()
    };

    let mut converted = open_clip.renamed(|name| match name.strip_prefix(LAYERS) {
        Some(rest) => {
            let (layer, rest) = rest.split_once('.')?;
            let used = layer.parse::<usize>().ok()? < layers && !rest.starts_with("attn.in_proj_");
            used.then(|| format!("text_model.encoder.layers.{layer}.{}", layer_name(rest)))
        }
        None => match name {
            "token_embedding.weight" => Some("text_model.embeddings.token_embedding.weight".into()),
            "positional_embedding" => Some("text_model.embeddings.position_embedding.weight".into()),
            // The projection, the temperature and the mask are not used for conditioning.
            "text_projection" | "logit_scale" | "attn_mask" => None,
            _ => Some(replace_prefix(name, &[("ln_final.", "text_model.final_layer_norm.")])),
        },
    });
    for layer in 0..layers {
        for kind in ["weight", "bias"] {
            let name = format!("{LAYERS}{layer}.attn.in_proj_{kind}");
            let stacked = open_clip.get(&name).with_context(|| format!("there is no tensor {name}"))?;
            ensure!(
                stacked.shape.to_vec().first() == Some(&(3 * hidden_size)),
                "{name} has the shape {:?}, where {} rows are expected",
                stacked.shape.to_vec(),
                3 * hidden_size
            );
            for (i, projection) in PROJECTIONS.iter().enumerate() {
                let name = format!("text_model.encoder.layers.{layer}.self_attn.{projection}.{kind}");
                converted.insert(rows(stacked, i * hidden_size..(i + 1) * hidden_size, name));
            }
        }
    }
    Ok((config, converted))
}

fn layer_name(name: &str) -> String {
    replace_prefix(
        name,
        &[
            ("ln_1.", "layer_norm1."),
            ("ln_2.", "layer_norm2."),
            ("attn.out_proj.", "self_attn.out_proj."),
            ("mlp.c_fc.", "mlp.fc1."),
            ("mlp.c_proj.", "mlp.fc2."),
        ],
    )
}
