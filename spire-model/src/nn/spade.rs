//! Spatially adaptive normalisation (Park et al. 2019, <https://arxiv.org/abs/1903.07291>): a scale and an offset for every
//! position, computed from another feature map.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use spire_kernels::{conv2d, group_norm};

use super::resnet::conv3x3;

/// Width of the features from which scale and offset are computed.
const HIDDEN: usize = 128;

/// The layer, with StableSR's names.
#[derive(Module, Debug)]
pub struct Spade {
    param_free_norm: GroupNorm,
    mlp_shared: Vec<Conv2d>,
    mlp_gamma: Conv2d,
    mlp_beta: Conv2d,
}

impl Spade {
    /// For `channels`, split into `groups`, from a map of `structure` channels.
    pub fn new(channels: usize, structure: usize, groups: usize, device: &Device) -> Self {
        Self {
            param_free_norm: GroupNormConfig::new(groups, channels).init(device),
            mlp_shared: vec![conv3x3(structure, HIDDEN, device)],
            mlp_gamma: conv3x3(HIDDEN, channels, device),
            mlp_beta: conv3x3(HIDDEN, channels, device),
        }
    }

    /// `x` `[batch, channels, height, width]`, modulated by `structure` `[batch, structure, height, width]`.
    pub fn forward(&self, x: Tensor<4>, structure: Tensor<4>) -> Tensor<4> {
        let hidden = self.mlp_shared.iter().fold(structure, |x, conv| relu(conv2d(conv, x)));
        let scale = conv2d(&self.mlp_gamma, hidden.clone()).add_scalar(1.0);
        group_norm(&self.param_free_norm, x) * scale + conv2d(&self.mlp_beta, hidden)
    }
}
