//! The trainable control branch (paper section 3.4): a copy of the UNet's encoder and middle block that reads the noisy
//! latent, the degraded picture and the restoration prompt.
//!
//! One type serves every fusion. With [`Fusion::Add`] it is diffusers' `ControlNetModel`, names and shapes included:
//! e(y) has as many channels as `conv_in` gives and is added to its output. Otherwise `conv_in` takes `[zt, e(y)]`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::{DType, Device, Tensor};
use burn_store::{FloatCastAdapter, ModuleAdapter, ModuleSnapshot, PathFilter};
use serde::{Deserialize, Serialize};
use spire_kernels::{conv2d, silu};

use crate::decoupling::Prompts;
use crate::fusion::{Fusion, ScaleAndBias, zero_conv};
use crate::hub;
use crate::nn::repeat_batch;
use crate::nn::resnet::conv3x3;
use crate::nn::timestep::{TimestepEmbedding, Timesteps};
use crate::unet::UNet;
use crate::unet::blocks::{self, DownBlock, Features, MidBlock};
use crate::unet::config::{UNetConfig, check_fixed_settings};
use crate::weights::{self, missing_in_part, read_config};

/// `config.json` of a control branch: diffusers' `ControlNetModel` configuration and three keys more.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ControlConfig {
    /// `SpireControl` or `ControlNetModel`.
    #[serde(rename = "_class_name", default)]
    pub class_name: String,
    /// The encoder's settings, the UNet's own.
    #[serde(flatten)]
    pub encoder: UNetConfig,
    /// Channels of the degraded picture.
    #[serde(default = "three")]
    pub conditioning_channels: usize,
    /// Channels of e(y)'s convolutions, at full size, 1/2, 1/4 and 1/8.
    #[serde(default = "embedding_channels")]
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// `rgb`, or `bgr` where the branch was trained on swapped channels.
    #[serde(default = "rgb")]
    pub controlnet_conditioning_channel_order: String,
    /// How the branch acts on the UNet.
    #[serde(default)]
    pub fusion: Option<Fusion>,
    /// Which prompts the UNet and the branch attend to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prompts: Prompts,
    /// Channels of e(y) that are concatenated to the latent.
    #[serde(default)]
    pub condition_channels: Option<usize>,
}

fn is_default(prompts: &Prompts) -> bool {
    *prompts == Prompts::default()
}

fn three() -> usize {
    3
}

fn embedding_channels() -> Vec<usize> {
    vec![16, 32, 96, 256]
}

fn rgb() -> String {
    "rgb".into()
}

impl ControlConfig {
    /// The branch that fits a UNet; its prompts are decoupled.
    pub fn for_unet(unet: &UNetConfig, fusion: Fusion, embedding_channels: Vec<usize>) -> Self {
        let add = fusion == Fusion::Add;
        Self {
            class_name: if add { "ControlNetModel" } else { "SpireControl" }.into(),
            encoder: unet.clone(),
            conditioning_channels: three(),
            conditioning_embedding_out_channels: embedding_channels,
            controlnet_conditioning_channel_order: rgb(),
            fusion: (!add).then_some(fusion),
            prompts: Prompts::default(),
            condition_channels: (!add).then_some(unet.in_channels),
        }
    }

    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// Unreadable, contradictory or unsupported.
    pub fn read(folder: &Path) -> Result<Self> {
        let config: Self = read_config(folder, "config.json")?;
        check_fixed_settings(folder)?;
        config.check().with_context(|| folder.join("config.json").display().to_string())?;
        Ok(config)
    }

    /// `config.json`, without the decoder's settings, which a branch does not have, so that diffusers' `ControlNetModel`
    /// knows every key of it where the fusion is [`Fusion::Add`].
    ///
    /// # Errors
    /// None that can come up: all of it is plain data.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_value(self)?;
        if let Some(keys) = json.as_object_mut() {
            keys.retain(|key, value| {
                let of_decoder = ["out_channels", "up_block_types", "sample_size"].contains(&key.as_str());
                let unused = ["fusion", "condition_channels"].contains(&key.as_str()) && value.is_null();
                !of_decoder && !unused
            });
        }
        Ok(serde_json::to_vec_pretty(&json)?)
    }

    /// The fusion: a `ControlNetModel` adds, a `SpireControl` says.
    pub fn fusion(&self) -> Fusion {
        match self.fusion {
            Some(fusion) => fusion,
            None if self.class_name == "ControlNetModel" => Fusion::Add,
            None => Fusion::default(),
        }
    }

    /// Whether the branch's features meet the UNet's skips.
    ///
    /// # Errors
    /// They do not.
    pub fn check_fits(&self, unet: &UNetConfig) -> Result<()> {
        let (skips, branch) = (unet.skip_channels(), self.encoder.skip_channels());
        ensure!(skips == branch, "the UNet's skips have {skips:?} channels, the control branch's features {branch:?}");
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.encoder.check()?;
        ensure!(
            self.conditioning_embedding_out_channels.len() > 1,
            "\"conditioning_embedding_out_channels\" needs two entries or more"
        );
        ensure!(
            ["rgb", "bgr"].contains(&self.controlnet_conditioning_channel_order.as_str()),
            "\"controlnet_conditioning_channel_order\": \"{}\" is not rgb or bgr",
            self.controlnet_conditioning_channel_order
        );
        Ok(())
    }
}

