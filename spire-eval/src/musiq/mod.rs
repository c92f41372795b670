//! MUSIQ (Ke et al., 2021): a transformer on patches at three scales, for pictures of any size.

mod patches;
mod transformer;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::{Initializer, Module, Param};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use spire_data::Picture;
use spire_kernels::{convolve, group_norm};
use spire_model::pictures;
use spire_model::weights::{self, Precision};

use crate::checkpoint;
use crate::public_weights::PublicWeights;
use patches::{Patches, pad_same};
use transformer::TransformerEncoder;

/// The published weights, trained on KonIQ-10k.
pub const WEIGHTS: PublicWeights = PublicWeights {
    file: "musiq_koniq_ckpt-e95806b9.pth",
    url: "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/musiq_koniq_ckpt-e95806b9.pth",
};

/// Channels of the first convolution.
const ROOT_WIDTH: usize = 64;

/// Channels of a patch's features.
const FEATURES: usize = 4 * ROOT_WIDTH;

/// Prefix of a layer's number in this module's parameter names.
const LAYERS: &str = "transformer_encoder.transformer.";

/// Number of groups of the group normalisations.
const GROUPS: usize = 32;

/// pyiqa's `MUSIQ`; the defaults are the published network's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct MusiqConfig {
    /// Height and width of a patch, pixels; a multiple of 4.
    pub patch_size: usize,
    /// Width of the token states.
    pub hidden_size: usize,
    /// Width inside the feed-forward networks.
    pub mlp_dim: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Rows and columns of the grid of position embeddings.
    pub spatial_pos_grid_size: usize,
    /// Longer sides in pixels to which the picture is resized; the original size is used too.
    pub longer_side_lengths: Vec<usize>,
}

impl Default for MusiqConfig {
    fn default() -> Self {
        Self {
            patch_size: 32,
            hidden_size: 384,
            mlp_dim: 1152,
            num_heads: 6,
            num_layers: 14,
            spatial_pos_grid_size: 10,
            longer_side_lengths: vec![224, 384],
        }
    }
}

impl MusiqConfig {
    fn check(&self) -> Result<()> {
        let Self { patch_size, hidden_size, num_heads, spatial_pos_grid_size, .. } = *self;
        ensure!(patch_size > 0 && patch_size.is_multiple_of(4), "\"patch_size\" {patch_size} is no multiple of 4");
        ensure!(
            num_heads > 0 && hidden_size > 0 && hidden_size.is_multiple_of(num_heads),
            "\"hidden_size\" {hidden_size} can't be split among {num_heads} heads"
        );
        ensure!(spatial_pos_grid_size > 0, "\"spatial_pos_grid_size\" is 0");
        ensure!(!self.longer_side_lengths.contains(&0), "\"longer_side_lengths\" has a 0");
        Ok(())
    }

    fn scales(&self) -> usize {
        self.longer_side_lengths.len() + 1
    }
}

/// pyiqa's `MUSIQ`, as created by `create_metric("musiq")`. The published weights for KonIQ-10k ([`WEIGHTS`]), SPAQ and
/// PaQ-2-PiQ fit this network; those for AVA have another head.
#[derive(Module, Debug)]
pub struct Musiq {
    conv_root: StdConv,
    gn_root: GroupNorm,
    block1: Bottleneck,
    embedding: Linear,
    transformer_encoder: TransformerEncoder,
    head: Linear,
    #[module(skip)]
    config: MusiqConfig,
}

impl Musiq {
    fn new(config: MusiqConfig, device: &Device) -> Self {
        let tokens = FEATURES * (config.patch_size / 4).pow(2);
        Self {
            conv_root: StdConv::new(3, ROOT_WIDTH, 7, 2, device),
            gn_root: norm(ROOT_WIDTH, 1e-6, device),
            block1: Bottleneck::new(ROOT_WIDTH, FEATURES, device),
            embedding: LinearConfig::new(tokens, config.hidden_size).init(device),
            transformer_encoder: TransformerEncoder::new(&config, device),
            head: LinearConfig::new(config.hidden_size, 1).init(device),
            config,
        }
    }

    /// Reads the published file, or a folder with weights and a `config.json` ([`MusiqConfig`]).
    ///
    /// # Errors
    /// The file is unreadable, or the weights do not fit the network.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (config, tensors) = checkpoint::open::<MusiqConfig>(path, WEIGHTS.url)?;
        config.check().with_context(|| path.join("config.json").display().to_string())?;
        // In the reference, the list of layers is a dictionary.
        let tensors =
            tensors.renamed(|name| Some(name.replace("transformer_encoder.transformer.encoderblock_", LAYERS)));
        weights::fill(Self::new(config, device), tensors, Precision::F32)
    }

    /// The quality score: about 0 to 100, higher is better.
    ///
    /// # Errors
    /// The picture is too narrow to be resized: its longer side is at least 448 times the shorter one.
    pub fn score(&self, picture: &Picture) -> Result<f64> {
        Ok(self.score_of(self.features(picture)?))
    }

    /// The features, `[hidden_size]`; the score is a linear function of them.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn features(&self, picture: &Picture) -> Result<Tensor<1>> {
        let device = self.head.weight.val().device();
        let Patches { pixels, cells, scales } = Patches::of(pictures::to_tensor([picture], &device), &self.config)?;
        let x = relu(group_norm(&self.gn_root, self.conv_root.forward(pixels)));
        let x = max_pool2d(pad_same(x, 3, 2), MaxPoolOptions::new([3, 3]).with_stride([2, 2]));
        let x = self.block1.forward(x);
        // Channels last, as in TensorFlow.
        let x = self.embedding.forward(x.permute([0, 2, 3, 1]).flatten::<2>(1, 3));
        Ok(self.transformer_encoder.forward(x, &cells, &scales))
    }

    /// The score of a picture with these [features](Self::features).
    pub fn score_of(&self, features: Tensor<1>) -> f64 {
        self.head.forward(features).into_scalar()
    }
}

