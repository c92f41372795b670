//! The cost of the control branch: e(y), the encoder, the fusion layers.

use super::blocks::{area, halved};
use super::unet::skip_sizes;
use super::{Cost, Counter, Size};
use crate::control::{Conditioning, ControlConfig};
use crate::fusion::Fusion;

/// The control branch; all of it is trained.
#[derive(Clone, Copy, Debug)]
pub struct ControlCost {
    /// e(y): the degraded picture's convolutions.
    pub embedding: Cost,
    /// The copy of the UNet's encoder and middle block.
    pub encoder: Cost,
    /// The zero-initialised convolutions, with the activations that the fusion keeps.
    pub fusion: Cost,
}

impl ControlCost {
    /// The total.
    pub fn total(&self) -> Cost {
        self.embedding + self.encoder + self.fusion
    }
}

/// The cost on latents of `size`, that is, pictures of 2ⁿ times that size with n halvings in e(y), and restoration
/// prompts of `tokens`. `config` must have been checked.
pub fn control(config: &ControlConfig, size: Size, tokens: usize) -> ControlCost {
    let unet = &config.encoder;
    let mut encoder = Counter::trained();
    let (from, embedded) = config.input_channels();
    // The gradient goes on to e(y) only where e(y) is part of the input.
    let concatenated = config.conditioning() == Conditioning::Concat;
    encoder.conv(3, area(size), from, unet.block_out_channels[0], concatenated);
    encoder.keep(area(size) * from);
    encoder.encode(unet, size, tokens, true);
    ControlCost {
        embedding: embedding(config, size, embedded),
        encoder: encoder.cost,
        fusion: fusion_layers(config, size),
    }
}

fn embedding(config: &ControlConfig, size: Size, to: usize) -> Cost {
    let channels = &config.conditioning_embedding_out_channels;
    let mut size = size.map(|side| side << (channels.len() - 1));
    let mut counter = Counter::trained();
    counter.conv(3, area(size), config.conditioning_channels, channels[0], false);
    counter.keep(area(size) * config.conditioning_channels);
    for pair in channels.windows(2) {
        counter.silu(area(size) * pair[0]);
        counter.conv(3, area(size), pair[0], pair[0], true);
        counter.silu(area(size) * pair[0]);
        size = halved(size);
        counter.conv(3, area(size), pair[0], pair[1], true);
    }
    let last = channels[channels.len() - 1];
    counter.silu(area(size) * last);
    counter.conv(3, area(size), last, to, true);
    counter.cost
}

fn fusion_layers(config: &ControlConfig, size: Size) -> Cost {
    let (unet, fusion) = (&config.encoder, config.fusion());
    let (skips, sizes) = (unet.skip_channels(), skip_sizes(unet, size));
    // The middle block has the channels and the size of the innermost skip.
    let features = skips.iter().zip(&sizes).chain(skips.last().zip(sizes.last()));
    let mut counter = Counter::trained();
    for (&channels, &size) in features {
        let to = if fusion == Fusion::Add { channels } else { 2 * channels };
        counter.conv(1, area(size), channels, to, true);
        counter.keep(area(size) * channels);
        if fusion != Fusion::Add {
            // The frozen feature is needed for γ's gradient.
            counter.keep(area(size) * channels);
        }
    }
    if fusion == Fusion::ModulateSkipAndUp {
        for ((&channels, &size), up) in skips.iter().zip(&sizes).zip(unet.up_channels()) {
            counter.conv(1, area(size), channels, 2 * up, true);
            counter.keep(2 * area(size) * up);
        }
    }
    counter.cost
}
