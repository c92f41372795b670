//! The UNet of latent-diffusion: `input_blocks`, `middle_block` and `output_blocks` with one entry per layer, where
//! diffusers groups the layers by resolution.

use anyhow::{Result, ensure};

use super::{count, replace_prefix};
use crate::nn::PerBlock;
use crate::unet::UNetConfig;
use crate::weights::Tensors;

/// Width of a head in SD 2.x.
const HEAD_WIDTH: usize = 64;

/// Number of heads in SD 1.x.
const HEADS: usize = 8;

pub fn convert(tensors: &Tensors) -> Result<(UNetConfig, Tensors)> {
    let [out_channels, _, _, _] = tensors.shape("out.2.weight")?;
    let config = config(tensors, out_channels)?;
    config.check_decoder()?;
    let layers = config.layers_per_block.get(0).unwrap_or(1);
    Ok((config, tensors.renamed(|name| Some(diffusers_name(name, layers)))))
}

/// A control branch in this layout, under diffusers' names: a copy of the encoder with `zero_convs` and `middle_block_out`. Its
/// inputs are all that its first convolution reads.
///
/// # Errors
/// The shapes do not describe such a branch.
pub fn control_net(tensors: &Tensors) -> Result<(UNetConfig, Tensors)> {
    let [_, in_channels, _, _] = tensors.shape("input_blocks.0.0.weight")?;
    let config = config(tensors, in_channels)?;
    let layers = config.layers_per_block.get(0).unwrap_or(1);
    let renamed = tensors.renamed(|name| {
        let zero = name.strip_prefix("zero_convs.").and_then(|rest| rest.split_once(".0."));
        Some(match (zero, name.strip_prefix("middle_block_out.0.")) {
            (Some((i, kind)), _) => format!("controlnet_down_blocks.{i}.{kind}"),
            (None, Some(kind)) => format!("controlnet_mid_block.{kind}"),
            (None, None) => diffusers_name(name, layers),
        })
    });
    Ok((config, renamed))
}

/// StableSR's structure encoder in this layout, under the names of its fields.
///
/// # Errors
/// The shapes do not describe such an encoder.
pub fn structure_encoder(tensors: &Tensors) -> Result<(EncoderLayout, Tensors)> {
    let layout = EncoderLayout::read(tensors, "norm.")?;
    let renamed = tensors.renamed(|name| {
        Some(match name.strip_prefix("fea_tran.").and_then(|rest| rest.split_once('.')) {
            Some((i, rest)) => format!("fea_tran.{i}.{}", resnet_name(rest)),
            None => diffusers_name(name, layout.layers),
        })
    });
    Ok((layout, renamed))
}

/// The resolutions of an encoder.
#[derive(Clone, Debug)]
pub struct EncoderLayout {
    /// Channels of the input.
    pub in_channels: usize,
    /// Residual blocks at each resolution.
    pub layers: usize,
    /// Channels at each resolution, outermost first.
    pub channels: Vec<usize>,
    /// Whether each resolution has attention.
    pub attends: Vec<bool>,
}

impl EncoderLayout {
    /// `attention` starts the names of what an attention layer has.
    fn read(tensors: &Tensors, attention: &str) -> Result<Self> {
        let [first_width, in_channels, _, _] = tensors.shape("input_blocks.0.0.weight")?;
        let inputs = count(tensors, "input_blocks.");
        // Every resolution except the last ends with a downsampling layer.
        let halving: Vec<_> = (1..inputs).filter(|i| tensors.has(&format!("input_blocks.{i}.0.op."))).collect();
        let layers = halving.first().map_or(inputs, |&first| first).saturating_sub(1);
        ensure!(
            layers > 0 && inputs == (halving.len() + 1) * (layers + 1),
            "{inputs} input blocks, of which {halving:?} halve, are not a regular encoder"
        );
        let mut layout = Self { in_channels, layers, channels: vec![], attends: vec![] };
        for block in 0..=halving.len() {
            let layer = format!("input_blocks.{}.", block * (layers + 1) + 1);
            let [channels, _, _, _] = tensors.shape(&format!("{layer}0.out_layers.3.weight"))?;
            layout.channels.push(channels);
            layout.attends.push(tensors.has(&format!("{layer}1.{attention}")));
        }
        ensure!(layout.channels[0] == first_width, "the first convolution has {first_width} channels");
        Ok(layout)
    }
}

