//! Inception v3 as used for FID: the network of TensorFlow's 2015 graph in the form of `pytorch_fid.inception`.
//!
//! It differs from torchvision's: average pooling does not count the padding, and the last block uses max pooling
//! instead.

#![allow(non_snake_case, reason = "fields have the names of the state dict")]

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use spire_kernels::{Window, avg_pool2d, conv2d, max_pool2d};
use spire_model::weights::{self, Precision, Tensors};

/// Number of features: the channels of the last block.
pub const FEATURES: usize = 2048;

/// Side of the input in pixels.
pub const SIDE: usize = 299;

/// Epsilon of the batch normalisations.
const EPSILON: f64 = 1e-3;

/// The network up to the last average pooling.
#[derive(Module, Debug)]
pub struct Inception {
    Conv2d_1a_3x3: Conv2d,
    Conv2d_2a_3x3: Conv2d,
    Conv2d_2b_3x3: Conv2d,
    Conv2d_3b_1x1: Conv2d,
    Conv2d_4a_3x3: Conv2d,
    Mixed_5b: BlockA,
    Mixed_5c: BlockA,
    Mixed_5d: BlockA,
    Mixed_6a: BlockB,
    Mixed_6b: BlockC,
    Mixed_6c: BlockC,
    Mixed_6d: BlockC,
    Mixed_6e: BlockC,
    Mixed_7a: BlockD,
    Mixed_7b: BlockE,
    Mixed_7c: BlockE,
}

impl Inception {
    /// Reads pytorch-fid's weights (`pt_inception-2015-12-05-6726825d.pth`), or a file in another format with the same
    /// names. The batch normalisations are folded into the convolutions; the classifier is not read.
    ///
    /// # Errors
    /// The file can't be read, or its tensors do not fit the network.
    pub fn load(file: &Path, device: &Device) -> Result<Self> {
        let published = Tensors::open(file)?.renamed(|name| (!name.starts_with("fc.")).then(|| name.to_owned()));
        let folded = published.with_folded_norms(EPSILON).with_context(|| file.display().to_string())?;
        weights::fill(Self::new(device), folded, Precision::F32)
    }

    fn new(device: &Device) -> Self {
        let conv =
            |from, to, side, stride, padding| convolution(from, to, [side, side], stride, [padding, padding], device);
        Self {
            Conv2d_1a_3x3: conv(3, 32, 3, 2, 0),
            Conv2d_2a_3x3: conv(32, 32, 3, 1, 0),
            Conv2d_2b_3x3: conv(32, 64, 3, 1, 1),
            Conv2d_3b_1x1: conv(64, 80, 1, 1, 0),
            Conv2d_4a_3x3: conv(80, 192, 3, 1, 0),
            Mixed_5b: BlockA::new(192, 32, device),
            Mixed_5c: BlockA::new(256, 64, device),
            Mixed_5d: BlockA::new(288, 64, device),
            Mixed_6a: BlockB::new(288, device),
            Mixed_6b: BlockC::new(768, 128, device),
            Mixed_6c: BlockC::new(768, 160, device),
            Mixed_6d: BlockC::new(768, 160, device),
            Mixed_6e: BlockC::new(768, 192, device),
            Mixed_7a: BlockD::new(768, device),
            Mixed_7b: BlockE::new(1280, device),
            Mixed_7c: BlockE::new(2048, device),
        }
    }

    /// `[batch, 3, 299, 299]` in \[-1, 1\] to features `[batch, 2048]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = apply(&self.Conv2d_1a_3x3, x);
        let x = apply(&self.Conv2d_2a_3x3, x);
        let x = apply(&self.Conv2d_2b_3x3, x);
        let x = halving_maximum(x);
        let x = apply(&self.Conv2d_3b_1x1, x);
        let x = apply(&self.Conv2d_4a_3x3, x);
        let x = halving_maximum(x);
        let x = [&self.Mixed_5b, &self.Mixed_5c, &self.Mixed_5d].into_iter().fold(x, |x, block| block.forward(x));
        let x = self.Mixed_6a.forward(x);
        let blocks = [&self.Mixed_6b, &self.Mixed_6c, &self.Mixed_6d, &self.Mixed_6e];
        let x = blocks.into_iter().fold(x, |x, block| block.forward(x));
        let x = self.Mixed_7a.forward(x);
        let x = self.Mixed_7b.forward(x, average);
        let x = self.Mixed_7c.forward(x, maximum);
        let [batch, channels, height, width] = x.dims();
        x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels])
    }
}

