//! MANIQA's scaled Swin transformer: windowed attention, shifted in every other block, with convolutions between.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use spire_kernels::conv2d;
use spire_model::nn::resnet::conv3x3;
use spire_model::nn::swin::{SwinBlock, alternating};

use super::ManiqaConfig;

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
        let block = |i| SwinBlock::new(width, config.dim_mlp, alternating(i, config.window_size, heads), device);
        Self { blocks: (0..depth).map(block).collect(), conv: conv3x3(width, width, device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // The blocks have channels last.
        let x = self.blocks.iter().fold(x.permute([0, 2, 3, 1]), |x, block| block.forward(x));
        relu(conv2d(&self.conv, x.permute([0, 3, 1, 2])))
    }
}
