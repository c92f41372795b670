//! CLIP's text encoder: transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use super::encoder::{Encoder, EncoderConfig, HiddenAct};
use super::null_is_empty;
use crate::bounds::{MOST_CHANNELS, check_at_most};
use crate::nn::attention::causal_mask;
use crate::weights::{self, Precision, Tensors};

/// The most words of a vocabulary. CLIP's has 49408.
const MOST_WORDS: usize = 1 << 22;

/// transformers' `CLIPTextConfig`, with its defaults: ViT-B/32's.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Width of the token states.
    pub hidden_size: usize,
    /// Width inside the feed-forward networks.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Maximum number of tokens.
    pub max_position_embeddings: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: HiddenAct,
    /// Epsilon of the normalisation layers.
    pub layer_norm_eps: f64,
    /// Width of the joint embedding.
    pub projection_dim: usize,
    /// The end token; its output represents the whole text.
    pub eos_token_id: i64,
    /// `["CLIPTextModelWithProjection"]` if there is a projection.
    #[serde(deserialize_with = "null_is_empty")]
    pub architectures: Vec<String>,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: HiddenAct::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            eos_token_id: 49407,
            architectures: vec!["CLIPTextModel".into()],
        }
    }
}

impl ClipTextConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// The file is unreadable, or its settings contradict each other.
    pub fn read(folder: &Path) -> Result<Self> {
        let config: Self = weights::read_config(folder, "config.json")?;
        config.check().with_context(|| folder.join("config.json").display().to_string())?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        ensure!(self.max_position_embeddings > 0, "\"max_position_embeddings\" is 0");
        ensure!(self.vocab_size > 0, "\"vocab_size\" is 0");
        check_at_most("vocab_size", [self.vocab_size], MOST_WORDS)?;
        check_at_most("max_position_embeddings", [self.max_position_embeddings], MOST_CHANNELS)?;
        check_at_most("projection_dim", [self.projection_dim], MOST_CHANNELS)?;
        self.encoder().check()
    }

    /// Whether there is a projection.
    pub(crate) fn is_projected(&self) -> bool {
        self.architectures.iter().any(|name| name.ends_with("WithProjection"))
    }

    fn encoder(&self) -> EncoderConfig {
        EncoderConfig {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            layers: self.num_hidden_layers,
            epsilon: self.layer_norm_eps,
            act: self.hidden_act,
        }
    }
}

/// The weights in a text encoder's folder. Since version 5, transformers omits the first part of the names if there is
/// no projection.
///
/// # Errors
/// As [`Tensors::in_folder`].
pub fn tensors_in_folder(folder: &Path) -> Result<Tensors> {
    Ok(with_full_names(&Tensors::in_folder(folder)?))
}

/// Adds `text_model.` to every name of the encoder.
pub(crate) fn with_full_names(tensors: &Tensors) -> Tensors {
    let full = |name: &str| ["text_model.", "text_projection."].iter().any(|prefix| name.starts_with(prefix));
    tensors.renamed(|name| Some(if full(name) { name.to_owned() } else { format!("text_model.{name}") }))
}

/// The output of the text encoder.
#[derive(Clone, Debug)]
pub struct ClipTextOutput {
    /// `[batch, length, hidden_size]`, after the final normalisation; SD 1.x is conditioned on it.
    pub last_hidden_state: Tensor<3>,
    /// `[batch, length, hidden_size]` before the last layer, not normalised.
    pub penultimate_hidden_state: Tensor<3>,
    /// `[batch, projection_dim]`, not normalised; `None` without a projection.
    pub text_embeds: Option<Tensor<2>>,
}

#[derive(Module, Debug)]
struct TextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

#[derive(Module, Debug)]
struct TextModel {
    embeddings: TextEmbeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
}

/// The text encoder.
#[derive(Module, Debug)]
pub struct ClipText {
    text_model: TextModel,
    text_projection: Option<Linear>,
    eos_token_id: i64,
}