/// A convolution with folded normalisation.
fn convolution(
    from: usize,
    to: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
    device: &Device,
) -> Conv2d {
    let [rows, columns] = padding;
    Conv2dConfig::new([from, to], kernel)
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(rows, columns, rows, columns))
        .init(device)
}

fn apply(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    relu(conv2d(conv, x))
}

/// Applies the convolutions in order.
fn chain<'a>(convs: impl IntoIterator<Item = &'a Conv2d>, x: &Tensor<4>) -> Tensor<4> {
    convs.into_iter().fold(x.clone(), |x, conv| apply(conv, x))
}

fn halving_maximum(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, Window { side: 3, stride: 2, padding: 0 })
}

/// 3 × 3 average pooling without counting the padding.
fn average(x: Tensor<4>) -> Tensor<4> {
    avg_pool2d(x, Window { side: 3, stride: 1, padding: 1 })
}

/// 3 × 3 max pooling.
fn maximum(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, Window { side: 3, stride: 1, padding: 1 })
}

/// The block at 35 × 35 pixels: 1 × 1, 5 × 5 and double 3 × 3 branches.
#[derive(Module, Debug)]
struct BlockA {
    branch1x1: Conv2d,
    branch5x5_1: Conv2d,
    branch5x5_2: Conv2d,
    branch3x3dbl_1: Conv2d,
    branch3x3dbl_2: Conv2d,
    branch3x3dbl_3: Conv2d,
    branch_pool: Conv2d,
}

impl BlockA {
    fn new(channels: usize, pooled: usize, device: &Device) -> Self {
        let conv = |from, to, side: usize| convolution(from, to, [side, side], 1, [side / 2, side / 2], device);
        Self {
            branch1x1: conv(channels, 64, 1),
            branch5x5_1: conv(channels, 48, 1),
            branch5x5_2: conv(48, 64, 5),
            branch3x3dbl_1: conv(channels, 64, 1),
            branch3x3dbl_2: conv(64, 96, 3),
            branch3x3dbl_3: conv(96, 96, 3),
            branch_pool: conv(channels, pooled, 1),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branches = vec![
            apply(&self.branch1x1, x.clone()),
            chain([&self.branch5x5_1, &self.branch5x5_2], &x),
            chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3], &x),
            apply(&self.branch_pool, average(x)),
        ];
        Tensor::cat(branches, 1)
    }
}

/// The block from 35 × 35 to 17 × 17 pixels.
#[derive(Module, Debug)]
struct BlockB {
    branch3x3: Conv2d,
    branch3x3dbl_1: Conv2d,
    branch3x3dbl_2: Conv2d,
    branch3x3dbl_3: Conv2d,
}

impl BlockB {
    fn new(channels: usize, device: &Device) -> Self {
        let conv =
            |from, to, side, stride, padding| convolution(from, to, [side, side], stride, [padding, padding], device);
        Self {
            branch3x3: conv(channels, 384, 3, 2, 0),
            branch3x3dbl_1: conv(channels, 64, 1, 1, 0),
            branch3x3dbl_2: conv(64, 96, 3, 1, 1),
            branch3x3dbl_3: conv(96, 96, 3, 2, 0),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branches = vec![
            apply(&self.branch3x3, x.clone()),
            chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3], &x),
            halving_maximum(x),
        ];
        Tensor::cat(branches, 1)
    }
}

/// The block at 17 × 17 pixels: factorised 7 × 7 branches, single and double.
#[derive(Module, Debug)]
struct BlockC {
    branch1x1: Conv2d,
    branch7x7_1: Conv2d,
    branch7x7_2: Conv2d,
    branch7x7_3: Conv2d,
    branch7x7dbl_1: Conv2d,
    branch7x7dbl_2: Conv2d,
    branch7x7dbl_3: Conv2d,
    branch7x7dbl_4: Conv2d,
    branch7x7dbl_5: Conv2d,
    branch_pool: Conv2d,
}

