//! The transformer of both CLIP encoders: transformers' `CLIPEncoder`.

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use spire_kernels::gelu;

use crate::bounds::{MOST_CHANNELS, MOST_LAYERS, check_at_most};
use crate::nn::attention::attend;

/// The feed-forward network's non-linearity.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x·sigmoid(1.702·x)`: OpenAI's CLIP, SD 1.x.
    #[default]
    QuickGelu,
    /// Exact GELU: OpenCLIP, SD 2.x.
    Gelu,
}

/// The sizes of an encoder.
#[derive(Clone, Copy, Debug)]
pub struct EncoderConfig {
    pub width: usize,
    pub inner: usize,
    pub heads: usize,
    pub layers: usize,
    pub epsilon: f64,
    pub act: HiddenAct,
}

impl EncoderConfig {
    pub fn check(&self) -> Result<()> {
        ensure!(self.layers > 0, "\"num_hidden_layers\" is 0");
        check_at_most("num_hidden_layers", [self.layers], MOST_LAYERS)?;
        check_at_most("hidden_size", [self.width], MOST_CHANNELS)?;
        check_at_most("intermediate_size", [self.inner], MOST_CHANNELS)?;
        ensure!(
            self.heads > 0 && self.width.is_multiple_of(self.heads),
            "\"hidden_size\" {} can't be split among {} heads",
            self.width,
            self.heads
        );
        Ok(())
    }
}

#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    quick: bool,
}

#[derive(Module, Debug)]
pub struct Layer {
    self_attn: SelfAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

impl Layer {
    fn new(config: EncoderConfig, device: &Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let norm = || LayerNormConfig::new(config.width).with_epsilon(config.epsilon).init(device);
        let square = || linear(config.width, config.width);
        Self {
            self_attn: SelfAttention {
                q_proj: square(),
                k_proj: square(),
                v_proj: square(),
                out_proj: square(),
                heads: config.heads,
            },
            layer_norm1: norm(),
            mlp: Mlp {
                fc1: linear(config.width, config.inner),
                fc2: linear(config.inner, config.width),
                quick: config.act == HiddenAct::QuickGelu,
            },
            layer_norm2: norm(),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: Option<Tensor<4>>) -> Tensor<3> {
        let attention = &self.self_attn;
        let normed = self.layer_norm1.forward(x.clone());
        let attended = attend(
            attention.q_proj.forward(normed.clone()),
            attention.k_proj.forward(normed.clone()),
            attention.v_proj.forward(normed),
            attention.heads,
            mask,
        );
        let x = x + attention.out_proj.forward(attended);
        let inner = self.mlp.fc1.forward(self.layer_norm2.forward(x.clone()));
        let inner = if self.mlp.quick { inner.clone() * sigmoid(inner.mul_scalar(1.702)) } else { gelu(inner) };
        x + self.mlp.fc2.forward(inner)
    }
}

/// The layers, one after the other.
#[derive(Module, Debug)]
pub struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    pub fn new(config: EncoderConfig, device: &Device) -> Self {
        Self { layers: (0..config.layers).map(|_| Layer::new(config, device)).collect() }
    }

    /// `[batch, length, width]`; returns the last layer's output and the one before it.
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<4>>) -> (Tensor<3>, Tensor<3>) {
        self.layers.iter().fold((x.clone(), x), |(last, _), layer| (layer.forward(last.clone(), mask.clone()), last))
    }
}
