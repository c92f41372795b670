//! MANIQA (Yang et al., 2022): features of a vision transformer, followed by attention across channels and within
//! windows, give each patch a score and a weight.

mod crops;
mod swin;
mod vit;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig, Relu};
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use spire_data::Picture;
use spire_kernels::conv2d;
use spire_model::nn::attention::attend;
use spire_model::nn::resnet::conv1x1;
use spire_model::pictures;
use spire_model::weights::{self, Precision};

use crate::checkpoint;
use crate::public_weights::PublicWeights;
use swin::SwinTransformer;
use vit::VisionTransformer;

/// The published weights, trained on KonIQ-10k.
pub const WEIGHTS: PublicWeights = PublicWeights {
    file: "ckpt_koniq10k.pt",
    url: "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/ckpt_koniq10k.pt",
};

/// pyiqa's `MANIQA`; the defaults are those of `create_metric("maniqa")`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ManiqaConfig {
    /// Width of a patch's features; a multiple of 64.
    pub embed_dim: usize,
    /// Side of the crops in pixels.
    pub img_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Number of channel attentions in each of the two stages.
    pub num_tab: usize,
    /// Blocks in each layer of a Swin transformer.
    pub depths: Vec<usize>,
    /// Number of heads in each of these layers.
    pub num_heads: Vec<usize>,
    /// Side of a window in patches.
    pub window_size: usize,
    /// Width inside the Swin transformers' feed-forward networks.
    pub dim_mlp: usize,
    /// Factor of a Swin layer's output before the residual sum: 0.8 for the weights trained on KonIQ-10k and KADID-10k,
    /// 0.13 for PIPAL.
    pub scale: f64,
    /// Number of crops.
    pub test_sample: usize,
}

impl Default for ManiqaConfig {
    fn default() -> Self {
        Self {
            embed_dim: 768,
            img_size: 224,
            patch_size: 8,
            num_tab: 2,
            depths: vec![2, 2],
            num_heads: vec![4, 4],
            window_size: 4,
            dim_mlp: 768,
            scale: 0.8,
            test_sample: 20,
        }
    }
}

impl ManiqaConfig {
    fn check(&self) -> Result<()> {
        let Self { embed_dim, img_size, patch_size, window_size, .. } = *self;
        ensure!(embed_dim > 0 && embed_dim.is_multiple_of(64), "\"embed_dim\" {embed_dim} is no multiple of 64");
        ensure!(
            patch_size > 0 && img_size > 0 && img_size.is_multiple_of(patch_size),
            "\"img_size\" {img_size} is no multiple of \"patch_size\" {patch_size}"
        );
        let side = self.side();
        ensure!(
            window_size > 0 && window_size < side && side.is_multiple_of(window_size),
            "{side} patches a side can't be split into windows of \"window_size\" {window_size}"
        );
        ensure!(
            self.depths.len() == self.num_heads.len(),
            "\"depths\" has {} layers, \"num_heads\" {}",
            self.depths.len(),
            self.num_heads.len()
        );
        for &heads in &self.num_heads {
            ensure!(
                heads > 0 && (embed_dim / 2).is_multiple_of(heads),
                "half of \"embed_dim\" {embed_dim} can't be split among {heads} heads"
            );
        }
        ensure!(self.test_sample > 0, "\"test_sample\" is 0");
        Ok(())
    }

    /// Patches per side.
    fn side(&self) -> usize {
        self.img_size / self.patch_size
    }

    fn patches(&self) -> usize {
        self.side().pow(2)
    }
}

/// pyiqa's `MANIQA`, as created by `create_metric("maniqa")`: the mean over 20 crops of 224 pixels. The crops are not
/// random: they are the first 20 of a 5 by 5 grid over the picture. The bottom row of the grid is not used, and areas
/// between crops are skipped if a side has more than 1120 pixels.
#[derive(Module, Debug)]
pub struct Maniqa {
    vit: VisionTransformer,
    tablock1: Vec<TaBlock>,
    conv1: Conv2d,
    swintransformer1: SwinTransformer,
    tablock2: Vec<TaBlock>,
    conv2: Conv2d,
    swintransformer2: SwinTransformer,
    fc_score: Head,
    fc_weight: Head,
    #[module(skip)]
    config: ManiqaConfig,
}

