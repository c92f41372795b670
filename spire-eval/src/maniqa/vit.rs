//! MANIQA's vision transformer: timm's `vit_base_patch8_224`.

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use spire_model::nn::attention::attend;
use spire_model::nn::swin::Mlp;

use super::ManiqaConfig;

/// The blocks whose outputs are the features; later blocks are not computed.
pub const READ: std::ops::RangeInclusive<usize> = 6..=9;

/// Width of an attention's head.
const HEAD_WIDTH: usize = 64;

/// Ratio of the feed-forward networks' inner width.
const MLP_RATIO: usize = 4;

/// timm's `VisionTransformer`, up to the last block that is read.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    cls_token: Param<Tensor<3>>,
    pos_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    blocks: Vec<Block>,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
}

impl VisionTransformer {
    pub fn new(config: &ManiqaConfig, device: &Device) -> Self {
        let (width, patch) = (config.embed_dim, config.patch_size);
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let proj = Conv2dConfig::new([3, width], [patch, patch]).with_stride([patch, patch]).init(device);
        Self {
            cls_token: normal.init([1, 1, width], device),
            pos_embed: normal.init([1, config.patches() + 1, width], device),
            patch_embed: PatchEmbed { proj },
            blocks: (0..=*READ.end()).map(|_| Block::new(width, device)).collect(),
        }
    }

    /// `[batch, 3, img_size, img_size]` in \[-1, 1\] to the concatenated outputs of [the blocks](READ), `[batch,
    /// patches, 4 * embed_dim]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let patches = self.patch_embed.proj.forward(x).flatten::<3>(2, 3).swap_dims(1, 2);
        let [batch, count, width] = patches.dims();
        let class = self.cls_token.val().expand([batch, 1, width]);
        let mut x = Tensor::cat(vec![class, patches], 1) + self.pos_embed.val();
        let mut read = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x);
            if READ.contains(&i) {
                read.push(x.clone().narrow(1, 1, count));
            }
        }
        Tensor::cat(read, 2)
    }
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Block {
    fn new(width: usize, device: &Device) -> Self {
        let norm = || LayerNormConfig::new(width).with_epsilon(1e-6).init(device);
        Self {
            norm1: norm(),
            attn: Attention {
                qkv: LinearConfig::new(width, 3 * width).init(device),
                proj: LinearConfig::new(width, width).init(device),
                heads: width / HEAD_WIDTH,
            },
            norm2: norm(),
            mlp: Mlp::new(width, MLP_RATIO * width, device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let Attention { qkv, proj, heads } = &self.attn;
        let stacked = qkv.forward(self.norm1.forward(x.clone()));
        let [query, key, value] = stacked.chunk(3, 2).try_into().expect("three times the width is three chunks");
        let x = x + proj.forward(attend(query, key, value, *heads, None));
        self.mlp.add(x.clone(), self.norm2.forward(x))
    }
}
