//! The denoising UNet: diffusers' `UNet2DConditionModel`, built from its `config.json`.

pub mod blocks;
pub mod config;

use std::path::Path;

use anyhow::Result;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{DType, Device, Tensor};
use spire_kernels::{conv2d, group_norm_silu};

use blocks::{Conditions, DownBlock, MidBlock, UpBlock};
pub use config::UNetConfig;

use crate::fusion::ScaleAndBias;
pub use crate::nn::Features;
use crate::nn::resnet::conv3x3;
use crate::nn::timestep::{TimestepEmbedding, Timesteps};
use crate::weights;

/// Predicts the noise (or velocity) of a noisy latent, given the timestep and the prompt's states.
#[derive(Module, Debug)]
pub struct UNet {
    conv_in: Conv2d,
    time_proj: Timesteps,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet {
    /// Random weights.
    ///
    /// # Errors
    /// The configuration's settings contradict each other.
    pub fn new(config: &UNetConfig, device: &Device) -> Result<Self> {
        config.check()?;
        config.check_decoder()?;
        let width = config.block_out_channels[0];
        Ok(Self {
            conv_in: conv3x3(config.in_channels, width, device),
            time_proj: Timesteps::new(width, config.flip_sin_to_cos, config.freq_shift),
            time_embedding: TimestepEmbedding::new(width, config.time_width(), device),
            down_blocks: blocks::down_blocks(config, device),
            mid_block: MidBlock::new(config, device),
            up_blocks: blocks::up_blocks(config, device),
            conv_norm_out: GroupNormConfig::new(config.norm_num_groups, width)
                .with_epsilon(config.norm_eps)
                .init(device),
            conv_out: conv3x3(width, config.out_channels, device),
        })
    }

    /// Loads a folder with `config.json` and safetensors.
    ///
    /// # Errors
    /// A file is unreadable, a setting is not supported, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        weights::load(Self::new(&UNetConfig::read(folder)?, device)?, folder)
    }

    /// `sample` `[batch, in_channels, height, width]`, `timestep` `[batch]`, `context`
    /// `[batch, tokens, cross_attention_dim]`, to `[batch, out_channels, height, width]`.
    pub fn forward(&self, sample: Tensor<4>, timestep: Tensor<1>, context: Tensor<3>) -> Tensor<4> {
        let time = self.embed_time(timestep);
        let features = self.encode(sample, &time, &context);
        self.decode(features, None, &time, &context)
    }

    /// As [`Self::forward`], with `down` and `mid` added to the skips and the middle block's output, as ControlNet does.
    pub fn forward_controlled(
        &self,
        sample: Tensor<4>,
        timestep: Tensor<1>,
        context: Tensor<3>,
        down: Vec<Tensor<4>>,
        mid: Tensor<4>,
    ) -> Tensor<4> {
        let time = self.embed_time(timestep);
        let features = self.encode(sample, &time, &context);
        let down = features.down.into_iter().zip(down).map(|(skip, residual)| skip + residual).collect();
        self.decode(Features { down, mid: features.mid + mid }, None, &time, &context)
    }

    /// As [`Self::forward`], with the residual blocks modulated by `structure`, a map for each resolution, outermost first,
    /// `[batch, structure_channels, height, width]`: StableSR's UNet.
    pub fn forward_modulated(
        &self,
        sample: Tensor<4>,
        timestep: Tensor<1>,
        context: &Tensor<3>,
        structure: &[Tensor<4>],
    ) -> Tensor<4> {
        let time = self.embed_time(timestep);
        let conditions = Conditions { structure: Some(structure), ..Conditions::new(&time, context) };
        let x = conv2d(&self.conv_in, sample);
        let features = blocks::encode(&self.down_blocks, &self.mid_block, x, conditions);
        self.end(blocks::decode(&self.up_blocks, features, None, conditions))
    }

    /// The first convolution; a control branch starts from a copy.
    pub fn conv_in(&self) -> &Conv2d {
        &self.conv_in
    }

    /// The float type of the weights, in which the UNet computes. Inputs and outputs are f32.
    pub fn dtype(&self) -> DType {
        self.conv_in.weight.dtype()
    }

    /// The timestep embedding: `[batch]` to `[batch, time_width]`.
    pub fn embed_time(&self, timestep: Tensor<1>) -> Tensor<2> {
        self.time_embedding.forward(self.time_proj.forward(timestep).cast(self.dtype()))
    }

    /// The encoder and the middle block: f32 features of `sample` `[batch, in_channels, height, width]`.
    pub fn encode(&self, sample: Tensor<4>, time: &Tensor<2>, context: &Tensor<3>) -> Features {
        let x = conv2d(&self.conv_in, sample.cast(self.dtype()));
        let context = context.clone().cast(self.dtype());
        blocks::encode(&self.down_blocks, &self.mid_block, x, Conditions::new(time, &context)).cast(DType::F32)
    }

    /// The decoder, on features that may have been fused with a control branch's: to `[batch, out_channels, height, width]`.
    /// `up` modulates the decoder's own features ([`crate::fusion::Fusion::ModulateSkipAndUp`]).
    pub fn decode(
        &self,
        features: Features,
        up: Option<Vec<ScaleAndBias>>,
        time: &Tensor<2>,
        context: &Tensor<3>,
    ) -> Tensor<4> {
        let up = up.map(|up| up.into_iter().map(|modulation| modulation.cast(self.dtype())).collect());
        let context = context.clone().cast(self.dtype());
        let x = blocks::decode(&self.up_blocks, features.cast(self.dtype()), up, Conditions::new(time, &context));
        self.end(x)
    }

    fn end(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, x)).cast(DType::F32)
    }
}
