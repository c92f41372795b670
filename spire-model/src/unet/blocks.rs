//! The UNet's encoder, middle and decoder blocks.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use spire_kernels::block;

use super::config::UNetConfig;
use crate::fusion::ScaleAndBias;
use crate::nn::Features;
use crate::nn::cores;
use crate::nn::resample::{Downsample2d, Upsample2d};
use crate::nn::resnet::{ResnetBlock2d, ResnetConfig};
use crate::nn::transformer::{Transformer2d, TransformerConfig};

impl UNetConfig {
    fn resnet(&self) -> ResnetConfig {
        ResnetConfig {
            time_width: Some(self.time_width()),
            groups: self.norm_num_groups,
            epsilon: self.norm_eps,
            output_scale_factor: 1.0,
            structure_channels: self.structure_channels,
        }
    }

    /// [`UNetConfig::check`] has checked that indices are in range.
    pub(crate) fn transformer(&self, block: usize) -> TransformerConfig {
        TransformerConfig {
            context_width: self.cross_attention_dim.get(block).unwrap_or(1),
            heads: self.heads(block).unwrap_or(1),
            layers: self.transformer_layers_per_block.get(block).unwrap_or(1),
            groups: self.norm_num_groups,
            linear_projection: self.use_linear_projection,
            upcast_attention: self.upcast_attention,
        }
    }

    pub(crate) fn layers(&self, block: usize) -> usize {
        self.layers_per_block.get(block).unwrap_or(1)
    }
}

/// What the blocks read beside their features.
#[derive(Clone, Copy, Debug)]
pub struct Conditions<'a> {
    /// The timestep's embedding, `[batch, time_width]`.
    pub time: &'a Tensor<2>,
    /// The prompts' states, `[batch, tokens, width]`.
    pub context: &'a Tensor<3>,
    /// Maps that modulate the blocks of each resolution, outermost first, `[batch, structure_channels, height, width]`; only
    /// StableSR has them.
    pub structure: Option<&'a [Tensor<4>]>,
}

impl<'a> Conditions<'a> {
    /// Without maps.
    pub fn new(time: &'a Tensor<2>, context: &'a Tensor<3>) -> Self {
        Self { time, context, structure: None }
    }

    /// Calls `compute` with those of some rows of the batch.
    fn with_rows<T>(self, rows: &Range<usize>, compute: impl FnOnce(Conditions) -> T) -> T {
        let (time, context) = (cores::rows(self.time, rows), cores::rows(self.context, rows));
        let structure: Option<Vec<_>> =
            self.structure.map(|maps| maps.iter().map(|map| cores::rows(map, rows)).collect());
        compute(Conditions { time: &time, context: &context, structure: structure.as_deref() })
    }

    /// With the map of one resolution alone.
    fn at(self, level: usize) -> Self {
        Self { structure: self.structure.map(|maps| &maps[level..=level]), ..self }
    }
}

/// diffusers' `DownBlock2D`, or `CrossAttnDownBlock2D` with attentions.
#[derive(Module, Debug)]
pub struct DownBlock {
    resnets: Vec<ResnetBlock2d>,
    attentions: Option<Vec<Transformer2d>>,
    downsamplers: Option<Vec<Downsample2d>>,
}

impl DownBlock {
    fn new(config: &UNetConfig, i: usize, device: &Device) -> Self {
        let channels = config.block_out_channels[i];
        let before = config.block_out_channels[i.saturating_sub(1)];
        let from = |layer| if layer == 0 { before } else { channels };
        let layers = 0..config.layers(i);
        Self {
            resnets: layers
                .clone()
                .map(|layer| ResnetBlock2d::new(from(layer), channels, config.resnet(), device))
                .collect(),
            attentions: config.down_block_types[i]
                .starts_with("CrossAttn")
                .then(|| layers.map(|_| Transformer2d::new(channels, config.transformer(i), device)).collect()),
            downsamplers: (i + 1 < config.block_out_channels.len())
                .then(|| vec![Downsample2d::new(channels, config.downsample_padding, device)]),
        }
    }

    /// Appends every intermediate output to `skips` and returns the last.
    fn forward(&self, mut x: Tensor<4>, conditions: Conditions, skips: &mut Vec<Tensor<4>>) -> Tensor<4> {
        for (layer, resnet) in self.resnets.iter().enumerate() {
            x = through_layer(resnet, self.attentions.as_ref().map(|attentions| &attentions[layer]), x, conditions);
            skips.push(x.clone());
        }
        for downsampler in self.downsamplers.iter().flatten() {
            x = downsampler.forward(x);
            skips.push(x.clone());
        }
        x
    }
}

/// diffusers' `UNetMidBlock2DCrossAttn`.
#[derive(Module, Debug)]
pub struct MidBlock {
    resnets: Vec<ResnetBlock2d>,
    attentions: Vec<Transformer2d>,
}

impl MidBlock {
    /// The block at the smallest resolution of `config`.
    pub fn new(config: &UNetConfig, device: &Device) -> Self {
        let last = config.block_out_channels.len() - 1;
        let channels = config.block_out_channels[last];
        let resnet = ResnetConfig { output_scale_factor: config.mid_block_scale_factor, ..config.resnet() };
        Self {
            resnets: (0..2).map(|_| ResnetBlock2d::new(channels, channels, resnet, device)).collect(),
            attentions: vec![Transformer2d::new(channels, config.transformer(last), device)],
        }
    }

    fn forward(&self, x: Tensor<4>, conditions: Conditions) -> Tensor<4> {
        let x = through_layer(&self.resnets[0], Some(&self.attentions[0]), x, conditions);
        through_layer(&self.resnets[1], None, x, conditions)
    }
}

