//! CLIP's image encoder: transformers' `CLIPVisionModelWithProjection`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use super::encoder::{Encoder, EncoderConfig, HiddenAct};
use super::null_is_empty;
use crate::bounds::{MOST_CHANNELS, check_at_most};
use crate::weights;

/// transformers' `CLIPVisionConfig`; the defaults are ViT-B/32's.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Width of the patch states.
    pub hidden_size: usize,
    /// Width inside the feed-forward networks.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Picture channels.
    pub num_channels: usize,
    /// Height and width of the picture.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: HiddenAct,
    /// Epsilon of the normalisation layers.
    pub layer_norm_eps: f64,
    /// Width of the joint embedding.
    pub projection_dim: usize,
    /// `["CLIPVisionModelWithProjection"]`
    #[serde(deserialize_with = "null_is_empty")]
    pub architectures: Vec<String>,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: HiddenAct::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            architectures: vec!["CLIPVisionModelWithProjection".into()],
        }
    }
}

impl ClipVisionConfig {
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
        ensure!(
            self.patch_size > 0 && self.image_size >= self.patch_size,
            "\"image_size\" {} holds no patch of {}",
            self.image_size,
            self.patch_size
        );
        for (key, value) in [
            ("image_size", self.image_size),
            ("num_channels", self.num_channels),
            ("projection_dim", self.projection_dim),
            ("the number of patches", (self.image_size / self.patch_size).saturating_pow(2)),
        ] {
            check_at_most(key, [value], MOST_CHANNELS)?;
        }
        self.encoder().check()
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

#[derive(Module, Debug)]
struct VisionEmbeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

#[derive(Module, Debug)]
struct VisionModel {
    embeddings: VisionEmbeddings,
    // The misspelling is transformers'.
    pre_layrnorm: LayerNorm,
    encoder: Encoder,
    post_layernorm: LayerNorm,
}

/// The image encoder.
#[derive(Module, Debug)]
pub struct ClipVision {
    vision_model: VisionModel,
    visual_projection: Linear,
}

impl ClipVision {
    /// Random weights.
    ///
    /// # Errors
    /// The configuration's settings contradict each other.
    pub fn new(config: &ClipVisionConfig, device: &Device) -> Result<Self> {
        config.check()?;
        let (width, patch) = (config.hidden_size, config.patch_size);
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let norm = || LayerNormConfig::new(width).with_epsilon(config.layer_norm_eps).init(device);
        let side = config.image_size / patch;
        Ok(Self {
            vision_model: VisionModel {
                embeddings: VisionEmbeddings {
                    class_embedding: normal.init([width], device),
                    patch_embedding: Conv2dConfig::new([config.num_channels, width], [patch, patch])
                        .with_stride([patch, patch])
                        .with_bias(false)
                        .init(device),
                    position_embedding: EmbeddingConfig::new(side * side + 1, width)
                        .with_initializer(normal)
                        .init(device),
                },
                pre_layrnorm: norm(),
                encoder: Encoder::new(config.encoder(), device),
                post_layernorm: norm(),
            },
            visual_projection: LinearConfig::new(width, config.projection_dim).with_bias(false).init(device),
        })
    }

    /// Loads a folder with `config.json` and weights.
    ///
    /// # Errors
    /// A file is unreadable, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        weights::load(Self::new(&ClipVisionConfig::read(folder)?, device)?, folder)
    }

    /// `[batch, 3, image_size, image_size]`, normalised, to embeddings `[batch, projection_dim]`, not normalised.
    pub fn forward(&self, pixel_values: Tensor<4>) -> Tensor<2> {
        let model = &self.vision_model;
        let patches = model.embeddings.patch_embedding.forward(pixel_values);
        let [batch, width, rows, columns] = patches.dims();
        let patches = patches.reshape([batch, width, rows * columns]).swap_dims(1, 2);
        let class = model.embeddings.class_embedding.val().reshape([1, 1, width]).expand([batch, 1, width]);
        let x = Tensor::cat(vec![class, patches], 1);
        let positions = Tensor::<1, Int>::arange(0..(rows * columns + 1) as i64, &x.device()).unsqueeze::<2>();
        let x = x + model.embeddings.position_embedding.forward(positions);
        let (x, _) = model.encoder.forward(model.pre_layrnorm.forward(x), None);
        let pooled = x.slice([0..batch, 0..1, 0..width]).reshape([batch, width]);
        self.visual_projection.forward(model.post_layernorm.forward(pooled))
    }
}
