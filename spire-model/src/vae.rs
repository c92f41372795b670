//! The variational autoencoder between pictures and latents: diffusers' `AutoencoderKL`, built from its `config.json`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use spire_kernels::{conv2d, group_norm, group_norm_silu};

use crate::bounds::{MOST_CHANNELS, MOST_LAYERS, MOST_RESOLUTIONS, check_at_most};
use crate::nn::attention::attend;
use crate::nn::resample::{Downsample2d, Upsample2d};
use crate::nn::resnet::{ResnetBlock2d, ResnetConfig, conv1x1, conv3x3};
use crate::weights::{self, Precision, Tensors};

/// The range to which the encoder's log-variance is clamped, as in diffusers.
const LOGVAR_RANGE: (f64, f64) = (-30.0, 20.0);

/// diffusers' `AutoencoderKL` configuration; the defaults are Stable Diffusion's.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Picture channels in.
    pub in_channels: usize,
    /// Picture channels out.
    pub out_channels: usize,
    /// Channels at each resolution, outermost first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks at each resolution of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of the normalisations.
    pub norm_num_groups: usize,
    /// Factor of the latent before diffusion.
    pub scaling_factor: f64,
    /// Whether the middle blocks have attention.
    pub mid_block_add_attention: bool,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// `silu`
    pub act_fn: String,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            act_fn: "silu".into(),
        }
    }
}

impl VaeConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// The file is unreadable, or its settings contradict each other.
    pub fn read(folder: &Path) -> Result<Self> {
        let config: Self = weights::read_config(folder, "config.json")?;
        config.check().with_context(|| folder.join("config.json").display().to_string())?;
        Ok(config)
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// The message names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.block_out_channels.is_empty(), "\"block_out_channels\" is empty");
        ensure!(self.layers_per_block > 0, "\"layers_per_block\" is 0");
        check_at_most("layers_per_block", [self.layers_per_block], MOST_LAYERS)?;
        check_at_most("the number of block_out_channels", [self.block_out_channels.len()], MOST_RESOLUTIONS)?;
        check_at_most("block_out_channels", self.block_out_channels.iter().copied(), MOST_CHANNELS)?;
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
        ] {
            check_at_most(key, [value], MOST_CHANNELS)?;
        }
        ensure!(self.act_fn == "silu", "\"act_fn\": \"{}\" is not supported, only \"silu\" is", self.act_fn);
        for &channels in &self.block_out_channels {
            ensure!(
                self.norm_num_groups > 0 && channels > 0 && channels % self.norm_num_groups == 0,
                "{channels} channels can't be split into {} groups",
                self.norm_num_groups
            );
        }
        Ok(())
    }

    /// Side in pixels of one latent position.
    pub fn downscale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    fn norm(&self, channels: usize, device: &Device) -> GroupNorm {
        GroupNormConfig::new(self.norm_num_groups, channels).with_epsilon(1e-6).init(device)
    }

    fn resnet(&self, from: usize, to: usize, device: &Device) -> ResnetBlock2d {
        let config = ResnetConfig {
            time_width: None,
            groups: self.norm_num_groups,
            epsilon: 1e-6,
            output_scale_factor: 1.0,
            structure_channels: None,
        };
        ResnetBlock2d::new(from, to, config, device)
    }
}

/// The weights in a VAE's folder: see `with_current_names`.
///
/// # Errors
/// As [`Tensors::in_folder`].
pub fn tensors_in_folder(folder: &Path) -> Result<Tensors> {
    Ok(with_current_names(&Tensors::in_folder(folder)?))
}

/// Renames the attention of checkpoints from before 2023, such as Stable Diffusion 1.5's.
pub(crate) fn with_current_names(tensors: &Tensors) -> Tensors {
    let current = [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    let rename = |name: &str| match name.contains(".attentions.") {
        true => current.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new)),
        false => name.to_owned(),
    };
    tensors.renamed(|name| Some(rename(name)))
}

/// Self-attention over the positions, one head, with its own normalisation and residual.
#[derive(Module, Debug)]
pub struct VaeAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
}

