//! The trainable control branch (paper section 3.4): a copy of the UNet's encoder and middle block that reads the noisy
//! latent, the degraded picture and the restoration prompt.
//!
//! One type serves every fusion. With [`Conditioning::Concat`], `conv_in` takes `[zt, e(y)]`; with [`Conditioning::Add`], e(y)
//! has the output channels of `conv_in` and is added to that output. With [`Fusion::Add`] as well it is diffusers'
//! `ControlNetModel`, names and shapes included.

mod config;
mod embedding;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Device, Tensor};
use burn_store::{FloatCastAdapter, ModuleAdapter, ModuleSnapshot, PathFilter};
use spire_kernels::conv2d;

pub use config::{Conditioning, ConditioningRange, ControlConfig};
pub use embedding::ConditioningEmbedding;
use embedding::KEEPS_VARIANCE;

use crate::decoupling::PromptRouting;
use crate::fusion::{self, Fusion, FusionLayers, ScaleAndBias, zero_conv};
use crate::locate::{self, Wanted};
use crate::nn::Features;
use crate::nn::resnet::conv3x3;
use crate::nn::timestep::{TimestepEmbedding, Timesteps};
use crate::unet::UNet;
use crate::unet::blocks::{self, Conditions, DownBlock, MidBlock};
use crate::weights::{self, missing_in_part};

/// Resolves `control` to a folder: an existing path, `tiny/control` of the built-in model, or a repository on the Hugging
/// Face Hub such as `lllyasviel/control_v11f1e_sd15_tile`, from the local cache or downloaded into it.
///
/// # Errors
/// It is neither; the message says what is missing and how to get it.
pub fn locate(control: &Path) -> Result<PathBuf> {
    let missing = |folder: &Path| missing_in_part(folder, "diffusion_pytorch_model").collect();
    let wanted = Wanted { files: &["config.json", "diffusion_pytorch_model*", "model.toml"], variant: None };
    locate::locate(control, "control branch", &wanted, missing)
}

/// The control branch.
#[derive(Module, Debug)]
pub struct Control {
    controlnet_cond_embedding: ConditioningEmbedding,
    conv_in: Conv2d,
    time_proj: Timesteps,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    modulation_skip: Option<Vec<Conv2d>>,
    modulation_mid: Option<Conv2d>,
    modulation_up: Option<Vec<Conv2d>>,
    controlnet_down_blocks: Option<Vec<Conv2d>>,
    controlnet_mid_block: Option<Conv2d>,
    swap_channels: bool,
    #[module(skip)]
    prompts: PromptRouting,
    #[module(skip)]
    conditioning: Conditioning,
    #[module(skip)]
    range: ConditioningRange,
    #[module(skip)]
    scale: f64,
}

impl Control {
    /// Random weights. The fusion layers are zero; with [`Conditioning::Add`] the last convolution of e(y) is zero too.
    ///
    /// # Errors
    /// The configuration's settings contradict each other.
    pub fn new(config: &ControlConfig, device: &Device) -> Result<Self> {
        config.check()?;
        let (encoder, fusion) = (&config.encoder, config.fusion());
        let (add, up) = (fusion == Fusion::Add, fusion == Fusion::ModulateSkipAndUp);
        let width = encoder.block_out_channels[0];
        let inner = *encoder.block_out_channels.last().expect("checked: not empty");
        let skips = encoder.skip_channels();
        let embedding = &config.conditioning_embedding_out_channels;
        let (conv_in, embedded) = config.input_channels();
        // Before it is added, e(y) passes a zero convolution, as in ControlNet.
        let last = match config.conditioning() {
            Conditioning::Add => Initializer::Zeros,
            Conditioning::Concat => KEEPS_VARIANCE,
        };
        let per_skip = |to: &dyn Fn(usize) -> usize| -> Vec<Conv2d> {
            skips.iter().enumerate().map(|(i, &channels)| zero_conv(channels, to(i), device)).collect()
        };
        let up_channels = encoder.up_channels();
        Ok(Self {
            controlnet_cond_embedding: ConditioningEmbedding::new(
                config.conditioning_channels,
                embedding,
                embedded,
                last,
                device,
            ),
            conv_in: conv3x3(conv_in, width, device),
            time_proj: Timesteps::new(width, encoder.flip_sin_to_cos, encoder.freq_shift),
            time_embedding: TimestepEmbedding::new(width, encoder.time_width(), device),
            down_blocks: blocks::down_blocks(encoder, device),
            mid_block: MidBlock::new(encoder, device),
            modulation_skip: (!add).then(|| per_skip(&|i| 2 * skips[i])),
            modulation_mid: (!add).then(|| zero_conv(inner, 2 * inner, device)),
            modulation_up: up.then(|| per_skip(&|i| 2 * up_channels[i])),
            controlnet_down_blocks: add.then(|| per_skip(&|i| skips[i])),
            controlnet_mid_block: add.then(|| zero_conv(inner, inner, device)),
            swap_channels: config.controlnet_conditioning_channel_order == "bgr",
            prompts: config.prompts,
            conditioning: config.conditioning(),
            range: config.conditioning_range(),
            scale: 1.0,
        })
    }

