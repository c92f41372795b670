//! SCUNet (Zhang et al. 2022, <https://arxiv.org/abs/2203.13278>): a UNet whose blocks have convolutions and Swin attention
//! side by side.

use anyhow::{Context, Result, ensure};
use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use spire_kernels::{Windows, add_conv2d, add_linear, conv2d, convolve, linear, window_attention};

use super::architecture::{FeedForward, count, fill};
use crate::nn::pixels::{Mirror, extend, pixel_shuffle};
use crate::nn::resnet::conv1x1;
use crate::nn::swin::Mlp;
use crate::weights::Tensors;

/// Width of an attention's head.
const HEAD_WIDTH: usize = 32;

/// Side of a window in positions.
const WINDOW: usize = 8;

/// Sides of pictures are extended to multiples: three halvings, and whole windows of the smallest map.
const SIDE_MULTIPLE: usize = 8 * WINDOW;

/// Ratio of the feed-forward networks' inner width.
const MLP_RATIO: usize = 4;

/// A SCUNet.
#[derive(Module, Debug)]
pub struct ScuNet {
    m_head: Conv2d,
    down: Vec<Down>,
    m_body: Vec<ConvTransBlock>,
    up: Vec<Up>,
    m_tail: Conv2d,
    channels: usize,
}

/// Blocks, then a strided convolution to half the size and twice the width.
#[derive(Module, Debug)]
struct Down {
    blocks: Vec<ConvTransBlock>,
    conv: Conv2d,
}

/// A transposed convolution to twice the size and half the width, then blocks.
#[derive(Module, Debug)]
struct Up {
    /// `[from, to, 2, 2]`
    weight: Param<Tensor<4>>,
    blocks: Vec<ConvTransBlock>,
}

/// Half of the channels through convolutions, the other half through attention.
#[derive(Module, Debug)]
struct ConvTransBlock {
    trans_block: TransBlock,
    conv1_1: Conv2d,
    conv1_2: Conv2d,
    conv_block: Vec<Conv2d>,
}

#[derive(Module, Debug)]
struct TransBlock {
    ln1: LayerNorm,
    msa: Attention,
    ln2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    embedding_layer: Linear,
    /// `[heads, 2 · window − 1, 2 · window − 1]`
    relative_position_params: Param<Tensor<3>>,
    linear: Linear,
    #[module(skip)]
    windows: Windows,
}

impl ScuNet {
    /// From a checkpoint's tensors, by their official names; the sizes are those of the tensors.
    ///
    /// # Errors
    /// The tensors are not those of such a network.
    pub fn from_tensors(tensors: &Tensors, device: &Device) -> Result<Self> {
        let network = Self::of_size(tensors, device)
            .with_context(|| format!("{} is not a checkpoint of a SCUNet", tensors.origin()))?;
        fill(network, tensors.renamed(|name| Some(field(name))))
    }

    fn of_size(tensors: &Tensors, device: &Device) -> Result<Self> {
        let [width, channels, ..] = tensors.shape::<4>("m_head.0.weight")?;
        ensure!([1, 3].contains(&channels), "pictures of {channels} channels are not supported, but of 1 and 3");
        ensure!(
            width > 0 && width.is_multiple_of(2 * HEAD_WIDTH),
            "{width} channels are no multiple of {}: half of them can't be split into heads",
            2 * HEAD_WIDTH
        );
        let blocks = |stage: &str, first: usize, width: usize| {
            let there = count(tensors, |i| format!("{stage}.{i}.trans_block."), first);
            there.enumerate().map(|(i, _)| ConvTransBlock::new(i, width, device)).collect()
        };
        let scale = |depth: usize| width << depth;
        let down = |i: usize| Down {
            blocks: blocks(&format!("m_down{}", i + 1), 0, scale(i)),
            conv: Conv2dConfig::new([scale(i), scale(i + 1)], [2, 2]).with_stride([2, 2]).with_bias(false).init(device),
        };
        let up = |i: usize| Up {
            weight: Initializer::Zeros.init([scale(i + 1), scale(i), 2, 2], device),
            blocks: blocks(&format!("m_up{}", i + 1), 1, scale(i)),
        };
        Ok(Self {
            m_head: conv(channels, width, device),
            down: (0..3).map(down).collect(),
            m_body: blocks("m_body", 0, scale(3)),
            up: (0..3).rev().map(up).collect(),
            m_tail: conv(width, channels, device),
            channels,
        })
    }
}

/// A 3×3 convolution without bias that keeps the size.
fn conv(from: usize, to: usize, device: &Device) -> Conv2d {
    let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
    Conv2dConfig::new([from, to], [3, 3]).with_padding(padding).with_bias(false).init(device)
}

impl FeedForward for ScuNet {
    fn channels(&self) -> usize {
        self.channels
    }

    fn enlarged(&self) -> [usize; 2] {
        [1, 1]
    }

    fn side_multiple(&self) -> usize {
        SIDE_MULTIPLE
    }