fn norm(channels: usize, epsilon: f64, device: &Device) -> GroupNorm {
    GroupNormConfig::new(GROUPS, channels).with_epsilon(epsilon).init(device)
}

/// A convolution without bias with standardised kernels (mean 0, standard deviation 1) and `SAME` padding.
#[derive(Module, Debug)]
struct StdConv {
    weight: Param<Tensor<4>>,
    stride: usize,
}

impl StdConv {
    fn new(from: usize, to: usize, side: usize, stride: usize, device: &Device) -> Self {
        Self { weight: Initializer::Normal { mean: 0.0, std: 1.0 }.init([to, from, side, side], device), stride }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let shape = weight.dims();
        let (variance, mean) = weight.clone().flatten::<2>(1, 3).var_mean(1);
        let deviation = variance.sqrt().reshape([shape[0], 1, 1, 1]) + 1e-5;
        let weight = (weight - mean.reshape([shape[0], 1, 1, 1])) / deviation;
        let options = ConvOptions::new([self.stride; 2], [0, 0], [1, 1], 1);
        convolve(pad_same(x, shape[2], self.stride), weight, None, options)
    }
}

/// A residual block of three convolutions, projected to more channels.
#[derive(Module, Debug)]
struct Bottleneck {
    conv1: StdConv,
    gn1: GroupNorm,
    conv2: StdConv,
    gn2: GroupNorm,
    conv3: StdConv,
    gn3: GroupNorm,
    conv_proj: StdConv,
    gn_proj: GroupNorm,
}

impl Bottleneck {
    fn new(from: usize, to: usize, device: &Device) -> Self {
        let norm = |channels| norm(channels, 1e-4, device);
        Self {
            conv1: StdConv::new(from, from, 1, 1, device),
            gn1: norm(from),
            conv2: StdConv::new(from, from, 3, 1, device),
            gn2: norm(from),
            conv3: StdConv::new(from, to, 1, 1, device),
            gn3: norm(to),
            conv_proj: StdConv::new(from, to, 1, 1, device),
            gn_proj: norm(to),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let identity = group_norm(&self.gn_proj, self.conv_proj.forward(x.clone()));
        let x = relu(group_norm(&self.gn1, self.conv1.forward(x)));
        let x = relu(group_norm(&self.gn2, self.conv2.forward(x)));
        relu(identity + group_norm(&self.gn3, self.conv3.forward(x)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{Shapes, assert_each_is_needed, folder, shapes};

    const SMALL: &str = r#"{"hidden_size": 8, "mlp_dim": 12, "num_heads": 2, "num_layers": 2, "patch_size": 8,
        "spatial_pos_grid_size": 3, "longer_side_lengths": [16, 40]}"#;

    fn small() -> Shapes {
        let module = Musiq::new(serde_json::from_str(SMALL).unwrap(), &Device::default());
        let named = |name: String| name.replace(LAYERS, "transformer_encoder.transformer.encoderblock_");
        shapes(&module).into_iter().map(|(name, shape)| (named(name), shape)).collect()
    }

    #[test]
    fn the_error_names_weights_that_do_not_fit() {
        assert_each_is_needed(SMALL, &small(), |path| Musiq::load(path, &Device::default()));
    }

    #[test]
    fn pictures_of_any_size_are_scored_unless_they_are_lines() {
        let musiq = Musiq::load(folder(SMALL, small()).path(), &Device::default()).unwrap();
        for (width, height) in [(1, 1), (3, 40), (50, 17)] {
            let score = musiq.score(&Picture::filled(width, height, [0.2, 0.5, 0.9])).unwrap();
            assert!(score.is_finite(), "{width}×{height}: {score}");
        }
        let message = musiq.score(&Picture::filled(100, 1, [0.5; 3])).unwrap_err().to_string();
        assert!(message.contains("100×1 is too narrow"), "{message}");
    }

    #[test]
    fn the_error_names_a_contradiction_in_the_configuration() {
        for (config, reason) in [
            (r#"{"patch_size": 30}"#, "no multiple of 4"),
            (r#"{"num_heads": 5}"#, "among 5 heads"),
            (r#"{"spatial_pos_grid_size": 0}"#, "\"spatial_pos_grid_size\" is 0"),
            (r#"{"longer_side_lengths": [224, 0]}"#, "has a 0"),
        ] {
            let folder = folder(config, Shapes::from([("head.weight".into(), vec![1])]));
            let message = format!("{:#}", Musiq::load(folder.path(), &Device::default()).unwrap_err());
            assert!(message.contains(reason) && message.contains("config.json"), "{message}");
        }
    }
}