impl BlockC {
    fn new(channels: usize, inner: usize, device: &Device) -> Self {
        let point = |from, to| convolution(from, to, [1, 1], 1, [0, 0], device);
        let row = |from, to| convolution(from, to, [1, 7], 1, [0, 3], device);
        let column = |from, to| convolution(from, to, [7, 1], 1, [3, 0], device);
        Self {
            branch1x1: point(channels, 192),
            branch7x7_1: point(channels, inner),
            branch7x7_2: row(inner, inner),
            branch7x7_3: column(inner, 192),
            branch7x7dbl_1: point(channels, inner),
            branch7x7dbl_2: column(inner, inner),
            branch7x7dbl_3: row(inner, inner),
            branch7x7dbl_4: column(inner, inner),
            branch7x7dbl_5: row(inner, 192),
            branch_pool: point(channels, 192),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let twice = [
            &self.branch7x7dbl_1,
            &self.branch7x7dbl_2,
            &self.branch7x7dbl_3,
            &self.branch7x7dbl_4,
            &self.branch7x7dbl_5,
        ];
        let branches = vec![
            apply(&self.branch1x1, x.clone()),
            chain([&self.branch7x7_1, &self.branch7x7_2, &self.branch7x7_3], &x),
            chain(twice, &x),
            apply(&self.branch_pool, average(x)),
        ];
        Tensor::cat(branches, 1)
    }
}

/// The block from 17 × 17 to 8 × 8 pixels.
#[derive(Module, Debug)]
struct BlockD {
    branch3x3_1: Conv2d,
    branch3x3_2: Conv2d,
    branch7x7x3_1: Conv2d,
    branch7x7x3_2: Conv2d,
    branch7x7x3_3: Conv2d,
    branch7x7x3_4: Conv2d,
}

impl BlockD {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            branch3x3_1: convolution(channels, 192, [1, 1], 1, [0, 0], device),
            branch3x3_2: convolution(192, 320, [3, 3], 2, [0, 0], device),
            branch7x7x3_1: convolution(channels, 192, [1, 1], 1, [0, 0], device),
            branch7x7x3_2: convolution(192, 192, [1, 7], 1, [0, 3], device),
            branch7x7x3_3: convolution(192, 192, [7, 1], 1, [3, 0], device),
            branch7x7x3_4: convolution(192, 192, [3, 3], 2, [0, 0], device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branches = vec![
            chain([&self.branch3x3_1, &self.branch3x3_2], &x),
            chain([&self.branch7x7x3_1, &self.branch7x7x3_2, &self.branch7x7x3_3, &self.branch7x7x3_4], &x),
            halving_maximum(x),
        ];
        Tensor::cat(branches, 1)
    }
}

/// The block at 8 × 8 pixels: 3 × 3 as parallel row and column convolutions.
#[derive(Module, Debug)]
struct BlockE {
    branch1x1: Conv2d,
    branch3x3_1: Conv2d,
    branch3x3_2a: Conv2d,
    branch3x3_2b: Conv2d,
    branch3x3dbl_1: Conv2d,
    branch3x3dbl_2: Conv2d,
    branch3x3dbl_3a: Conv2d,
    branch3x3dbl_3b: Conv2d,
    branch_pool: Conv2d,
}

impl BlockE {
    fn new(channels: usize, device: &Device) -> Self {
        let point = |from, to| convolution(from, to, [1, 1], 1, [0, 0], device);
        let row = || convolution(384, 384, [1, 3], 1, [0, 1], device);
        let column = || convolution(384, 384, [3, 1], 1, [1, 0], device);
        Self {
            branch1x1: point(channels, 320),
            branch3x3_1: point(channels, 384),
            branch3x3_2a: row(),
            branch3x3_2b: column(),
            branch3x3dbl_1: point(channels, 448),
            branch3x3dbl_2: convolution(448, 384, [3, 3], 1, [1, 1], device),
            branch3x3dbl_3a: row(),
            branch3x3dbl_3b: column(),
            branch_pool: point(channels, 192),
        }
    }

    fn forward(&self, x: Tensor<4>, pool: fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let once = apply(&self.branch3x3_1, x.clone());
        let twice = chain([&self.branch3x3dbl_1, &self.branch3x3dbl_2], &x);
        let branches = vec![
            apply(&self.branch1x1, x.clone()),
            apply(&self.branch3x3_2a, once.clone()),
            apply(&self.branch3x3_2b, once),
            apply(&self.branch3x3dbl_3a, twice.clone()),
            apply(&self.branch3x3dbl_3b, twice),
            apply(&self.branch_pool, pool(x)),
        ];
        Tensor::cat(branches, 1)
    }
}