impl VaeAttention {
    fn new(config: &VaeConfig, channels: usize, device: &Device) -> Self {
        let linear = || LinearConfig::new(channels, channels).init(device);
        Self {
            group_norm: config.norm(channels, device),
            to_q: linear(),
            to_k: linear(),
            to_v: linear(),
            to_out: vec![linear()],
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let sequence =
            group_norm(&self.group_norm, x.clone()).reshape([batch, channels, height * width]).swap_dims(1, 2);
        let query = self.to_q.forward(sequence.clone());
        let key = self.to_k.forward(sequence.clone());
        let value = self.to_v.forward(sequence);
        let attended = self.to_out[0].forward(attend(query, key, value, 1, None));
        x + attended.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}

/// Residual block, attention, residual block.
#[derive(Module, Debug)]
pub struct VaeMidBlock {
    resnets: Vec<ResnetBlock2d>,
    attentions: Option<Vec<VaeAttention>>,
}

impl VaeMidBlock {
    fn new(config: &VaeConfig, device: &Device) -> Self {
        let channels = *config.block_out_channels.last().expect("checked: not empty");
        Self {
            resnets: (0..2).map(|_| config.resnet(channels, channels, device)).collect(),
            attentions: config.mid_block_add_attention.then(|| vec![VaeAttention::new(config, channels, device)]),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.resnets[0].forward(x, None);
        let x = self.attentions.iter().flatten().fold(x, |x, attention| attention.forward(x));
        self.resnets[1].forward(x, None)
    }
}

/// diffusers' `DownEncoderBlock2D`.
#[derive(Module, Debug)]
pub struct DownEncoderBlock {
    resnets: Vec<ResnetBlock2d>,
    downsamplers: Option<Vec<Downsample2d>>,
}

impl DownEncoderBlock {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.resnets.iter().fold(x, |x, resnet| resnet.forward(x, None))
    }

    fn downsampled(&self, x: Tensor<4>) -> Tensor<4> {
        self.downsamplers.iter().flatten().fold(x, |x, downsampler| downsampler.forward(x))
    }
}

/// diffusers' `UpDecoderBlock2D`.
#[derive(Module, Debug)]
pub struct UpDecoderBlock {
    resnets: Vec<ResnetBlock2d>,
    upsamplers: Option<Vec<Upsample2d>>,
}

/// The encoder: from pictures to the moments of the latent.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownEncoderBlock>,
    mid_block: VaeMidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(config: &VaeConfig, device: &Device) -> Self {
        let widths = &config.block_out_channels;
        let last = widths.len() - 1;
        let down_blocks = (0..=last)
            .map(|i| {
                let from = |layer| if layer == 0 { widths[i.saturating_sub(1)] } else { widths[i] };
                DownEncoderBlock {
                    resnets: (0..config.layers_per_block)
                        .map(|layer| config.resnet(from(layer), widths[i], device))
                        .collect(),
                    downsamplers: (i < last).then(|| vec![Downsample2d::new(widths[i], 0, device)]),
                }
            })
            .collect();
        Self {
            conv_in: conv3x3(config.in_channels, widths[0], device),
            down_blocks,
            mid_block: VaeMidBlock::new(config, device),
            conv_norm_out: config.norm(widths[last], device),
            conv_out: conv3x3(widths[last], 2 * config.latent_channels, device),
        }
    }

    fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let x = conv2d(&self.conv_in, picture);
        let x = self.down_blocks.iter().fold(x, |x, block| block.downsampled(block.forward(x)));
        let x = self.mid_block.forward(x);
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, x))
    }

    /// The features of the first `count` resolutions, outermost first.
    fn features(&self, picture: Tensor<4>, count: usize) -> Vec<Tensor<4>> {
        let mut features: Vec<Tensor<4>> = Vec::with_capacity(count);
        for (i, block) in self.down_blocks.iter().enumerate().take(count) {
            let x = match features.last() {
                Some(x) => self.down_blocks[i - 1].downsampled(x.clone()),
                None => conv2d(&self.conv_in, picture.clone()),
            };
            features.push(block.forward(x));
        }
        features
    }
}

