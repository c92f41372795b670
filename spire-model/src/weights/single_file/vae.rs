//! The VAE of latent-diffusion.

use anyhow::Result;

use super::{count, replace_prefix};
use crate::vae::VaeConfig;
use crate::weights::Tensors;
use crate::weights::tensors::reshaped;

/// Tensors that are used only in the training of the VAE.
const LEFT_OVER: [&str; 2] = ["loss.", "model_ema."];

pub fn convert(tensors: &Tensors) -> Result<(VaeConfig, Tensors)> {
    let config = config(tensors)?;
    let blocks = config.block_out_channels.len();
    let mut converted = tensors.renamed(|name| {
        let left_over = LEFT_OVER.iter().any(|prefix| name.starts_with(prefix));
        (!left_over).then(|| diffusers_name(name, blocks))
    });
    // The attention's projections are 1×1 convolutions in the file and linear layers here.
    let flattened: Vec<_> = converted
        .iter()
        .filter(|tensor| tensor.name.contains(".attentions.") && tensor.shape.len() == 4)
        .map(|tensor| reshaped(tensor, tensor.shape.to_vec()[..2].to_vec()))
        .collect();
    flattened.into_iter().for_each(|tensor| converted.insert(tensor));
    Ok((config, converted))
}

fn config(tensors: &Tensors) -> Result<VaeConfig> {
    let blocks = count(tensors, "encoder.down.");
    let mut block_out_channels = vec![];
    for block in 0..blocks {
        let [channels, _, _, _] = tensors.shape(&format!("encoder.down.{block}.block.0.conv2.weight"))?;
        block_out_channels.push(channels);
    }
    let [_, in_channels, _, _] = tensors.shape("encoder.conv_in.weight")?;
    let [out_channels, _, _, _] = tensors.shape("decoder.conv_out.weight")?;
    let [_, latent_channels, _, _] = tensors.shape("decoder.conv_in.weight")?;
    let config = VaeConfig {
        in_channels,
        out_channels,
        block_out_channels,
        layers_per_block: count(tensors, "encoder.down.0.block."),
        latent_channels,
        mid_block_add_attention: tensors.has("encoder.mid.attn_1."),
        use_quant_conv: tensors.has("quant_conv."),
        use_post_quant_conv: tensors.has("post_quant_conv."),
        ..VaeConfig::default()
    };
    config.check()?;
    Ok(config)
}

fn diffusers_name(name: &str, blocks: usize) -> String {
    let renamed = || {
        let (half, rest) = name.split_once('.')?;
        let rest = replace_prefix(
            rest,
            &[
                ("mid.block_1.", "mid_block.resnets.0."),
                ("mid.block_2.", "mid_block.resnets.1."),
                ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
                ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
                ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
                ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
                ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
                ("norm_out.", "conv_norm_out."),
            ],
        );
        let rest = rest.replace("nin_shortcut.", "conv_shortcut.");
        let level = |rest: &str, direction: &str| -> Option<(usize, String)> {
            let (index, rest) = rest.strip_prefix(direction)?.split_once('.')?;
            let pairs = [
                ("block.", "resnets."),
                ("downsample.conv.", "downsamplers.0.conv."),
                ("upsample.conv.", "upsamplers.0.conv."),
            ];
            Some((index.parse().ok()?, replace_prefix(rest, &pairs)))
        };
        if let Some((index, rest)) = level(&rest, "down.") {
            return Some(format!("{half}.down_blocks.{index}.{rest}"));
        }
        if let Some((index, rest)) = level(&rest, "up.") {
            // Numbered by resolution in the file, in the order of computation in diffusers.
            return Some(format!("{half}.up_blocks.{}.{rest}", (blocks - 1).checked_sub(index)?));
        }
        Some(format!("{half}.{rest}"))
    };
    match name.starts_with("encoder.") || name.starts_with("decoder.") {
        true => renamed().unwrap_or_else(|| name.to_owned()),
        false => name.to_owned(),
    }
}
