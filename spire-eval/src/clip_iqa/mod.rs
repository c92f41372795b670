//! CLIP-IQA (Wang et al., 2023): how much closer CLIP places a picture to "Good image" than to "bad image".

mod resnet;
mod text;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::{Initializer, Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Deserialize;
use spire_data::Picture;
use spire_model::tokenizer::{CONTEXT_LENGTH, Tokenizer};
use spire_model::weights::{self, Precision};

use crate::checkpoint;
use crate::public_weights::PublicWeights;
use resnet::ModifiedResNet;
use text::Transformer;

/// The published weights: OpenAI's RN50 as open_clip distributes it, under OpenAI's names. OpenAI's own file,
/// `RN50.pt`, is a TorchScript program and is not supported.
pub const WEIGHTS: PublicWeights = PublicWeights {
    file: "resnet50_clip.openai/open_clip_model.safetensors",
    url: "https://huggingface.co/timm/resnet50_clip.openai/resolve/main/open_clip_model.safetensors",
};

/// Pairs of prompts, good and bad. pyiqa's `clipiqa` takes the mean over them; the paper uses only the pair "Good
/// photo." and "Bad photo.".
pub const PROMPTS: [[&str; 2]; 5] = [
    ["Good image", "bad image"],
    ["Sharp image", "blurry image"],
    ["sharp edges", "blurry edges"],
    ["High resolution image", "low resolution image"],
    ["Noise-free image", "noisy image"],
];

/// Means and standard deviations of the channels of CLIP's training pictures.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// The sizes of a CLIP with a residual image encoder; the defaults are RN50's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ClipIqaConfig {
    /// Width of the joint embedding.
    pub embed_dim: usize,
    /// Blocks in each of the four stages.
    pub vision_layers: [usize; 4],
    /// Output channels of the stem; a multiple of 2.
    pub vision_width: usize,
    /// Maximum number of tokens.
    pub context_length: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Width of the token states.
    pub transformer_width: usize,
    /// Number of attention heads of the text encoder.
    pub transformer_heads: usize,
    /// Number of layers of the text encoder.
    pub transformer_layers: usize,
}

impl Default for ClipIqaConfig {
    fn default() -> Self {
        Self {
            embed_dim: 1024,
            vision_layers: [3, 4, 6, 3],
            vision_width: 64,
            context_length: CONTEXT_LENGTH,
            vocab_size: 49408,
            transformer_width: 512,
            transformer_heads: 8,
            transformer_layers: 12,
        }
    }
}

impl ClipIqaConfig {
    fn check(&self) -> Result<()> {
        let Self { vision_width, transformer_width, transformer_heads, .. } = *self;
        ensure!(
            vision_width > 0 && vision_width.is_multiple_of(2),
            "\"vision_width\" {vision_width} is no multiple of 2"
        );
        ensure!(
            transformer_heads > 0 && transformer_width > 0 && transformer_width.is_multiple_of(transformer_heads),
            "\"transformer_width\" {transformer_width} can't be split among {transformer_heads} heads"
        );
        let ids = Tokenizer::clip().end_id() as usize + 1;
        ensure!(self.vocab_size >= ids, "\"vocab_size\" {} is below {ids}, CLIP's own", self.vocab_size);
        let longest = token_ids().iter().map(Vec::len).max().unwrap_or_default();
        ensure!(
            self.context_length >= longest,
            "\"context_length\" {} is below {longest}, the tokens of the longest prompt",
            self.context_length
        );
        Ok(())
    }
}

/// pyiqa's `CLIPIQA`, as created by `create_metric("clipiqa")`: pictures are neither resized nor cropped, and the image
/// encoder has no position embeddings.
#[derive(Debug)]
pub struct ClipIqa {
    visual: ModifiedResNet,
    /// The prompts' embeddings times the temperature, `[2 * pairs, embed_dim]`.
    texts: Tensor<2>,
}

impl ClipIqa {
    /// Reads the published file, or a folder with weights and a `config.json` ([`ClipIqaConfig`]).
    ///
    /// # Errors
    /// The file is unreadable, or the weights do not fit the network.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (config, tensors) = checkpoint::open::<ClipIqaConfig>(path, WEIGHTS.url)?;
        config.check().with_context(|| path.join("config.json").display().to_string())?;
        let mut tensors =
            tensors.renamed(|name| (name != "visual.attnpool.positional_embedding").then(|| name.to_owned()));
        // Burn has no zero-dimensional tensors.
        tensors.reshape("logit_scale", &[1])?;
        let clip = weights::fill(Clip::new(&config, device), tensors, Precision::F32)?;
        Ok(Self { texts: clip.texts(&token_ids()), visual: clip.visual })
    }

    /// The quality score, 0 to 1: the mean over the pairs of [`PROMPTS`] of the probability of the good prompt.
    ///
    /// # Errors
    /// A side of the picture is shorter than 31 pixels.
    pub fn score(&self, picture: &Picture) -> Result<f64> {
        Ok(self.score_of(self.features(picture)?))
    }

    /// CLIP's embedding of the picture, not normalised: `[embed_dim]`.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn features(&self, picture: &Picture) -> Result<Tensor<1>> {
        let Picture { width, height, ref data } = *picture;
        let least = ModifiedResNet::LEAST_SIDE;
        ensure!(
            width >= least && height >= least,
            "a picture of {width}×{height} is too small: at least {least}×{least} pixels are needed"
        );
        let device = self.texts.device();
        let picture = Tensor::<4>::from_data(TensorData::new(data.to_vec(), [1, 3, height, width]), &device);
        let [mean, deviation] =
            [MEAN, DEVIATION].map(|channels| Tensor::<1>::from_floats(channels, &device).reshape([1, 3, 1, 1]));
        Ok(self.visual.forward((picture - mean) / deviation).squeeze_dim(0))
    }

    /// The score of a picture with these [features](Self::features).
    pub fn score_of(&self, features: Tensor<1>) -> f64 {
        let logits = unit_length(features.unsqueeze()).matmul(self.texts.clone().transpose());
        softmax(logits.reshape([-1, 2]), 1).narrow(1, 0, 1).mean().into_scalar()
    }
}