/// The decoder: from latents to pictures.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: VaeMidBlock,
    up_blocks: Vec<UpDecoderBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(config: &VaeConfig, device: &Device) -> Self {
        let widths: Vec<_> = config.block_out_channels.iter().rev().copied().collect();
        let last = widths.len() - 1;
        let up_blocks = (0..=last)
            .map(|i| {
                let from = |layer| if layer == 0 { widths[i.saturating_sub(1)] } else { widths[i] };
                UpDecoderBlock {
                    resnets: (0..=config.layers_per_block)
                        .map(|layer| config.resnet(from(layer), widths[i], device))
                        .collect(),
                    upsamplers: (i < last).then(|| vec![Upsample2d::new(widths[i], device)]),
                }
            })
            .collect();
        Self {
            conv_in: conv3x3(config.latent_channels, widths[0], device),
            mid_block: VaeMidBlock::new(config, device),
            up_blocks,
            conv_norm_out: config.norm(widths[last], device),
            conv_out: conv3x3(widths[last], config.out_channels, device),
        }
    }

    /// `change` gets the features of each resolution, counted from the outermost, and returns what replaces them.
    fn forward(&self, latent: Tensor<4>, change: impl Fn(usize, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let mut x = self.mid_block.forward(conv2d(&self.conv_in, latent));
        for (level, block) in (0..self.up_blocks.len()).rev().zip(&self.up_blocks) {
            x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            x = change(level, x);
            for upsampler in block.upsamplers.iter().flatten() {
                let [_, _, height, width] = x.dims();
                x = upsampler.forward(x, [2 * height, 2 * width]);
            }
        }
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, x))
    }
}

/// Encoder and decoder.
#[derive(Module, Debug)]
pub struct Vae {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
}

impl Vae {
    /// Random weights.
    ///
    /// # Errors
    /// The configuration's settings contradict each other.
    pub fn new(config: &VaeConfig, device: &Device) -> Result<Self> {
        config.check()?;
        let latent = config.latent_channels;
        Ok(Self {
            encoder: Encoder::new(config, device),
            decoder: Decoder::new(config, device),
            quant_conv: config.use_quant_conv.then(|| conv1x1(2 * latent, 2 * latent, device)),
            post_quant_conv: config.use_post_quant_conv.then(|| conv1x1(latent, latent, device)),
        })
    }

    /// For training from random weights: sets the initial log-variance of the posterior. With 0 the noise would drown
    /// the encoder's small initial output. No effect without `quant_conv`.
    pub fn with_initial_logvar(mut self, logvar: f32) -> Self {
        if let Some(conv) = &mut self.quant_conv {
            let [channels, _, _, _] = conv.weight.dims();
            let values: Vec<f32> = (0..channels).map(|i| if i < channels / 2 { 0.0 } else { logvar }).collect();
            let device = conv.weight.val().device();
            conv.bias = Some(Param::from_tensor(Tensor::from_floats(values.as_slice(), &device)));
        }
        self
    }

    /// Loads a folder with `config.json` and weights.
    ///
    /// # Errors
    /// A file is unreadable, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        weights::fill(Self::new(&VaeConfig::read(folder)?, device)?, tensors_in_folder(folder)?, Precision::F32)
    }

    /// The float type of the weights, in which the VAE computes.
    pub fn dtype(&self) -> DType {
        self.decoder.conv_in.weight.dtype()
    }

    /// Mean and log-variance of the latent, each `[batch, latent, height / 8, width / 8]`, of `picture`
    /// `[batch, 3, height, width]` in \[-1, 1\]. No scaling factor.
    pub fn encode(&self, picture: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let moments = self.encoder.forward(picture);
        let moments = match &self.quant_conv {
            Some(conv) => conv2d(conv, moments),
            None => moments,
        };
        let halves = moments.chunk(2, 1);
        (halves[0].clone(), halves[1].clone().clamp(LOGVAR_RANGE.0, LOGVAR_RANGE.1))
    }

    /// The picture `[batch, 3, 8·height, 8·width]`, about \[-1, 1\] and not clamped, of `latent`
    /// `[batch, latent, height, width]`. No scaling factor.
    pub fn decode(&self, latent: Tensor<4>) -> Tensor<4> {
        self.decode_changed(latent, |_, features| features)
    }

    /// As [`Self::decode`]; `change` gets the decoder's features at each resolution, counted from the outermost, and returns
    /// what replaces them, of the same shape.
    pub(crate) fn decode_changed(
        &self,
        latent: Tensor<4>,
        change: impl Fn(usize, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let latent = match &self.post_quant_conv {
            Some(conv) => conv2d(conv, latent),
            None => latent,
        };
        self.decoder.forward(latent, change)
    }

    /// The encoder's features at its first `count` resolutions, outermost first, of `picture` as in [`Self::encode`].
    pub(crate) fn features(&self, picture: Tensor<4>, count: usize) -> Vec<Tensor<4>> {
        self.encoder.features(picture, count)
    }
}
