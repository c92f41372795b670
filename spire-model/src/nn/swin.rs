//! The block of the Swin transformer (Liu et al. 2021, <https://arxiv.org/abs/2103.14030>): attention within the windows of
//! a feature map, then a feed-forward network. Fields are named as in the original code.

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use spire_kernels::{Windows, add_linear, gelu, linear, window_attention};

/// Two linear layers around a GELU.
#[derive(Module, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    /// From `width` channels to `inner` and back.
    pub fn new(width: usize, inner: usize, device: &Device) -> Self {
        Self { fc1: LinearConfig::new(width, inner).init(device), fc2: LinearConfig::new(inner, width).init(device) }
    }

    /// `x` `[…, width]` to the same shape, added to `onto`.
    pub fn add<const D: usize>(&self, onto: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        add_linear(onto, &self.fc2, gelu(linear(&self.fc1, x)))
    }
}

/// A block on maps of one width.
#[derive(Module, Debug)]
pub struct SwinBlock {
    norm1: LayerNorm,
    attn: WindowAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct WindowAttention {
    relative_position_bias_table: Param<Tensor<2>>,
    qkv: Linear,
    proj: Linear,
    #[module(skip)]
    windows: Windows,
}

impl SwinBlock {
    /// For maps of `width` channels; `inner` is the width inside the feed-forward network.
    pub fn new(width: usize, inner: usize, windows: Windows, device: &Device) -> Self {
        let distances = (2 * windows.side - 1).pow(2);
        let norm = || LayerNormConfig::new(width).init(device);
        Self {
            norm1: norm(),
            attn: WindowAttention {
                relative_position_bias_table: Initializer::Normal { mean: 0.0, std: 0.02 }
                    .init([distances, windows.heads], device),
                qkv: LinearConfig::new(width, 3 * width).init(device),
                proj: LinearConfig::new(width, width).init(device),
                windows,
            },
            norm2: norm(),
            mlp: Mlp::new(width, inner, device),
        }
    }

    /// `[batch, height, width, channels]` to the same shape. Height and width are multiples of the windows' side.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let WindowAttention { relative_position_bias_table, qkv, proj, windows } = &self.attn;
        let qkv = linear(qkv, self.norm1.forward(x.clone()));
        let x = add_linear(x, proj, window_attention(qkv, relative_position_bias_table.val(), *windows));
        self.mlp.add(x.clone(), self.norm2.forward(x))
    }
}

/// The windows of block `i` of a layer: shifted by half a window in every other block.
pub fn alternating(i: usize, side: usize, heads: usize) -> Windows {
    // Swin's bias for keys of another region.
    Windows { side, shift: i % 2 * (side / 2), heads, elsewhere: -100.0 }
}
