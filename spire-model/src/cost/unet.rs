//! The cost of the UNet's encoder, which the control branch copies, and of its decoder.

use super::blocks::{area, halved};
use super::{Cost, Counter, Size};
use crate::unet::UNetConfig;

/// The frozen UNet.
#[derive(Clone, Copy, Debug)]
pub struct UNetCost {
    /// The encoder with the timestep embedding and the middle block. It precedes the fusion, so it has no backward
    /// pass.
    pub encoder: Cost,
    /// The decoder; its input is fused with the control branch's features.
    pub decoder: Cost,
}

/// The cost on latents of `size` and prompts of `tokens`. `config` must have been checked.
pub fn unet(config: &UNetConfig, size: Size, tokens: usize) -> UNetCost {
    let mut encoder = Counter::frozen();
    encoder.conv(3, area(size), config.in_channels, config.block_out_channels[0], false);
    encoder.encode(config, size, tokens, false);
    let mut decoder = Counter::frozen();
    decoder.decode(config, size, tokens);
    UNetCost { encoder: encoder.cost, decoder: decoder.cost }
}

/// The size of every skip, in the order of [`UNetConfig::skip_channels`].
pub(super) fn skip_sizes(config: &UNetConfig, mut size: Size) -> Vec<Size> {
    let last = config.block_out_channels.len() - 1;
    let mut sizes = vec![size];
    for i in 0..=last {
        sizes.extend(std::iter::repeat_n(size, config.layers(i)));
        if i < last {
            size = halved(size);
            sizes.push(size);
        }
    }
    sizes
}

impl Counter {
    /// From the output of `conv_in` to that of the middle block. The activations of the skips are counted by the
    /// fusion, which reads them all.
    pub fn encode(&mut self, config: &UNetConfig, mut size: Size, tokens: usize, tracked: bool) {
        let widths = &config.block_out_channels;
        let (last, time) = (widths.len() - 1, Some(config.time_width()));
        self.linear(1, widths[0], config.time_width(), true, false);
        self.linear(1, config.time_width(), config.time_width(), true, tracked);
        for (i, &width) in widths.iter().enumerate() {
            for layer in 0..config.layers(i) {
                let from = if layer == 0 { widths[i.saturating_sub(1)] } else { width };
                self.resnet(area(size), from, width, time, tracked);
                if config.down_block_types[i].starts_with("CrossAttn") {
                    self.transformer(area(size), width, tokens, config.transformer(i), tracked);
                }
            }
            if i < last {
                size = halved(size);
                self.conv(3, area(size), width, width, tracked);
            }
        }
        self.resnet(area(size), widths[last], widths[last], time, tracked);
        self.transformer(area(size), widths[last], tokens, config.transformer(last), tracked);
        self.resnet(area(size), widths[last], widths[last], time, tracked);
    }

    /// The decoder, from the fused output of the middle block.
    fn decode(&mut self, config: &UNetConfig, size: Size, tokens: usize) {
        let widths = &config.block_out_channels;
        let last = widths.len() - 1;
        let (skips, inputs, sizes) = (config.skip_channels(), config.up_channels(), skip_sizes(config, size));
        let mut meeting = skips.into_iter().zip(inputs).zip(sizes).rev().peekable();
        for (i, level) in (0..=last).rev().enumerate() {
            let width = widths[level];
            for _ in 0..=config.layers(level) {
                let Some(((skip, input), size)) = meeting.next() else { return };
                self.resnet(area(size), input + skip, width, Some(config.time_width()), true);
                // The shortcut's convolution reads it.
                self.keep(area(size) * (input + skip));
                if config.up_block_types[i].starts_with("CrossAttn") {
                    self.transformer(area(size), width, tokens, config.transformer(level), true);
                }
            }
            if let Some((_, size)) = meeting.peek() {
                self.conv(3, area(*size), width, width, true);
                self.keep(area(*size) * width);
            }
        }
        self.norm_silu_conv(area(size), widths[0], config.out_channels, true);
    }
}
