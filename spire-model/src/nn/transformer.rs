//! Spatial transformer: self-attention over the positions, cross-attention to the text, gated feed-forward.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use spire_kernels::{add_conv2d, conv2d, gelu, group_norm};

use super::attention::Attention;

/// GEGLU: a linear layer twice as wide as its output; one half gates the other through GELU.
#[derive(Module, Debug)]
pub struct Geglu {
    proj: Linear,
}

/// The members of diffusers' list `ff.net`, of which only some have weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum FeedForwardLayer {
    /// `net.0`
    Geglu(Geglu),
    /// `net.1`: dropout, unused here.
    Identity(burn::nn::Identity),
    /// `net.2`
    Linear(Linear),
}

/// diffusers' `FeedForward` with `geglu`.
#[derive(Module, Debug)]
pub struct FeedForward {
    net: Vec<FeedForwardLayer>,
}

impl FeedForward {
    fn new(width: usize, device: &Device) -> Self {
        let inner = 4 * width;
        Self {
            net: vec![
                FeedForwardLayer::Geglu(Geglu { proj: LinearConfig::new(width, 2 * inner).init(device) }),
                FeedForwardLayer::Identity(burn::nn::Identity),
                FeedForwardLayer::Linear(LinearConfig::new(inner, width).init(device)),
            ],
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.net.iter().fold(x, |x, layer| match layer {
            FeedForwardLayer::Geglu(geglu) => {
                let halves = geglu.proj.forward(x).chunk(2, 2);
                halves[0].clone() * gelu(halves[1].clone())
            }
            FeedForwardLayer::Identity(_) => x,
            FeedForwardLayer::Linear(linear) => linear.forward(x),
        })
    }
}

/// diffusers' `BasicTransformerBlock`.
#[derive(Module, Debug)]
pub struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn new(width: usize, config: TransformerConfig, device: &Device) -> Self {
        let TransformerConfig { context_width, heads, upcast_attention, .. } = config;
        let attention =
            |context_width| Attention::new(width, context_width, heads, false, device).with_upcast(upcast_attention);
        let norm = || LayerNormConfig::new(width).init(device);
        Self {
            norm1: norm(),
            attn1: attention(width),
            norm2: norm(),
            attn2: attention(context_width),
            norm3: norm(),
            ff: FeedForward::new(width, device),
        }
    }

    fn forward(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let normed = self.norm1.forward(x.clone());
        let x = x + self.attn1.forward(normed.clone(), normed);
        let x = x.clone() + self.attn2.forward(self.norm2.forward(x), context);
        x.clone() + self.ff.forward(self.norm3.forward(x))
    }
}

/// The projection into and out of the transformer: a 1×1 convolution in SD 1.x, a linear layer in SD 2.x.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Projection {
    /// `use_linear_projection = false`
    Conv(Conv2d),
    /// `use_linear_projection = true`
    Linear(Linear),
}

impl Projection {
    fn new(width: usize, linear: bool, device: &Device) -> Self {
        if linear {
            Self::Linear(LinearConfig::new(width, width).init(device))
        } else {
            Self::Conv(Conv2dConfig::new([width, width], [1, 1]).init(device))
        }
    }
}

/// diffusers' `Transformer2DModel`.
#[derive(Module, Debug)]
pub struct Transformer2d {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Projection,
}

/// The settings of a [`Transformer2d`] besides its width.
#[derive(Clone, Copy, Debug)]
pub struct TransformerConfig {
    /// Width of the text tokens.
    pub context_width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Number of transformer blocks.
    pub layers: usize,
    /// Groups of the normalisation.
    pub groups: usize,
    /// Linear instead of 1×1 convolution around the blocks.
    pub linear_projection: bool,
    /// Whether attention scores are computed in f32 by weights in f16.
    pub upcast_attention: bool,
}

impl Transformer2d {
    /// A transformer on `width` channels.
    pub fn new(width: usize, config: TransformerConfig, device: &Device) -> Self {
        Self {
            norm: GroupNormConfig::new(config.groups, width).with_epsilon(1e-6).init(device),
            proj_in: Projection::new(width, config.linear_projection, device),
            transformer_blocks: (0..config.layers).map(|_| BasicTransformerBlock::new(width, config, device)).collect(),
            proj_out: Projection::new(width, config.linear_projection, device),
        }
    }

    /// `x` `[batch, width, height, width]`, `context` `[batch, tokens, context_width]`, to the shape of `x`.
    pub fn forward(&self, x: Tensor<4>, context: Tensor<3>) -> Tensor<4> {
        let residual = x.clone();
        let [batch, channels, height, width] = x.dims();
        let to_sequence = |x: Tensor<4>| x.reshape([batch, channels, height * width]).swap_dims(1, 2);
        let to_image = |x: Tensor<3>| x.swap_dims(1, 2).reshape([batch, channels, height, width]);
        let x = group_norm(&self.norm, x);
        let x = match &self.proj_in {
            Projection::Conv(conv) => to_sequence(conv2d(conv, x)),
            Projection::Linear(linear) => linear.forward(to_sequence(x)),
        };
        let x = self.transformer_blocks.iter().fold(x, |x, block| block.forward(x, context.clone()));
        match &self.proj_out {
            Projection::Conv(conv) => add_conv2d(residual, conv, to_image(x)),
            Projection::Linear(linear) => residual + to_image(linear.forward(x)),
        }
    }
}
