//! BSRNet and BSRGAN (Zhang et al. 2021, <https://arxiv.org/abs/2103.14006>): ESRGAN's network of residual dense blocks.

use anyhow::{Context, Result, ensure};
use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::tensor::activation::leaky_relu;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use spire_kernels::{add_conv2d, add_convolved, conv2d, convolve};

use super::architecture::{FeedForward, count, fill};
use crate::nn::pixels::doubled;
use crate::nn::resnet::conv3x3;
use crate::weights::Tensors;

/// Weight of the residuals.
const RESIDUAL: f64 = 0.2;

/// Slope of the rectifiers below 0.
const SLOPE: f64 = 0.2;

/// The `RRDBNet` of BSRNet and BSRGAN.
#[derive(Module, Debug)]
pub struct RrdbNet {
    conv_first: Conv2d,
    rrdb_trunk: Vec<Rrdb>,
    trunk_conv: Conv2d,
    upconv1: Conv2d,
    upconv2: Option<Conv2d>,
    hrconv: Conv2d,
    conv_last: Conv2d,
    channels: usize,
}

/// Three dense blocks.
#[derive(Module, Debug)]
pub struct Rrdb {
    rdb1: DenseBlock,
    rdb2: DenseBlock,
    rdb3: DenseBlock,
}

/// Five convolutions; each reads the input and the outputs of all earlier ones.
#[derive(Module, Debug)]
struct DenseBlock {
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
    conv4: Conv2d,
    conv5: Conv2d,
}

impl RrdbNet {
    /// From a checkpoint's tensors, by their official names; the sizes are those of the tensors.
    ///
    /// # Errors
    /// The tensors are not those of such a network.
    pub fn from_tensors(tensors: &Tensors, device: &Device) -> Result<Self> {
        let network = Self::of_size(tensors, device)
            .with_context(|| format!("{} is not a checkpoint of BSRNet or BSRGAN", tensors.origin()))?;
        // The official names have capitals.
        fill(network, tensors.renamed(|name| Some(name.to_lowercase())))
    }

    fn of_size(tensors: &Tensors, device: &Device) -> Result<Self> {
        let [width, channels, ..] = tensors.shape::<4>("conv_first.weight")?;
        let [growth, ..] = tensors.shape::<4>("RRDB_trunk.0.RDB1.conv1.weight")?;
        ensure!([1, 3].contains(&channels), "pictures of {channels} channels are not supported, but of 1 and 3");
        let conv = |from, to| conv3x3(from, to, device);
        let blocks = count(tensors, |i| format!("RRDB_trunk.{i}."), 0);
        Ok(Self {
            conv_first: conv(channels, width),
            rrdb_trunk: blocks.map(|_| Rrdb::new(width, growth, device)).collect(),
            trunk_conv: conv(width, width),
            upconv1: conv(width, width),
            // The network for twice the size has one step.
            upconv2: tensors.has("upconv2.").then(|| conv(width, width)),
            hrconv: conv(width, width),
            conv_last: conv(width, channels),
            channels,
        })
    }
}

impl FeedForward for RrdbNet {
    fn channels(&self) -> usize {
        self.channels
    }

    fn enlarged(&self) -> [usize; 2] {
        [if self.upconv2.is_some() { 4 } else { 2 }, 1]
    }

    fn side_multiple(&self) -> usize {
        1
    }

    fn padded(&self, side: usize) -> usize {
        side
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shallow = conv2d(&self.conv_first, x);
        let deep = self.rrdb_trunk.iter().fold(shallow.clone(), |x, block| block.forward(x));
        let features = add_conv2d(shallow, &self.trunk_conv, deep);
        let steps = [Some(&self.upconv1), self.upconv2.as_ref()].into_iter().flatten();
        let enlarged = steps.fold(features, |x, conv| leaky_relu(conv2d(conv, doubled(x)), SLOPE));
        conv2d(&self.conv_last, leaky_relu(conv2d(&self.hrconv, enlarged), SLOPE))
    }
}

impl Rrdb {
    /// On `width` channels; each convolution of a dense block adds `growth` channels to what the next ones read.
    pub fn new(width: usize, growth: usize, device: &Device) -> Self {
        let conv = |from, to| conv3x3(from, to, device);
        let dense = || DenseBlock {
            conv1: conv(width, growth),
            conv2: conv(width + growth, growth),
            conv3: conv(width + 2 * growth, growth),
            conv4: conv(width + 3 * growth, growth),
            conv5: conv(width + 4 * growth, width),
        };
        Self { rdb1: dense(), rdb2: dense(), rdb3: dense() }
    }

    /// `[batch, width, height, width]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let blocks = [&self.rdb1, &self.rdb2, &self.rdb3];
        blocks.into_iter().fold(x.clone(), |x, block| block.forward(x)).mul_scalar(RESIDUAL) + x
    }
}

impl DenseBlock {
    /// Each map is convolved once for all convolutions that read it, instead of each convolution reading all earlier maps
    /// together: the products are larger, and nothing is concatenated.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let convs = [&self.conv1, &self.conv2, &self.conv3, &self.conv4, &self.conv5];
        let biases = convs.iter().filter_map(|conv| conv.bias.as_ref().map(Param::val)).collect();
        let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
        let (mut read, mut first) = (x.clone(), 0);
        // Of the convolutions that are not computed yet.
        let mut sums: Option<Tensor<4>> = None;
        for (i, conv) in convs.into_iter().enumerate() {
            let ([_, from, _, _], [to, ..]) = (read.dims(), conv.weight.dims());
            let weights = convs[i..].iter().map(|conv| conv.weight.val().narrow(1, first, from)).collect();
            let bias = (i == 0).then(|| Tensor::cat(Vec::clone(&biases), 0));
            let weight = Tensor::cat(weights, 0);
            let all = match sums {
                Some(sums) => add_convolved(sums, read, weight, bias, options.clone()),
                None => convolve(read, weight, bias, options.clone()),
            };
            read = all.clone().narrow(1, 0, to);
            let rest = all.dims()[1] - to;
            sums = (rest > 0).then(|| all.narrow(1, to, rest));
            if rest > 0 {
                read = leaky_relu(read, SLOPE);
            }
            first += from;
        }
        read.mul_scalar(RESIDUAL) + x
    }
}