/// The folder that `control` stands for: itself, if it exists, or else the branch of that name on the Hugging Face Hub,
/// such as `lllyasviel/control_v11f1e_sd15_tile`, from the local cache or downloaded into it.
///
/// # Errors
/// It is neither; the message says what is missing and how to get it.
pub fn locate(control: &Path) -> Result<PathBuf> {
    let missing = |folder: &Path| missing_in_part(folder, "diffusion_pytorch_model").collect();
    hub::locate(control, "control branch", &["config.json", "diffusion_pytorch_model*"], missing)
}

/// What the picture says reaches e(y) undiminished: of a normal variable of variance 1, SiLU leaves a mean square of 0.355, by
/// which this divides. With PyTorch's default, a third of the variance at each of eight convolutions, about one ten-thousandth of
/// the picture's contrast is left.
const KEEPS_VARIANCE: Initializer = Initializer::KaimingNormal { gain: 1.68, fan_out_only: false };

/// e(y): from the degraded picture down to the latent's size. diffusers' `ControlNetConditioningEmbedding`.
#[derive(Module, Debug)]
pub struct ConditioningEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl ConditioningEmbedding {
    /// With fresh weights: from 3 channels to `out`, by way of `channels` at full size, half of it, …
    ///
    /// # Errors
    /// There is no channel.
    pub fn fresh(channels: &[usize], out: usize, device: &Device) -> Result<Self> {
        ensure!(!channels.is_empty() && !channels.contains(&0), "e(y) needs channels, not {channels:?}");
        Ok(Self::new(three(), channels, out, KEEPS_VARIANCE, device))
    }

    /// `out` channels, by a last convolution that starts as `last` says.
    fn new(from: usize, channels: &[usize], out: usize, last: Initializer, device: &Device) -> Self {
        let conv = |from, to, stride, initializer| {
            Conv2dConfig::new([from, to], [3, 3])
                .with_stride([stride, stride])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_initializer(initializer)
                .init(device)
        };
        let block = |from, to| [conv(from, from, 1, KEEPS_VARIANCE), conv(from, to, 2, KEEPS_VARIANCE)];
        Self {
            conv_in: conv(from, channels[0], 1, KEEPS_VARIANCE),
            blocks: channels.windows(2).flat_map(|pair| block(pair[0], pair[1])).collect(),
            conv_out: conv(channels[channels.len() - 1], out, 1, last),
        }
    }

    /// `picture` `[batch, 3, height, width]` in \[-1, 1\] to `[batch, out, height / 8, width / 8]` (with four entries in `channels`).
    pub fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let x = silu(conv2d(&self.conv_in, picture));
        let x = self.blocks.iter().fold(x, |x, block| silu(conv2d(block, x)));
        conv2d(&self.conv_out, x)
    }
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
    prompts: Prompts,
}

