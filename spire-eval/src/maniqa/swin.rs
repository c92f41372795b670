//! MANIQA's scaled Swin transformer: windowed attention, shifted in every other block, with convolutions between.

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use spire_kernels::conv2d;
use spire_model::nn::attention::attend;
use spire_model::nn::resnet::conv3x3;

use super::{ManiqaConfig, Mlp};

/// Bias of the score of a key in another region of a shifted window, which suppresses it.
const ELSEWHERE: f32 = -100.0;

/// pyiqa's `SwinTransformer`.
#[derive(Module, Debug)]
pub struct SwinTransformer {
    layers: Vec<BasicLayer>,
    scale: f64,
}

impl SwinTransformer {
    /// For maps of `width` channels.
    pub fn new(config: &ManiqaConfig, width: usize, device: &Device) -> Self {
        let sizes = config.depths.iter().zip(&config.num_heads);
        let layers = sizes.map(|(&depth, &heads)| BasicLayer::new(config, width, depth, heads, device)).collect();
        Self { layers, scale: config.scale }
    }

    /// `[batch, width, side, side]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.layers.iter().fold(x, |x, layer| layer.forward(x.clone()) * self.scale + x)
    }
}

#[derive(Module, Debug)]
struct BasicLayer {
    blocks: Vec<SwinBlock>,
    conv: Conv2d,
}

impl BasicLayer {
    fn new(config: &ManiqaConfig, width: usize, depth: usize, heads: usize, device: &Device) -> Self {
        let block = |i| {
            let shift = if i % 2 == 0 { 0 } else { config.window_size / 2 };
            SwinBlock::new(config, width, heads, shift, device)
        };
        Self { blocks: (0..depth).map(block).collect(), conv: conv3x3(width, width, device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // The blocks have channels last.
        let x = self.blocks.iter().fold(x.permute([0, 2, 3, 1]), |x, block| block.forward(x));
        relu(conv2d(&self.conv, x.permute([0, 3, 1, 2])))
    }
}

#[derive(Module, Debug)]
struct SwinBlock {
    norm1: LayerNorm,
    attn: WindowAttention,
    norm2: LayerNorm,
    mlp: Mlp,
    window: usize,
    shift: usize,
}

#[derive(Module, Debug)]
struct WindowAttention {
    relative_position_bias_table: Param<Tensor<2>>,
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl SwinBlock {
    fn new(config: &ManiqaConfig, width: usize, heads: usize, shift: usize, device: &Device) -> Self {
        let window = config.window_size;
        let distances = (2 * window - 1).pow(2);
        let norm = || LayerNormConfig::new(width).init(device);
        Self {
            norm1: norm(),
            attn: WindowAttention {
                relative_position_bias_table: Initializer::Normal { mean: 0.0, std: 0.02 }
                    .init([distances, heads], device),
                qkv: LinearConfig::new(width, 3 * width).init(device),
                proj: LinearConfig::new(width, width).init(device),
                heads,
            },
            norm2: norm(),
            mlp: Mlp::new(width, config.dim_mlp, device),
            window,
            shift,
        }
    }

    /// `[batch, side, side, width]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, side, _, width] = x.dims();
        let (window, shift) = (self.window, self.shift as isize);
        let shifted = self.norm1.forward(x.clone()).roll(&[-shift, -shift], &[1, 2]);

        let (across, tokens) = (side / window, window * window);
        let windows = shifted
            .reshape([batch, across, window, across, window, width])
            .permute([0, 1, 3, 2, 4, 5])
            .reshape([batch * across * across, tokens, width]);
        let attended = self.attn.forward(windows, self.bias(batch, side));
        let attended = attended
            .reshape([batch, across, across, window, window, width])
            .permute([0, 1, 3, 2, 4, 5])
            .reshape([batch, side, side, width]);

        let x = x + attended.roll(&[shift, shift], &[1, 2]);
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }

    /// The bias of the scores of each window, `[batch * windows, heads, window², window²]`.
    fn bias(&self, batch: usize, side: usize) -> Tensor<4> {
        let (window, tokens) = (self.window, self.window.pow(2));
        let device = self.attn.relative_position_bias_table.val().device();
        // The relative position of query and key, counted from the smallest.
        let distance = |query: usize, key: usize| {
            let along = |query: usize, key: usize| query + window - 1 - key;
            along(query / window, key / window) * (2 * window - 1) + along(query % window, key % window)
        };
        let pairs = || (0..tokens).flat_map(|query| (0..tokens).map(move |key| (query, key)));
        let distances: Vec<i64> = pairs().map(|(query, key)| distance(query, key) as i64).collect();
        let distances = Tensor::<1, Int>::from_data(TensorData::new(distances, [tokens * tokens]), &device);
        let table = self.attn.relative_position_bias_table.val();
        let relative =
            table.select(0, distances).reshape([tokens, tokens, self.attn.heads]).permute([2, 0, 1]).unsqueeze::<4>();

        let across = side / window;
        let windows = across * across;
        let mut masks = Vec::with_capacity(windows * tokens * tokens);
        for w in 0..windows {
            let region = |token: usize| {
                let row = w / across * window + token / window;
                let column = w % across * window + token % window;
                [row, column].map(|position| self.region(position, side))
            };
            masks.extend(pairs().map(|(query, key)| if region(query) == region(key) { 0.0 } else { ELSEWHERE }));
        }
        let masks = Tensor::<4>::from_data(TensorData::new(masks, [windows, 1, tokens, tokens]), &device);
        (relative + masks).repeat_dim(0, batch)
    }

    /// The region of a row or column of the shifted map: parts that wrap around are not neighbours.
    fn region(&self, position: usize, side: usize) -> usize {
        match self.shift {
            0 => 0,
            shift => usize::from(position >= side - self.window) + usize::from(position >= side - shift),
        }
    }
}

impl WindowAttention {
    fn forward(&self, x: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let [query, key, value] =
            self.qkv.forward(x).chunk(3, 2).try_into().expect("three times the width is three chunks");
        self.proj.forward(attend(query, key, value, self.heads, Some(bias)))
    }
}
