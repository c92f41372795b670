//! CLIP's residual image encoder: a stem of three convolutions, average pooling instead of strides, and attention
//! pooling at the end.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Device, Tensor};
use spire_kernels::conv2d;
use spire_model::nn::attention::attend;

use super::ClipIqaConfig;

/// Ratio of a block's output channels to its width.
const EXPANSION: usize = 4;

/// Width of a head of the attention pooling.
const HEAD_WIDTH: usize = 64;

/// OpenAI's `ModifiedResNet`.
#[derive(Module, Debug)]
pub struct ModifiedResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Conv2d,
    bn3: BatchNorm,
    layer1: Vec<Bottleneck>,
    layer2: Vec<Bottleneck>,
    layer3: Vec<Bottleneck>,
    layer4: Vec<Bottleneck>,
    attnpool: AttentionPool2d,
}

impl ModifiedResNet {
    /// Minimum side in pixels: a smaller picture has no pixels after the last pooling.
    pub const LEAST_SIDE: usize = 31;

    pub fn new(config: &ClipIqaConfig, device: &Device) -> Self {
        let width = config.vision_width;
        let stage = |i: usize| {
            let (width, stride) = (width << i, if i == 0 { 1 } else { 2 });
            // The first stage's input has the stem's `width` channels, the others' half of their own output's.
            let (from, to) = (if i == 0 { width } else { EXPANSION * width / 2 }, EXPANSION * width);
            let block = |j| match j {
                0 => Bottleneck::new(from, width, stride, device),
                _ => Bottleneck::new(to, width, 1, device),
            };
            (0..config.vision_layers[i]).map(block).collect::<Vec<_>>()
        };
        Self {
            conv1: conv(3, width / 2, 3, 2, device),
            bn1: batch_norm(width / 2, device),
            conv2: conv(width / 2, width / 2, 3, 1, device),
            bn2: batch_norm(width / 2, device),
            conv3: conv(width / 2, width, 3, 1, device),
            bn3: batch_norm(width, device),
            layer1: stage(0),
            layer2: stage(1),
            layer3: stage(2),
            layer4: stage(3),
            attnpool: AttentionPool2d::new(8 * EXPANSION * width, config.embed_dim, device),
        }
    }

    /// `[batch, 3, height, width]`, normalised, to embeddings `[batch, embed_dim]`, not normalised.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let stem = [(&self.conv1, &self.bn1), (&self.conv2, &self.bn2), (&self.conv3, &self.bn3)];
        let x = stem.into_iter().fold(x, |x, (conv, norm)| relu(norm.forward(conv2d(conv, x))));
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        let x = stages.into_iter().flatten().fold(average(x, 2), |x, block| block.forward(x));
        self.attnpool.forward(x)
    }
}

/// A convolution without bias; 3×3 convolutions are padded by one pixel.
fn conv(from: usize, to: usize, side: usize, stride: usize, device: &Device) -> Conv2d {
    let padding = side / 2;
    Conv2dConfig::new([from, to], [side, side])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .with_bias(false)
        .init(device)
}

fn batch_norm(channels: usize, device: &Device) -> BatchNorm {
    BatchNormConfig::new(channels).init(device)
}

/// Average pooling over `side` × `side` pixels; incomplete windows at the bottom and right are dropped.
fn average(x: Tensor<4>, side: usize) -> Tensor<4> {
    if side == 1 { x } else { avg_pool2d(x, AvgPoolOptions::new([side, side])) }
}

/// A residual block of three convolutions.
#[derive(Module, Debug)]
struct Bottleneck {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Conv2d,
    bn3: BatchNorm,
    downsample: Option<(Conv2d, BatchNorm)>,
    stride: usize,
}

impl Bottleneck {
    fn new(from: usize, width: usize, stride: usize, device: &Device) -> Self {
        let to = EXPANSION * width;
        let downsample = || (conv(from, to, 1, 1, device), batch_norm(to, device));
        Self {
            conv1: conv(from, width, 1, 1, device),
            bn1: batch_norm(width, device),
            conv2: conv(width, width, 3, 1, device),
            bn2: batch_norm(width, device),
            conv3: conv(width, to, 1, 1, device),
            bn3: batch_norm(to, device),
            downsample: (stride > 1 || from != to).then(downsample),
            stride,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let identity = match &self.downsample {
            Some((conv, norm)) => norm.forward(conv2d(conv, average(x.clone(), self.stride))),
            None => x.clone(),
        };
        let x = relu(self.bn1.forward(conv2d(&self.conv1, x)));
        let x = relu(self.bn2.forward(conv2d(&self.conv2, x)));
        relu(identity + self.bn3.forward(conv2d(&self.conv3, average(x, self.stride))))
    }
}

/// OpenAI's `AttentionPool2d`: the mean of all pixels is the query. Its position embeddings fit one size of picture;
/// CLIP-IQA omits them to support all sizes.
#[derive(Module, Debug)]
struct AttentionPool2d {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    c_proj: Linear,
    heads: usize,
}

impl AttentionPool2d {
    fn new(width: usize, embed_dim: usize, device: &Device) -> Self {
        let linear = |to| LinearConfig::new(width, to).init(device);
        Self {
            q_proj: linear(width),
            k_proj: linear(width),
            v_proj: linear(width),
            c_proj: linear(embed_dim),
            heads: width / HEAD_WIDTH,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let pixels = x.flatten::<3>(2, 3).swap_dims(1, 2);
        let mean = pixels.clone().mean_dim(1);
        let all = Tensor::cat(vec![mean.clone(), pixels], 1);
        let (query, key, value) =
            (self.q_proj.forward(mean), self.k_proj.forward(all.clone()), self.v_proj.forward(all));
        self.c_proj.forward(attend(query, key, value, self.heads, None)).squeeze_dim(1)
    }
}