impl ClipText {
    /// Random weights.
    ///
    /// # Errors
    /// The configuration's settings contradict each other.
    pub fn new(config: &ClipTextConfig, device: &Device) -> Result<Self> {
        config.check()?;
        let width = config.hidden_size;
        let embedding = |count, std| {
            EmbeddingConfig::new(count, width).with_initializer(Initializer::Normal { mean: 0.0, std }).init(device)
        };
        Ok(Self {
            text_model: TextModel {
                embeddings: TextEmbeddings {
                    token_embedding: embedding(config.vocab_size, 0.02),
                    position_embedding: embedding(config.max_position_embeddings, 0.01),
                },
                encoder: Encoder::new(config.encoder(), device),
                final_layer_norm: LayerNormConfig::new(width).with_epsilon(config.layer_norm_eps).init(device),
            },
            text_projection: config
                .is_projected()
                .then(|| LinearConfig::new(width, config.projection_dim).with_bias(false).init(device)),
            eos_token_id: config.eos_token_id,
        })
    }

    /// Loads a folder with `config.json` and weights.
    ///
    /// # Errors
    /// A file is unreadable, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let config = ClipTextConfig::read(folder)?;
        weights::fill(Self::new(&config, device)?, tensors_in_folder(folder)?, Precision::F32)
    }

    /// With the embeddings of all words but `known` set to zero: a word that training never showed says nothing, where its
    /// random embedding would move the states. `known` are token ids, in any order and as often as they come.
    ///
    /// # Panics
    /// An id is outside the vocabulary.
    #[must_use]
    pub fn knowing_only(mut self, known: &[i64]) -> Self {
        let embedding = &mut self.text_model.embeddings.token_embedding;
        embedding.weight = embedding.weight.clone().map(|weight| {
            let ([words, _], device) = (weight.dims(), weight.device());
            let mut kept = vec![0.0_f32; words];
            known.iter().for_each(|&id| kept[id as usize] = 1.0);
            weight * Tensor::<1>::from_floats(kept.as_slice(), &device).unsqueeze_dim(1)
        });
        self
    }

    /// `input_ids` `[batch, length]`, `length` at most `max_position_embeddings`.
    pub fn forward(&self, input_ids: Tensor<2, Int>) -> ClipTextOutput {
        let model = &self.text_model;
        let [batch, length] = input_ids.dims();
        let positions = Tensor::<1, Int>::arange(0..length as i64, &input_ids.device()).unsqueeze::<2>();
        let x = model.embeddings.token_embedding.forward(input_ids.clone())
            + model.embeddings.position_embedding.forward(positions);
        let mask = causal_mask(length, &x.device()).cast(x.dtype());
        let (last, penultimate) = model.encoder.forward(x, Some(mask));
        let last_hidden_state = model.final_layer_norm.forward(last);
        let text_embeds = self.text_projection.as_ref().map(|projection| {
            let [_, _, width] = last_hidden_state.dims();
            let end = self.end_of_text(input_ids);
            let index = end.reshape([batch, 1, 1]).expand([batch, 1, width]);
            projection.forward(last_hidden_state.clone().gather(1, index).reshape([batch, width]))
        });
        ClipTextOutput { last_hidden_state, penultimate_hidden_state: penultimate, text_embeds }
    }

    /// The position of each text's end token, `[batch]`. Older configurations say 2 instead of the end token; then the
    /// largest id counts as the end, as in transformers.
    fn end_of_text(&self, input_ids: Tensor<2, Int>) -> Tensor<1, Int> {
        let ends = if self.eos_token_id == 2 {
            input_ids.argmax(1)
        } else {
            input_ids.equal_elem(self.eos_token_id).int().argmax(1)
        };
        ends.squeeze_dim(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_words_say_nothing_and_known_words_what_they_said() {
        let config = ClipTextConfig {
            vocab_size: 10,
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            max_position_embeddings: 4,
            eos_token_id: 9,
            ..ClipTextConfig::default()
        };
        let device = Device::flex();
        let tower = ClipText::new(&config, &device).unwrap();
        let states = |tower: &ClipText, ids: [i64; 4]| {
            tower.forward(Tensor::from_ints([ids], &device)).last_hidden_state.into_data().try_to_vec::<f32>().unwrap()
        };
        let knowing = tower.clone().knowing_only(&[8, 1, 9, 1]);
        assert_eq!(states(&knowing, [8, 1, 1, 9]), states(&tower, [8, 1, 1, 9]));
        assert_ne!(states(&tower, [8, 2, 1, 9]), states(&tower, [8, 3, 1, 9]));
        assert_eq!(states(&knowing, [8, 2, 1, 9]), states(&knowing, [8, 3, 1, 9]));
        assert_ne!(states(&knowing, [8, 2, 1, 9]), states(&knowing, [8, 1, 1, 9]));
    }
}