/// The layers to one number per patch, without the last non-linearity.
type Head = (Linear, Relu, Dropout, Linear);

impl Maniqa {
    fn new(config: ManiqaConfig, device: &Device) -> Self {
        let width = config.embed_dim;
        let tablocks = || (0..config.num_tab).map(|_| TaBlock::new(config.patches(), device)).collect();
        let head = || {
            let linear = |to| LinearConfig::new(width / 2, to).init(device);
            (linear(width / 2), Relu::new(), DropoutConfig::new(0.1).init(), linear(1))
        };
        Self {
            vit: VisionTransformer::new(&config, device),
            tablock1: tablocks(),
            conv1: conv1x1(4 * width, width, device),
            swintransformer1: SwinTransformer::new(&config, width, device),
            tablock2: tablocks(),
            conv2: conv1x1(width, width / 2, device),
            swintransformer2: SwinTransformer::new(&config, width / 2, device),
            fc_score: head(),
            fc_weight: head(),
            config,
        }
    }

    /// Reads the published file, or a folder with weights and a `config.json` ([`ManiqaConfig`]).
    ///
    /// # Errors
    /// The file is unreadable, or the weights do not fit the network.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (config, tensors) = checkpoint::open::<ManiqaConfig>(path, WEIGHTS.url)?;
        config.check().with_context(|| path.join("config.json").display().to_string())?;
        let tensors = tensors.renamed(|name| is_read(name).then(|| name.to_owned()));
        weights::fill(Self::new(config, device), tensors, Precision::F32)
    }

    /// The quality score: about 0 to 1, higher is better.
    ///
    /// # Errors
    /// The picture is too narrow to be enlarged: its longer side is at least 100 times the shorter one.
    pub fn score(&self, picture: &Picture) -> Result<f64> {
        Ok(self.score_of(self.features(picture)?))
    }

    /// The features from which each patch's score and weight are computed, `[crops, patches, embed_dim / 2]`.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn features(&self, picture: &Picture) -> Result<Tensor<3>> {
        let device = self.conv1.weight.val().device();
        let side = self.config.img_size;
        let picture = crops::enlarged(pictures::to_tensor([picture], &device), side)?;
        let [.., height, width] = picture.dims();
        // One at a time: the attention across channels needs much memory.
        let squares = crops::corners(height, width, side, self.config.test_sample)
            .into_iter()
            .map(|[top, left]| self.forward(picture.clone().slice([0..1, 0..3, top..top + side, left..left + side])));
        Ok(Tensor::cat(squares.collect(), 0))
    }

    /// The score of a picture with these [features](Self::features): the mean of the patches' scores by their weights.
    pub fn score_of(&self, features: Tensor<3>) -> f64 {
        let values = |tensor: Tensor<3>| tensor.into_data().iter::<f64>().collect::<Vec<_>>();
        let scores = values(relu(head(&self.fc_score, features.clone())));
        let weights = values(sigmoid(head(&self.fc_weight, features)));
        let weighted: f64 = scores.iter().zip(&weights).map(|(score, weight)| score * weight).sum();
        weighted / (weights.iter().sum::<f64>() + 1e-8)
    }

    /// `[batch, 3, img_size, img_size]` in \[-1, 1\] to `[batch, patches, embed_dim / 2]`.
    fn forward(&self, squares: Tensor<4>) -> Tensor<3> {
        let side = self.config.side();
        let x = self.vit.forward(squares).swap_dims(1, 2);
        let x = self.tablock1.iter().fold(x, |x, block| block.forward(x));
        let x = self.swintransformer1.forward(conv2d(&self.conv1, as_map(x, side)));
        let x = self.tablock2.iter().fold(x.flatten(2, 3), |x, block| block.forward(x));
        let x = self.swintransformer2.forward(conv2d(&self.conv2, as_map(x, side)));
        x.flatten::<3>(2, 3).swap_dims(1, 2)
    }
}

