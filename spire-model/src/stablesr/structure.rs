//! StableSR's time-aware encoder: it reads the latent of the degraded picture and the timestep, and makes a map for each
//! resolution of the UNet.

use anyhow::{Context, Result};
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use spire_kernels::{conv2d, group_norm};

use crate::nn::attention::attend;
use crate::nn::resample::Downsample2d;
use crate::nn::resnet::{ResnetBlock2d, ResnetConfig, conv3x3};
use crate::nn::timestep::{TimestepEmbedding, Timesteps};
use crate::weights::single_file::{EncoderLayout, structure_encoder};
use crate::weights::{Precision, Tensors, fill};

/// Attention heads; a checkpoint's shapes do not tell.
const HEADS: usize = 4;

/// Groups of the normalisations.
const GROUPS: usize = 32;

/// The encoder.
#[derive(Module, Debug)]
pub struct StructureEncoder {
    conv_in: Conv2d,
    time_proj: Timesteps,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<Level>,
    mid_block: Level,
    fea_tran: Vec<ResnetBlock2d>,
}

/// The blocks of one resolution.
#[derive(Module, Debug)]
struct Level {
    resnets: Vec<ResnetBlock2d>,
    attentions: Option<Vec<SelfAttention>>,
    downsamplers: Option<Vec<Downsample2d>>,
}

/// Self-attention over the positions.
#[derive(Module, Debug)]
struct SelfAttention {
    norm: GroupNorm,
    qkv: Linear,
    proj_out: Linear,
}

impl StructureEncoder {
    /// From a checkpoint's tensors, by the official names; the sizes are those of the tensors.
    ///
    /// # Errors
    /// The tensors are not those of such an encoder.
    pub fn from_tensors(tensors: &Tensors, device: &Device) -> Result<Self> {
        let context = || format!("{} has no structure encoder of StableSR", tensors.origin());
        let (layout, mut tensors) = structure_encoder(tensors).with_context(context)?;
        let [out_channels, ..] = tensors.shape::<4>("fea_tran.0.conv1.weight").with_context(context)?;
        let network = Self::new(&layout, out_channels, device);
        // The attention's projections are convolutions of one position in the file.
        let projections: Vec<_> = tensors.iter().filter(|tensor| tensor.shape.len() == 3).cloned().collect();
        for projection in projections {
            tensors.reshape(&projection.name, &projection.shape.to_vec()[..2])?;
        }
        fill(network, tensors, Precision::F32)
    }

    fn new(layout: &EncoderLayout, out_channels: usize, device: &Device) -> Self {
        let EncoderLayout { in_channels, layers, channels, attends } = layout;
        let width = channels[0];
        let resnet = ResnetConfig {
            time_width: Some(4 * width),
            groups: GROUPS,
            epsilon: 1e-5,
            output_scale_factor: 1.0,
            structure_channels: None,
        };
        let (last, inner) = (channels.len() - 1, channels[channels.len() - 1]);
        let level = |i: usize| {
            let from = |layer| if layer == 0 { channels[i.saturating_sub(1)] } else { channels[i] };
            let attention = || SelfAttention::new(channels[i], device);
            Level {
                resnets: (0..*layers).map(|j| ResnetBlock2d::new(from(j), channels[i], resnet, device)).collect(),
                attentions: attends[i].then(|| (0..*layers).map(|_| attention()).collect()),
                downsamplers: (i < last).then(|| vec![Downsample2d::new(channels[i], 1, device)]),
            }
        };
        Self {
            conv_in: conv3x3(*in_channels, width, device),
            time_proj: Timesteps::new(width, true, 0.0),
            time_embedding: TimestepEmbedding::new(width, 4 * width, device),
            down_blocks: (0..=last).map(level).collect(),
            mid_block: Level {
                resnets: (0..2).map(|_| ResnetBlock2d::new(inner, inner, resnet, device)).collect(),
                attentions: Some(vec![SelfAttention::new(inner, device)]),
                downsamplers: None,
            },
            fea_tran: channels.iter().map(|&from| ResnetBlock2d::new(from, out_channels, resnet, device)).collect(),
        }
    }

    /// A map for each resolution, outermost first, `[batch, channels, height, width]`, from `latent`
    /// `[batch, channels, height, width]` and `timestep` `[batch]`.
    pub fn forward(&self, latent: Tensor<4>, timestep: Tensor<1>) -> Vec<Tensor<4>> {
        let time = self.time_embedding.forward(self.time_proj.forward(timestep));
        let mut x = conv2d(&self.conv_in, latent);
        let mut features = vec![];
        for level in &self.down_blocks {
            x = level.forward(x, &time);
            for downsampler in level.downsamplers.iter().flatten() {
                features.push(x.clone());
                x = downsampler.forward(x);
            }
        }
        features.push(self.mid_block.forward(x, &time));
        self.fea_tran.iter().zip(features).map(|(block, x)| block.forward(x, Some(time.clone()))).collect()
    }
}

impl Level {
    fn forward(&self, x: Tensor<4>, time: &Tensor<2>) -> Tensor<4> {
        self.resnets.iter().enumerate().fold(x, |x, (layer, resnet)| {
            let x = resnet.forward(x, Some(time.clone()));
            // The middle block has one between its two residual blocks.
            match self.attentions.as_ref().and_then(|attentions| attentions.get(layer)) {
                Some(attention) => attention.forward(x),
                None => x,
            }
        })
    }
}

impl SelfAttention {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            norm: GroupNormConfig::new(GROUPS, channels).init(device),
            qkv: LinearConfig::new(channels, 3 * channels).init(device),
            proj_out: LinearConfig::new(channels, channels).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let positions = height * width;
        let sequence = group_norm(&self.norm, x.clone()).reshape([batch, channels, positions]).swap_dims(1, 2);
        // The query, key and value of one head are neighbours.
        let heads = self.qkv.forward(sequence).reshape([batch, positions, HEADS, 3, channels / HEADS]);
        let [query, key, value] = [0, 1, 2].map(|i| {
            let part: Tensor<5> = heads.clone().narrow(3, i, 1);
            part.reshape([batch, positions, channels])
        });
        let attended = self.proj_out.forward(attend(query, key, value, HEADS, None));
        x + attended.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}