    /// The network itself extends pictures.
    fn padded(&self, side: usize) -> usize {
        side
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let size = [height, width].map(|side| side.next_multiple_of(SIDE_MULTIPLE));
        let mut x = conv2d(&self.m_head, extend(x, size, Mirror::Edge));
        let mut skips = vec![x.clone()];
        for Down { blocks, conv } in &self.down {
            x = conv2d(conv, blocks.iter().fold(x, |x, block| block.forward(x)));
            skips.push(x.clone());
        }
        x = self.m_body.iter().fold(x, |x, block| block.forward(x));
        for (up, skip) in self.up.iter().zip(skips.drain(1..).rev()) {
            x = up.forward(x + skip);
        }
        conv2d(&self.m_tail, x + skips.remove(0)).slice([0..batch, 0..channels, 0..height, 0..width])
    }
}

impl Up {
    /// `[batch, from, height, width]` to `[batch, to, 2 · height, 2 · width]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [from, to, _, _] = self.weight.dims();
        // Its pixels do not overlap: a pointwise convolution to the four pixels of each square.
        let weight = self.weight.val().permute([1, 2, 3, 0]).reshape([4 * to, from, 1, 1]);
        let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        let x = pixel_shuffle(convolve(x, weight, None, options), 2);
        self.blocks.iter().fold(x, |x, block| block.forward(x))
    }
}

impl ConvTransBlock {
    /// The block number `i` of a stage.
    fn new(i: usize, width: usize, device: &Device) -> Self {
        let half = width / 2;
        let heads = half / HEAD_WIDTH;
        // Every other block is shifted; positions of other regions are not read at all.
        let windows = Windows { side: WINDOW, shift: i % 2 * (WINDOW / 2), heads, elsewhere: f32::NEG_INFINITY };
        let norm = || LayerNormConfig::new(half).init(device);
        let across = 2 * WINDOW - 1;
        Self {
            trans_block: TransBlock {
                ln1: norm(),
                msa: Attention {
                    embedding_layer: LinearConfig::new(half, 3 * half).init(device),
                    relative_position_params: Initializer::Normal { mean: 0.0, std: 0.02 }
                        .init([heads, across, across], device),
                    linear: LinearConfig::new(half, half).init(device),
                    windows,
                },
                ln2: norm(),
                mlp: Mlp::new(half, MLP_RATIO * half, device),
            },
            conv1_1: conv1x1(width, width, device),
            conv1_2: conv1x1(width, width, device),
            conv_block: vec![conv(half, half, device), conv(half, half, device)],
        }
    }

    /// `[batch, width, height, width]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let halves = conv2d(&self.conv1_1, x.clone()).chunk(2, 1);
        let [convolved, attended] = halves.try_into().expect("an even number of channels has two halves");
        let inner = relu(conv2d(&self.conv_block[0], convolved.clone()));
        let convolved = add_conv2d(convolved, &self.conv_block[1], inner);
        let attended = self.trans_block.forward(attended.permute([0, 2, 3, 1])).permute([0, 3, 1, 2]);
        add_conv2d(x, &self.conv1_2, Tensor::cat(vec![convolved, attended], 1))
    }
}

impl TransBlock {
    /// `[batch, height, width, channels]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let Attention { embedding_layer, relative_position_params, linear: out, windows } = &self.msa;
        let qkv = linear(embedding_layer, self.ln1.forward(x.clone()));
        let [heads, across, _] = relative_position_params.dims();
        let table = relative_position_params.val().reshape([heads, across * across]).swap_dims(0, 1);
        let x = add_linear(x, out, window_attention(qkv, table, *windows));
        self.mlp.add(x.clone(), self.ln2.forward(x))
    }
}

/// The field of a tensor. The official code numbers layers without weights too, and has the convolutions between the stages
/// among the blocks.
fn field(name: &str) -> String {
    let name = name.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.2.", ".mlp.fc2.");
    let name = name.replace(".conv_block.2.", ".conv_block.1.");
    let parts: Vec<&str> = name.splitn(3, '.').collect();
    let number = |stage: &str, prefix| stage.strip_prefix(prefix).and_then(|number| number.parse::<usize>().ok());
    let (stage, i, rest) = match parts.as_slice() {
        [stage @ ("m_head" | "m_tail"), "0", rest] => return format!("{stage}.{rest}"),
        [stage, i, rest] => (*stage, *i, *rest),
        _ => return name,
    };
    match (number(stage, "m_down"), number(stage, "m_up"), i.parse::<usize>()) {
        (Some(down @ 1..=3), _, _) if rest == "weight" => format!("down.{}.conv.weight", down - 1),
        (Some(down @ 1..=3), _, _) => format!("down.{}.blocks.{i}.{rest}", down - 1),
        (_, Some(up @ 1..=3), Ok(0)) => format!("up.{}.{rest}", 3 - up),
        (_, Some(up @ 1..=3), Ok(i)) => format!("up.{}.blocks.{}.{rest}", 3 - up, i - 1),
        _ => name,
    }
}