/// The checkpoint contains the complete vision transformer and two unused convolutions.
fn is_read(name: &str) -> bool {
    let block = name.strip_prefix("vit.blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let unread = ["vit.norm.", "vit.head.", "swintransformer1.downsample.", "swintransformer2.downsample."];
    block.is_none_or(|block| block <= *vit::READ.end()) && !unread.iter().any(|prefix| name.starts_with(prefix))
}

/// `[batch, channels, side * side]` as `[batch, channels, side, side]`.
fn as_map(x: Tensor<3>, side: usize) -> Tensor<4> {
    let [batch, channels, _] = x.dims();
    x.reshape([batch, channels, side, side])
}

/// `[squares, patches, width]` to `[squares, patches, 1]`.
fn head((hidden, activation, dropout, out): &Head, x: Tensor<3>) -> Tensor<3> {
    out.forward(dropout.forward(activation.forward(hidden.forward(x))))
}

/// Attention across channels: each channel is a token with its values at all patches.
#[derive(Module, Debug)]
struct TaBlock {
    c_q: Linear,
    c_k: Linear,
    c_v: Linear,
}

impl TaBlock {
    fn new(patches: usize, device: &Device) -> Self {
        let linear = || LinearConfig::new(patches, patches).init(device);
        Self { c_q: linear(), c_k: linear(), c_v: linear() }
    }

    /// `[batch, channels, patches]` to the same shape.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (query, key, value) =
            (self.c_q.forward(x.clone()), self.c_k.forward(x.clone()), self.c_v.forward(x.clone()));
        let attended = attend(query, key, value, 1, None);
        // The reference swaps patches and channels here, and was trained that way.
        attended.swap_dims(1, 2).reshape(x.dims()) + x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{Shapes, assert_each_is_needed, folder, shapes};

    const SMALL: &str = r#"{"embed_dim": 64, "img_size": 32, "num_tab": 1, "depths": [2], "num_heads": [2],
        "window_size": 2, "dim_mlp": 24, "test_sample": 3}"#;

    fn small() -> Shapes {
        shapes(&Maniqa::new(serde_json::from_str(SMALL).unwrap(), &Device::default()))
    }

    #[test]
    fn the_error_names_weights_that_do_not_fit() {
        assert_each_is_needed(SMALL, &small(), |path| Maniqa::load(path, &Device::default()));
        let mut whole = small();
        whole.insert("vit.blocks.10.norm1.weight".into(), vec![64]);
        whole.insert("vit.head.bias".into(), vec![1000]);
        whole.insert("swintransformer1.layers.0.blocks.1.attn_mask".into(), vec![4, 4, 4]);
        Maniqa::load(folder(SMALL, whole).path(), &Device::default()).unwrap();
    }

    #[test]
    fn pictures_of_any_size_have_the_same_number_of_crops() {
        let maniqa = Maniqa::load(folder(SMALL, small()).path(), &Device::default()).unwrap();
        for (width, height) in [(1, 1), (3, 40), (50, 33)] {
            let picture = Picture::filled(width, height, [0.2, 0.5, 0.9]);
            assert_eq!(maniqa.features(&picture).unwrap().dims(), [3, 16, 32]);
            assert!(maniqa.score(&picture).unwrap() >= 0.0);
        }
    }

    #[test]
    fn the_error_names_a_contradiction_in_the_configuration() {
        for (config, reason) in [
            (r#"{"embed_dim": 100}"#, "no multiple of 64"),
            (r#"{"img_size": 225}"#, "\"img_size\" 225 is no multiple"),
            (r#"{"window_size": 5}"#, "windows of \"window_size\" 5"),
            (r#"{"depths": [2]}"#, "\"depths\" has 1 layers, \"num_heads\" 2"),
            (r#"{"num_heads": [4, 7]}"#, "among 7 heads"),
            (r#"{"test_sample": 0}"#, "\"test_sample\" is 0"),
        ] {
            let folder = folder(config, Shapes::from([("conv1.bias".into(), vec![1])]));
            let message = format!("{:#}", Maniqa::load(folder.path(), &Device::default()).unwrap_err());
            assert!(message.contains(reason) && message.contains("config.json"), "{message}");
        }
    }
}
