//! DiffBIR's control branch, IRControlNet: a copy of the UNet's encoder that reads the noisy latent and the latent of the first
//! stage's picture, concatenated. Its features are added to the UNet's.

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use spire_kernels::conv2d;

use crate::fusion::{residuals, zero_conv};
use crate::nn::Features;
use crate::nn::resnet::conv3x3;
use crate::nn::timestep::{TimestepEmbedding, Timesteps};
use crate::unet::UNetConfig;
use crate::unet::blocks::{self, Conditions, DownBlock, MidBlock};
use crate::weights::single_file::control_net;
use crate::weights::{Precision, Tensors, fill};

/// An IRControlNet.
#[derive(Module, Debug)]
pub struct IrControlNet {
    conv_in: Conv2d,
    time_proj: Timesteps,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    controlnet_down_blocks: Vec<Conv2d>,
    controlnet_mid_block: Conv2d,
}

impl IrControlNet {
    /// Reads a published checkpoint (`v1_general.pth`, `v2.pth`, `DiffBIR_v2.1.pt`), or a folder with its weights.
    ///
    /// # Errors
    /// The file can't be read, or holds no IRControlNet.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let tensors = Tensors::at(path)?;
        let (config, tensors) = control_net(&tensors)
            .with_context(|| format!("{} is not a checkpoint of DiffBIR's IRControlNet", tensors.origin()))?;
        fill(Self::new(&config, device), tensors, Precision::F32)
    }

    fn new(config: &UNetConfig, device: &Device) -> Self {
        let width = config.block_out_channels[0];
        let skips = config.skip_channels();
        let inner = config.block_out_channels[config.block_out_channels.len() - 1];
        Self {
            conv_in: conv3x3(config.in_channels, width, device),
            time_proj: Timesteps::new(width, config.flip_sin_to_cos, config.freq_shift),
            time_embedding: TimestepEmbedding::new(width, config.time_width(), device),
            down_blocks: blocks::down_blocks(config, device),
            mid_block: MidBlock::new(config, device),
            controlnet_down_blocks: skips.iter().map(|&channels| zero_conv(channels, channels, device)).collect(),
            controlnet_mid_block: zero_conv(inner, inner, device),
        }
    }

    /// What is added to the UNet's features. `sample` and `condition` are latents `[batch, channels, height, width]`,
    /// `timestep` `[batch]`, `context` the prompts' states `[batch, tokens, width]`.
    pub fn residuals(
        &self,
        sample: Tensor<4>,
        condition: Tensor<4>,
        timestep: Tensor<1>,
        context: &Tensor<3>,
    ) -> Features {
        let x = conv2d(&self.conv_in, Tensor::cat(vec![sample, condition], 1));
        let time = self.time_embedding.forward(self.time_proj.forward(timestep));
        let features = blocks::encode(&self.down_blocks, &self.mid_block, x, Conditions::new(&time, context));
        residuals(&self.controlnet_down_blocks, &self.controlnet_mid_block, features)
    }
}
