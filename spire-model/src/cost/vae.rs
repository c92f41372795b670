//! The cost of the VAE, which is frozen and not differentiated.

use super::blocks::{area, halved};
use super::{Cost, Counter, Size};
use crate::vae::VaeConfig;

/// Encoding a picture of `size`.
pub fn vae_encoder(config: &VaeConfig, mut size: Size) -> Cost {
    let widths = &config.block_out_channels;
    let last = widths.len() - 1;
    let mut counter = Counter::frozen();
    counter.conv(3, area(size), config.in_channels, widths[0], false);
    for (i, &width) in widths.iter().enumerate() {
        for layer in 0..config.layers_per_block {
            let from = if layer == 0 { widths[i.saturating_sub(1)] } else { width };
            counter.resnet(area(size), from, width, None, false);
        }
        if i < last {
            size = halved(size);
            counter.conv(3, area(size), width, width, false);
        }
    }
    counter.vae_middle(config, size);
    let moments = 2 * config.latent_channels;
    counter.norm_silu_conv(area(size), widths[last], moments, false);
    if config.use_quant_conv {
        counter.conv(1, area(size), moments, moments, false);
    }
    counter.cost
}

/// Decoding a latent of `size`.
pub fn vae_decoder(config: &VaeConfig, mut size: Size) -> Cost {
    let widths: Vec<_> = config.block_out_channels.iter().rev().copied().collect();
    let last = widths.len() - 1;
    let mut counter = Counter::frozen();
    if config.use_post_quant_conv {
        counter.conv(1, area(size), config.latent_channels, config.latent_channels, false);
    }
    counter.conv(3, area(size), config.latent_channels, widths[0], false);
    counter.vae_middle(config, size);
    for (i, &width) in widths.iter().enumerate() {
        for layer in 0..=config.layers_per_block {
            let from = if layer == 0 { widths[i.saturating_sub(1)] } else { width };
            counter.resnet(area(size), from, width, None, false);
        }
        if i < last {
            size = size.map(|side| 2 * side);
            counter.conv(3, area(size), width, width, false);
        }
    }
    counter.norm_silu_conv(area(size), widths[last], config.out_channels, false);
    counter.cost
}

impl Counter {
    fn vae_middle(&mut self, config: &VaeConfig, size: Size) {
        let width = config.block_out_channels[config.block_out_channels.len() - 1];
        self.resnet(area(size), width, width, None, false);
        if config.mid_block_add_attention {
            self.layer_norm(area(size), width, false);
            self.self_attention(area(size), width, 1, [true, true], false);
        }
        self.resnet(area(size), width, width, None, false);
    }
}