    /// A branch for training: the encoder and middle block are copies of the UNet's, and the input channels that read e(y)
    /// start at zero.
    ///
    /// # Errors
    /// The UNet does not fit `config`.
    pub fn from_unet(config: &ControlConfig, unet: &UNet, device: &Device) -> Result<Self> {
        let mut control = Self::new(config, device)?;
        let copied = PathFilter::new().with_regex("^(time_embedding|down_blocks|mid_block)[.]");
        // Trained weights are f32, whatever the frozen UNet is stored in.
        let cast = Some(Box::new(FloatCastAdapter::to(DType::F32)) as Box<dyn ModuleAdapter>);
        let result = control.apply(unet.collect(Some(copied), None, true), None, cast, true);
        ensure!(result.errors.is_empty(), "the control branch does not fit the UNet: {}", result.errors[0]);
        // `conv_in` is wider by the channels of e(y), so it is copied here. Through `TensorData`: `to_device` would not turn
        // on the autodiff of `device`.
        let weight = Tensor::<4>::from_data(unet.conv_in().weight.val().into_data().convert::<f32>(), device);
        let [to, from, height, width] = weight.dims();
        let [_, all, _, _] = control.conv_in.weight.dims();
        ensure!(all >= from, "the control branch's conv_in takes {all} channels, the UNet's {from}");
        let weight = if all > from {
            Tensor::cat(vec![weight, Tensor::zeros([to, all - from, height, width], device)], 1)
        } else {
            weight
        };
        control.conv_in.weight = Param::from_tensor(weight);
        let bias = unet.conv_in().bias.as_ref().map(|bias| bias.val().into_data().convert::<f32>());
        control.conv_in.bias = bias.map(|bias| Param::from_tensor(Tensor::from_data(bias, device)));
        Ok(control)
    }

    /// Replaces the convolutions of e(y) by those of `embedding`, which was fitted to pictures in `range`. With
    /// [`Conditioning::Add`] the last one stays zero.
    pub fn with_embedding(mut self, embedding: ConditioningEmbedding, range: ConditioningRange) -> Self {
        let embedding = embedding.for_range(range, self.range);
        self.controlnet_cond_embedding = match self.conditioning {
            Conditioning::Add => embedding.with_last_of(self.controlnet_cond_embedding),
            Conditioning::Concat => embedding,
        };
        self
    }