/// Scales rows to unit length.
fn unit_length(rows: Tensor<2>) -> Tensor<2> {
    let length = rows.clone().square().sum_dim(1).sqrt();
    rows / length
}

/// The embeddings of all [`PROMPTS`], in order.
fn token_ids() -> Vec<Vec<u32>> {
    PROMPTS.as_flattened().iter().map(|prompt| Tokenizer::clip().encode(prompt)).collect()
}

/// Both encoders under OpenAI's names.
#[derive(Module, Debug)]
struct Clip {
    visual: ModifiedResNet,
    transformer: Transformer,
    token_embedding: Embedding,
    positional_embedding: Param<Tensor<2>>,
    ln_final: LayerNorm,
    text_projection: Param<Tensor<2>>,
    logit_scale: Param<Tensor<1>>,
}

impl Clip {
    fn new(config: &ClipIqaConfig, device: &Device) -> Self {
        let width = config.transformer_width;
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        Self {
            visual: ModifiedResNet::new(config, device),
            transformer: Transformer::new(config, device),
            token_embedding: EmbeddingConfig::new(config.vocab_size, width).init(device),
            positional_embedding: normal.init([config.context_length, width], device),
            ln_final: LayerNormConfig::new(width).init(device),
            text_projection: normal.init([width, config.embed_dim], device),
            logit_scale: Initializer::Zeros.init([1], device),
        }
    }

    /// Unit-length embeddings of texts times the temperature, `[texts, embed_dim]`, from token ids.
    fn texts(&self, texts: &[Vec<u32>]) -> Tensor<2> {
        let device = self.logit_scale.val().device();
        let embeddings = texts.iter().map(|ids| {
            // Truncated after the end token: no token attends to later ones.
            let length = ids.len();
            let values: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
            let ids = Tensor::<2, Int>::from_data(TensorData::new(values, [1, length]), &device);
            let positions = self.positional_embedding.val().narrow(0, 0, length).unsqueeze();
            let x = self.ln_final.forward(self.transformer.forward(self.token_embedding.forward(ids) + positions));
            x.narrow(1, length - 1, 1).squeeze_dim::<2>(1).matmul(self.text_projection.val())
        });
        unit_length(Tensor::cat(embeddings.collect(), 0)) * self.logit_scale.val().exp().unsqueeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{Shapes, assert_each_is_needed, folder, shapes};

    /// `clip.tokenize` of openai-clip 1.0.1.
    #[test]
    fn prompts_have_the_ids_of_the_reference() {
        let want: [&[u32]; 10] = [
            &[49406, 886, 2867, 49407],
            &[49406, 2103, 2867, 49407],
            &[49406, 8157, 2867, 49407],
            &[49406, 21977, 2867, 49407],
            &[49406, 8157, 20938, 49407],
            &[49406, 21977, 20938, 49407],
            &[49406, 1400, 9977, 2867, 49407],
            &[49406, 1042, 9977, 2867, 49407],
            &[49406, 9307, 268, 1139, 2867, 49407],
            &[49406, 33495, 2867, 49407],
        ];
        assert_eq!(token_ids(), want);
    }

    const SMALL: &str = r#"{"embed_dim": 8, "vision_layers": [1, 2, 1, 1], "vision_width": 4, "transformer_width": 8,
        "transformer_heads": 2, "transformer_layers": 1}"#;

    fn small() -> Shapes {
        let mut shapes = shapes(&Clip::new(&serde_json::from_str(SMALL).unwrap(), &Device::default()));
        shapes.insert("logit_scale".into(), vec![]);
        shapes
    }

    #[test]
    fn the_error_names_weights_that_do_not_fit() {
        assert_each_is_needed(SMALL, &small(), |path| ClipIqa::load(path, &Device::default()));
        let mut whole = small();
        whole.insert("visual.attnpool.positional_embedding".into(), vec![50, 128]);
        whole.insert("visual.bn1.num_batches_tracked".into(), vec![]);
        ClipIqa::load(folder(SMALL, whole).path(), &Device::default()).unwrap();
    }

    #[test]
    fn pictures_of_any_size_from_31_pixels_are_judged() {
        let clip_iqa = ClipIqa::load(folder(SMALL, small()).path(), &Device::default()).unwrap();
        for (width, height) in [(31, 31), (31, 100), (65, 47)] {
            let score = clip_iqa.score(&Picture::filled(width, height, [0.2, 0.5, 0.9])).unwrap();
            assert!((0.0..=1.0).contains(&score), "{width}×{height}: {score}");
        }
        let message = clip_iqa.score(&Picture::filled(30, 64, [0.5; 3])).unwrap_err().to_string();
        assert!(message.contains("30×64 is too small"), "{message}");
    }

    #[test]
    fn the_error_names_a_contradiction_in_the_configuration() {
        for (config, reason) in [
            (r#"{"vision_width": 3}"#, "no multiple of 2"),
            (r#"{"transformer_heads": 3}"#, "among 3 heads"),
            (r#"{"vocab_size": 100}"#, "below 49408"),
            (r#"{"context_length": 5}"#, "below 6"),
        ] {
            let folder = folder(config, Shapes::from([("logit_scale".into(), vec![])]));
            let message = format!("{:#}", ClipIqa::load(folder.path(), &Device::default()).unwrap_err());
            assert!(message.contains(reason) && message.contains("config.json"), "{message}");
        }
    }
}