/// The sizes of an encoder and its middle block.
fn config(tensors: &Tensors, out_channels: usize) -> Result<UNetConfig> {
    let EncoderLayout { in_channels, layers, channels: block_out_channels, attends } =
        EncoderLayout::read(tensors, "transformer_blocks.")?;
    let spade = "input_blocks.1.0.spade.mlp_shared.0.weight";
    let structure_channels = tensors.has(spade).then(|| tensors.shape::<4>(spade)).transpose()?.map(|shape| shape[1]);
    let transformer = "middle_block.1.";
    let [_, cross_attention_dim] = tensors.shape(&format!("{transformer}transformer_blocks.0.attn2.to_k.weight"))?;
    let projection = tensors.get(&format!("{transformer}proj_in.weight"));
    let linear = projection.is_some_and(|tensor| tensor.shape.len() == 2);
    let heads = if linear {
        PerBlock::Each(block_out_channels.iter().map(|channels| (channels / HEAD_WIDTH).max(1)).collect())
    } else {
        PerBlock::All(HEADS)
    };
    let block_type = |attends: &bool, kind: &str| {
        if *attends { format!("CrossAttn{kind}Block2D") } else { format!("{kind}Block2D") }
    };
    let config = UNetConfig {
        in_channels,
        out_channels,
        layers_per_block: PerBlock::All(layers),
        down_block_types: attends.iter().map(|attends| block_type(attends, "Down")).collect(),
        up_block_types: attends.iter().rev().map(|attends| block_type(attends, "Up")).collect(),
        attention_head_dim: heads,
        // A file does not say whether it is SD 2.0 or 2.1, which needs it. It has an effect in f16 only.
        upcast_attention: linear,
        cross_attention_dim: PerBlock::All(cross_attention_dim),
        transformer_layers_per_block: PerBlock::All(count(tensors, &format!("{transformer}transformer_blocks."))),
        use_linear_projection: linear,
        block_out_channels,
        structure_channels,
        ..UNetConfig::default()
    };
    config.check()?;
    Ok(config)
}

/// Renames a tensor, with `layers` per resolution; names of other layouts are unchanged.
fn diffusers_name(name: &str, layers: usize) -> String {
    let renamed = || {
        let (group, rest) = name.split_once('.')?;
        let (index, rest) = match group {
            "input_blocks" | "middle_block" | "output_blocks" => rest.split_once('.')?,
            _ => return None,
        };
        let index: usize = index.parse().ok()?;
        if group == "middle_block" {
            return match index {
                0 | 2 => Some(format!("mid_block.resnets.{}.{}", index / 2, resnet_name(rest))),
                1 => Some(format!("mid_block.attentions.0.{rest}")),
                _ => None,
            };
        }
        let (place, rest) = rest.split_once('.')?;
        if group == "input_blocks" {
            let Some(index) = index.checked_sub(1) else { return Some(format!("conv_in.{rest}")) };
            let (block, layer) = (index / (layers + 1), index % (layers + 1));
            return match (place, rest.strip_prefix("op.")) {
                ("0", Some(rest)) => Some(format!("down_blocks.{block}.downsamplers.0.conv.{rest}")),
                ("0", None) => Some(format!("down_blocks.{block}.resnets.{layer}.{}", resnet_name(rest))),
                _ => Some(format!("down_blocks.{block}.attentions.{layer}.{rest}")),
            };
        }
        let (block, layer) = (index / (layers + 1), index % (layers + 1));
        // The upsampler follows the attention, or takes its index if there is none.
        match (place, rest.strip_prefix("conv.")) {
            ("0", _) => Some(format!("up_blocks.{block}.resnets.{layer}.{}", resnet_name(rest))),
            (_, Some(rest)) => Some(format!("up_blocks.{block}.upsamplers.0.conv.{rest}")),
            _ => Some(format!("up_blocks.{block}.attentions.{layer}.{rest}")),
        }
    };
    renamed().unwrap_or_else(|| {
        replace_prefix(
            name,
            &[
                ("time_embed.0.", "time_embedding.linear_1."),
                ("time_embed.2.", "time_embedding.linear_2."),
                ("out.0.", "conv_norm_out."),
                ("out.2.", "conv_out."),
            ],
        )
    })
}

fn resnet_name(name: &str) -> String {
    replace_prefix(
        name,
        &[
            ("in_layers.0.", "norm1."),
            ("in_layers.2.", "conv1."),
            ("emb_layers.1.", "time_emb_proj."),
            ("out_layers.0.", "norm2."),
            ("out_layers.3.", "conv2."),
            ("skip_connection.", "conv_shortcut."),
        ],
    )
}
