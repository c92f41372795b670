//! CLIP's text encoder under OpenAI's names.

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};
use spire_model::nn::attention::{attend, causal_mask};

use super::ClipIqaConfig;

/// OpenAI's `Transformer`, with causal attention.
#[derive(Module, Debug)]
pub struct Transformer {
    resblocks: Vec<ResidualAttentionBlock>,
}

impl Transformer {
    pub fn new(config: &ClipIqaConfig, device: &Device) -> Self {
        let blocks = 0..config.transformer_layers;
        Self { resblocks: blocks.map(|_| ResidualAttentionBlock::new(config, device)).collect() }
    }

    /// `[batch, length, transformer_width]` to the same shape.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [_, length, _] = x.dims();
        let mask = causal_mask(length, &x.device());
        self.resblocks.iter().fold(x, |x, block| block.forward(x, mask.clone()))
    }
}

#[derive(Module, Debug)]
struct ResidualAttentionBlock {
    attn: MultiheadAttention,
    ln_1: LayerNorm,
    mlp: Mlp,
    ln_2: LayerNorm,
}

/// PyTorch's `MultiheadAttention`, with stacked matrices of queries, keys and values.
#[derive(Module, Debug)]
struct MultiheadAttention {
    in_proj_weight: Param<Tensor<2>>,
    in_proj_bias: Param<Tensor<1>>,
    out_proj: Linear,
    heads: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
}

impl ResidualAttentionBlock {
    fn new(config: &ClipIqaConfig, device: &Device) -> Self {
        let width = config.transformer_width;
        let norm = || LayerNormConfig::new(width).init(device);
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        Self {
            attn: MultiheadAttention {
                in_proj_weight: Initializer::Normal { mean: 0.0, std: 0.02 }.init([3 * width, width], device),
                in_proj_bias: Initializer::Zeros.init([3 * width], device),
                out_proj: linear(width, width),
                heads: config.transformer_heads,
            },
            ln_1: norm(),
            mlp: Mlp { c_fc: linear(width, 4 * width), c_proj: linear(4 * width, width) },
            ln_2: norm(),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: Tensor<4>) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(self.ln_1.forward(x), mask);
        let inner = self.mlp.c_fc.forward(self.ln_2.forward(x.clone()));
        let inner = inner.clone() * sigmoid(inner.mul_scalar(1.702));
        x + self.mlp.c_proj.forward(inner)
    }
}

impl MultiheadAttention {
    fn forward(&self, x: Tensor<3>, mask: Tensor<4>) -> Tensor<3> {
        let stacked = x.matmul(self.in_proj_weight.val().transpose().unsqueeze()) + self.in_proj_bias.val().unsqueeze();
        let [query, key, value] = stacked.chunk(3, 2).try_into().expect("three times the width is three chunks");
        self.out_proj.forward(attend(query, key, value, self.heads, Some(mask)))
    }
}