    /// Loads a folder with `config.json` and safetensors: a branch of this project or a public ControlNet.
    ///
    /// # Errors
    /// A file is unreadable, a setting is not supported, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        weights::load(Self::new(&ControlConfig::read(folder)?, device)?, folder)
    }

    /// The branch with other prompts to attend to.
    pub fn with_prompts(self, prompts: PromptRouting) -> Self {
        Self { prompts, ..self }
    }

    /// The branch reading pictures in `range`.
    pub fn with_range(self, range: ConditioningRange) -> Self {
        Self { range, ..self }
    }

    /// The branch with its effect scaled: γ and β, or the added residuals, are multiplied by `scale`. A trained branch
    /// has 1; with 0 the model is the frozen UNet.
    pub fn with_scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// See [`Self::with_scale`].
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Which prompts the UNet and the branch attend to.
    pub fn prompts(&self) -> PromptRouting {
        self.prompts
    }

    /// The float type in which the branch computes. Inputs may be f32; [`Self::fuse`] returns f32.
    pub fn dtype(&self) -> DType {
        self.conv_in.weight.dtype()
    }

    /// e(y), in the branch's own float type: `degraded` `[batch, 3, 8·height, 8·width]` in \[0, 1\] to
    /// `[batch, channels, height, width]`. It does not depend on the timestep: compute it once per restoration.
    pub fn embed(&self, degraded: Tensor<4>) -> Tensor<4> {
        self.embed_values(self.range.of_unit(degraded))
    }

    /// As [`Self::embed`], of values that are in the range already in which the branch reads pictures.
    pub fn embed_values(&self, degraded: Tensor<4>) -> Tensor<4> {
        let degraded = degraded.cast(self.dtype());
        self.controlnet_cond_embedding.forward(if self.swap_channels { degraded.flip([1]) } else { degraded })
    }

    /// c_i and c_mid, in the branch's own float type. `sample` is `[batch, channels, height, width]`, `timestep` `[batch]`,
    /// `context` the restoration prompt's states `[batch, tokens, width]`, `embedded` the result of [`Self::embed`].
    pub fn features(
        &self,
        sample: Tensor<4>,
        timestep: Tensor<1>,
        context: Tensor<3>,
        embedded: Tensor<4>,
    ) -> ControlFeatures {
        let dtype = self.dtype();
        let (sample, context) = (sample.cast(dtype), context.cast(dtype));
        let x = match self.conditioning {
            Conditioning::Add => conv2d(&self.conv_in, sample) + embedded,
            Conditioning::Concat => conv2d(&self.conv_in, Tensor::cat(vec![sample, embedded], 1)),
        };
        let time = self.time_embedding.forward(self.time_proj.forward(timestep).cast(dtype));
        blocks::encode(&self.down_blocks, &self.mid_block, x, Conditions::new(&time, &context))
    }

    /// The control features as [`crate::fusion`] adds or modulates them: with [`Fusion::Add`] through the zero convolutions,
    /// otherwise unchanged.
    pub fn residuals(&self, features: ControlFeatures) -> ControlFeatures {
        match self.layers() {
            FusionLayers::Add { skip, mid } => fusion::residuals(skip, mid, features),
            FusionLayers::Modulate { .. } => features,
        }
    }

    /// The frozen UNet's features fused with this branch's, and the decoder's modulations with
    /// [`Fusion::ModulateSkipAndUp`]. `frozen` may contain the branch's batch several times, once per guidance pass.
    pub fn fuse(&self, frozen: Features, control: ControlFeatures) -> (Features, Option<Vec<ScaleAndBias>>) {
        self.layers().fuse(frozen, control, self.scale)
    }

    /// The fusion's layers. They are fields of this struct because their keys in the state dict have no prefix.
    fn layers(&self) -> FusionLayers<'_> {
        match (&self.modulation_skip, &self.modulation_mid, &self.controlnet_down_blocks, &self.controlnet_mid_block) {
            (Some(skip), Some(mid), ..) => FusionLayers::Modulate { skip, mid, up: self.modulation_up.as_deref() },
            (.., Some(skip), Some(mid)) => FusionLayers::Add { skip, mid },
            _ => unreachable!("a branch is created with the layers of one fusion"),
        }
    }
}

/// The control branch's features: c_i outermost first, and c_mid.
pub type ControlFeatures = Features;