impl Control {
    /// With fresh weights; the fusion layers, and what feeds e(y) into the encoder, are zero.
    ///
    /// # Errors
    /// The configuration contradicts itself.
    pub fn new(config: &ControlConfig, device: &Device) -> Result<Self> {
        config.check()?;
        let (encoder, fusion) = (&config.encoder, config.fusion());
        let (add, up) = (fusion == Fusion::Add, fusion == Fusion::ModulateSkipAndUp);
        let width = encoder.block_out_channels[0];
        let inner = *encoder.block_out_channels.last().expect("checked: not empty");
        let skips = encoder.skip_channels();
        let embedding = &config.conditioning_embedding_out_channels;
        let condition = config.condition_channels.unwrap_or(4);
        // As ControlNet: the zero convolution that lets e(y) in by and by.
        let (embedded, last) = if add { (width, Initializer::Zeros) } else { (condition, KEEPS_VARIANCE) };
        let conv_in = if add { encoder.in_channels } else { encoder.in_channels + condition };
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
        })
    }

    /// A branch for training: the encoder and middle block start as the UNet's, the input channels that read e(y) at
    /// zero.
    ///
    /// # Errors
    /// The UNet is not the one that `config` describes.
    pub fn from_unet(config: &ControlConfig, unet: &UNet, device: &Device) -> Result<Self> {
        let mut control = Self::new(config, device)?;
        let copied = PathFilter::new().with_regex("^(time_embedding|down_blocks|mid_block)[.]");
        // What is trained has 32 bits, whatever the frozen UNet is kept in.
        let cast = Some(Box::new(FloatCastAdapter::to(DType::F32)) as Box<dyn ModuleAdapter>);
        let result = control.apply(unet.collect(Some(copied), None, true), None, cast, true);
        ensure!(result.errors.is_empty(), "the control branch does not fit the UNet: {}", result.errors[0]);
        // Copied by hand: it grows by the channels of e(y). Through data, since moving a tensor to the same hardware does
        // not give it the autodiff of `device`.
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

    /// The branch with the convolutions of `embedding`; the last of them, where the branch adds, stays zero.
    pub fn with_embedding(mut self, embedding: ConditioningEmbedding) -> Self {
        let own = self.controlnet_cond_embedding.conv_out;
        let conv_out = if self.controlnet_down_blocks.is_some() { own } else { embedding.conv_out };
        self.controlnet_cond_embedding = ConditioningEmbedding { conv_out, ..embedding };
        self
    }

    /// From a folder with `config.json` and safetensors: this project's, or any public ControlNet's.
    ///
    /// # Errors
    /// Unreadable, unsupported, or weights that do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        weights::load(Self::new(&ControlConfig::read(folder)?, device)?, folder)
    }

    /// Which prompts the UNet and the branch attend to.
    pub fn prompts(&self) -> Prompts {
        self.prompts
    }

    /// The float type in which the branch computes. What goes in may have 32 bits, and what fusion gives has.
    pub fn dtype(&self) -> DType {
        self.conv_in.weight.dtype()
    }

    /// e(y), in the branch's own float type: `degraded` `[batch, 3, 8·height, 8·width]` in \[-1, 1\] to
    /// `[batch, channels, height, width]`. It knows no timestep: one is enough for a restoration.
    pub fn embed(&self, degraded: Tensor<4>) -> Tensor<4> {
        let degraded = degraded.cast(self.dtype());
        self.controlnet_cond_embedding.forward(if self.swap_channels { degraded.flip([1]) } else { degraded })
    }

    /// c_i and c_mid, in the branch's own float type: `sample` `[batch, channels, height, width]`, `timestep` `[batch]`,
    /// `context` `[batch, tokens, width]` of the restoration prompt, `embedded` as [`Self::embed`] gives it.
    pub fn features(
        &self,
        sample: Tensor<4>,
        timestep: Tensor<1>,
        context: Tensor<3>,
        embedded: Tensor<4>,
    ) -> ControlFeatures {
        let dtype = self.dtype();
        let (sample, context) = (sample.cast(dtype), context.cast(dtype));
        let x = if self.controlnet_down_blocks.is_some() {
            conv2d(&self.conv_in, sample) + embedded
        } else {
            conv2d(&self.conv_in, Tensor::cat(vec![sample, embedded], 1))
        };
        let time = self.time_embedding.forward(self.time_proj.forward(timestep).cast(dtype));
        blocks::encode(&self.down_blocks, &self.mid_block, x, &time, &context)
    }

    /// With [`Fusion::Add`]: what is added to the skips and the middle block's output; otherwise the features as they are.
    pub fn residuals(&self, features: ControlFeatures) -> ControlFeatures {
        match (&self.controlnet_down_blocks, &self.controlnet_mid_block) {
            (Some(convs), Some(mid)) => Features {
                down: convs.iter().zip(features.down).map(|(conv, c)| conv2d(conv, c)).collect(),
                mid: conv2d(mid, features.mid),
            },
            _ => features,
        }
    }

    /// The frozen UNet's features fused with this branch's, and what modulates the decoder where it is modulated. `frozen`
    /// may hold the branch's batch several times over.
    pub fn fuse(&self, frozen: Features, control: ControlFeatures) -> (Features, Option<Vec<ScaleAndBias>>) {
        let (Some(skip), Some(mid)) = (&self.modulation_skip, &self.modulation_mid) else {
            let residuals = self.residuals(control).cast(DType::F32);
            let halves = frozen.mid.dims()[0] / residuals.mid.dims()[0];
            let add = |(f, r): (Tensor<4>, Tensor<4>)| f + repeat_batch(r, halves);
            let down = frozen.down.into_iter().zip(residuals.down).map(add).collect();
            return (Features { down, mid: add((frozen.mid, residuals.mid)) }, None);
        };
        let modulate = |convs: &[Conv2d]| -> Vec<ScaleAndBias> {
            let modulation = |(conv, c): (&Conv2d, &Tensor<4>)| scale_and_bias(conv, c.clone());
            convs.iter().zip(&control.down).map(modulation).collect()
        };
        // The decoder meets a skip at the skip's own resolution, so c_i has the size of the decoder feature too.
        let up = self.modulation_up.as_deref().map(modulate);
        let down = modulate(skip).into_iter().zip(frozen.down).map(|(modulation, f)| modulation.apply(f)).collect();
        let mid = scale_and_bias(mid, control.mid).apply(frozen.mid);
        (Features { down, mid }, up)
    }
}

/// γ and β in 32 bits, whatever the branch computes in: as the frozen UNet hands its features out.
fn scale_and_bias(conv: &Conv2d, feature: Tensor<4>) -> ScaleAndBias {
    ScaleAndBias::new(conv2d(conv, feature)).cast(DType::F32)
}

/// The control branch's features, c_i outermost first and c_mid.
pub type ControlFeatures = Features;