/// diffusers' `UpBlock2D`, or `CrossAttnUpBlock2D` with attentions.
#[derive(Module, Debug)]
pub struct UpBlock {
    resnets: Vec<ResnetBlock2d>,
    attentions: Option<Vec<Transformer2d>>,
    upsamplers: Option<Vec<Upsample2d>>,
}

impl UpBlock {
    fn new(config: &UNetConfig, i: usize, device: &Device) -> Self {
        let widths = &config.block_out_channels;
        let (blocks, level) = (widths.len(), widths.len() - 1 - i);
        let channels = widths[level];
        let before = widths[(level + 1).min(blocks - 1)];
        let outer = widths[level.saturating_sub(1)];
        let layers = 0..=config.layers(level);
        Self {
            resnets: layers
                .clone()
                .map(|layer| {
                    let from = if layer == 0 { before } else { channels };
                    let skip = if layer == config.layers(level) { outer } else { channels };
                    ResnetBlock2d::new(from + skip, channels, config.resnet(), device)
                })
                .collect(),
            attentions: config.up_block_types[i]
                .starts_with("CrossAttn")
                .then(|| layers.map(|_| Transformer2d::new(channels, config.transformer(level), device)).collect()),
            upsamplers: (level > 0).then(|| vec![Upsample2d::new(channels, device)]),
        }
    }
}

/// The UNet's encoder blocks, outermost first.
pub fn down_blocks(config: &UNetConfig, device: &Device) -> Vec<DownBlock> {
    (0..config.block_out_channels.len()).map(|i| DownBlock::new(config, i, device)).collect()
}

/// The UNet's decoder blocks, innermost first.
pub fn up_blocks(config: &UNetConfig, device: &Device) -> Vec<UpBlock> {
    (0..config.block_out_channels.len()).map(|i| UpBlock::new(config, i, device)).collect()
}

/// A ResNet block and the attention after it. Under gradient checkpointing the graph keeps only the input of each.
fn through_layer(
    resnet: &ResnetBlock2d,
    attention: Option<&Transformer2d>,
    x: Tensor<4>,
    conditions: Conditions,
) -> Tensor<4> {
    let Conditions { time, context, structure } = conditions;
    let x = match structure {
        // Only for restoring: there is no graph.
        Some(maps) => resnet.forward_modulated(x, Some(time.clone()), maps.first()),
        None => block(resnet, x, time.clone(), |resnet, x, time| resnet.forward(x, Some(time))),
    };
    match attention {
        Some(attention) => block(attention, x, context.clone(), Transformer2d::forward),
        None => x,
    }
}

/// The encoder and the middle block, from the output of `conv_in`; shared by the UNet and the control branch. On a CPU, several
/// pictures are computed at the same time.
pub fn encode(blocks: &[DownBlock], mid: &MidBlock, x: Tensor<4>, conditions: Conditions) -> Features {
    let parts = cores::parts(&x);
    if parts.len() == 1 {
        return encode_rows(blocks, mid, x, conditions);
    }
    Features::of_parts(cores::in_parallel(&parts, |rows| {
        conditions.with_rows(rows, |conditions| encode_rows(blocks, mid, cores::rows(&x, rows), conditions))
    }))
}

fn encode_rows(blocks: &[DownBlock], mid: &MidBlock, x: Tensor<4>, conditions: Conditions) -> Features {
    let mut down = vec![x.clone()];
    let through = |x, (level, block): (usize, &DownBlock)| block.forward(x, conditions.at(level), &mut down);
    let x = blocks.iter().enumerate().fold(x, through);
    Features { down, mid: mid.forward(x, conditions.at(blocks.len() - 1)) }
}

/// The decoder, from the middle block's output. `up` modulates the decoder feature that meets each skip, in the order of the
/// skips (the ablation of paper Table 7). On a CPU, several pictures are computed at the same time.
pub fn decode(
    blocks: &[UpBlock],
    features: Features,
    up: Option<Vec<ScaleAndBias>>,
    conditions: Conditions,
) -> Tensor<4> {
    let parts = cores::parts(&features.mid);
    if parts.len() == 1 {
        return decode_rows(blocks, features, up, conditions);
    }
    let batch = features.mid.dims()[0];
    let decoded = cores::in_parallel(&parts, |rows| {
        let up = up.as_ref().map(|up| up.iter().map(|modulation| modulation.rows(rows, batch)).collect());
        conditions.with_rows(rows, |conditions| decode_rows(blocks, features.rows(rows), up, conditions))
    });
    Tensor::cat(decoded, 0)
}

fn decode_rows(
    blocks: &[UpBlock],
    features: Features,
    mut up: Option<Vec<ScaleAndBias>>,
    conditions: Conditions,
) -> Tensor<4> {
    let Features { mut down, mid: mut x } = features;
    for (level, block) in (0..blocks.len()).rev().zip(blocks) {
        for (layer, resnet) in block.resnets.iter().enumerate() {
            let skip = down.pop().expect("as many skips as decoder layers");
            if let Some(modulation) = up.as_mut().and_then(Vec::pop) {
                x = modulation.apply(x);
            }
            let attention = block.attentions.as_ref().map(|attentions| &attentions[layer]);
            x = through_layer(resnet, attention, Tensor::cat(vec![x, skip], 1), conditions.at(level));
        }
        for upsampler in block.upsamplers.iter().flatten() {
            let [_, _, height, width] = down.last().expect("a skip at the next resolution").dims();
            x = upsampler.forward(x, [height, width]);
        }
    }
    x
}
