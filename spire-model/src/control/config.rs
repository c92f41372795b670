//! `config.json` of a control branch.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::bounds::{MOST_CHANNELS, MOST_RESOLUTIONS, check_at_most};
use crate::decoupling::PromptRouting;
use crate::fusion::Fusion;
use crate::unet::config::{UNetConfig, check_fixed_settings};
use crate::weights::read_config;

/// The range of the values that a branch reads the degraded picture in. In `config.json` it is written as the list
/// `[0, 1]` or `[-1, 1]`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "[f64; 2]", into = "[i8; 2]")]
pub enum ConditioningRange {
    /// \[0, 1\], as ControlNet and diffusers have it: every new branch.
    Unit,
    /// \[-1, 1\], as the VAE has it: branches of this project's first versions.
    Symmetric,
}

impl ConditioningRange {
    /// The range that an embedding e(y) on its own was fitted to, from its `config.json`: \[-1, 1\] without the key, as
    /// the first versions fitted it.
    ///
    /// # Errors
    /// The file is unreadable, or the range is not supported.
    pub fn of_embedding(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct EmbeddingConfig {
            conditioning_range: Option<ConditioningRange>,
        }
        let config: EmbeddingConfig = read_config(folder, "config.json")?;
        Ok(config.conditioning_range.unwrap_or(Self::Symmetric))
    }

    /// Values in \[0, 1\] to this range.
    pub(super) fn of_unit(self, picture: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Unit => picture,
            Self::Symmetric => picture.mul_scalar(2.0).sub_scalar(1.0),
        }
    }
}

impl TryFrom<[f64; 2]> for ConditioningRange {
    type Error = String;

    fn try_from(range: [f64; 2]) -> Result<Self, String> {
        match range {
            [0.0, 1.0] => Ok(Self::Unit),
            [-1.0, 1.0] => Ok(Self::Symmetric),
            _ => Err(format!("\"conditioning_range\": {range:?} is not [0, 1] or [-1, 1]")),
        }
    }
}

impl From<ConditioningRange> for [i8; 2] {
    fn from(range: ConditioningRange) -> Self {
        match range {
            ConditioningRange::Unit => [0, 1],
            ConditioningRange::Symmetric => [-1, 1],
        }
    }
}

/// How the conditioning embedding e(y) enters the branch.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditioning {
    /// Concatenated to the noisy latent, before `conv_in`: the paper's choice.
    Concat,
    /// Added to the output of `conv_in`, after a zero-initialised convolution: ControlNet's choice.
    Add,
}

impl Conditioning {
    /// That of a new branch whose configuration does not say it: with addition as its fusion, the branch is a ControlNet.
    pub fn with(fusion: Fusion) -> Self {
        if fusion == Fusion::Add { Self::Add } else { Self::Concat }
    }
}

/// `config.json` of a control branch: diffusers' `ControlNetModel` configuration and five keys more.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ControlConfig {
    /// `SpireControl` or `ControlNetModel`.
    #[serde(rename = "_class_name", default)]
    pub class_name: String,
    /// The encoder's settings, copied from the UNet's configuration.
    #[serde(flatten)]
    pub encoder: UNetConfig,
    /// Channels of the degraded picture.
    #[serde(default = "three")]
    pub conditioning_channels: usize,
    /// Channels of the conditioning embedding's convolutions at full size, 1/2, 1/4 and 1/8.
    #[serde(default = "embedding_channels")]
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// `rgb`, or `bgr` for a branch trained on swapped channels.
    #[serde(default = "rgb")]
    pub controlnet_conditioning_channel_order: String,
    /// The range of the degraded picture's values; see [`Self::conditioning_range`] for `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditioning_range: Option<ConditioningRange>,
    /// How the branch's features are fused with the UNet's; `None` in a `ControlNetModel`.
    #[serde(default)]
    pub fusion: Option<Fusion>,
    /// Which prompts the UNet and the branch attend to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prompts: PromptRouting,
    /// How e(y) enters the branch; see [`Self::conditioning`] for `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditioning: Option<Conditioning>,
    /// Channels of e(y), concatenated to the latent; `None` where e(y) is added.
    #[serde(default)]
    pub condition_channels: Option<usize>,
}

fn is_default(prompts: &PromptRouting) -> bool {
    *prompts == PromptRouting::default()
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
    /// The configuration of a new branch for `unet`, with decoupled prompts. `embedding_channels` are those of e(y)'s
    /// convolutions. The branch reads pictures in \[0, 1\]: a `ControlNetModel` always does, others have it in their
    /// configuration.
    pub fn for_unet(unet: &UNetConfig, fusion: Fusion, embedding_channels: Vec<usize>) -> Self {
        Self::with_conditioning(unet, fusion, Conditioning::with(fusion), embedding_channels)
    }

    /// As [`Self::for_unet`], with the choice of how e(y) enters the branch. Only addition of both is a `ControlNetModel`.
    pub fn with_conditioning(
        unet: &UNetConfig,
        fusion: Fusion,
        conditioning: Conditioning,
        embedding_channels: Vec<usize>,
    ) -> Self {
        let control_net = fusion == Fusion::Add && conditioning == Conditioning::Add;
        Self {
            class_name: if control_net { "ControlNetModel" } else { "SpireControl" }.into(),
            encoder: unet.clone(),
            conditioning_channels: three(),
            conditioning_embedding_out_channels: embedding_channels,
            controlnet_conditioning_channel_order: rgb(),
            conditioning_range: (!control_net).then_some(ConditioningRange::Unit),
            fusion: (!control_net).then_some(fusion),
            prompts: PromptRouting::default(),
            conditioning: (conditioning != Conditioning::with(fusion)).then_some(conditioning),
            condition_channels: (conditioning == Conditioning::Concat).then_some(unet.in_channels),
        }
    }

    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// The file is unreadable, or its settings contradict each other or are not supported.
    pub fn read(folder: &Path) -> Result<Self> {
        let config: Self = read_config(folder, "config.json")?;
        check_fixed_settings(folder)?;
        config.check().with_context(|| folder.join("config.json").display().to_string())?;
        Ok(config)
    }

    /// The text of `config.json`, without the decoder's settings, which a branch does not have. With [`Fusion::Add`],
    /// diffusers' `ControlNetModel` knows every key.
    ///
    /// # Errors
    /// Never: the configuration is plain data.
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

    /// The fusion: [`Fusion::Add`] for a `ControlNetModel`, else as `fusion` says.
    pub fn fusion(&self) -> Fusion {
        match self.fusion {
            Some(fusion) => fusion,
            None if self.class_name == "ControlNetModel" => Fusion::Add,
            None => Fusion::default(),
        }
    }

    /// How e(y) enters the branch. Without the key: added with [`Fusion::Add`], else concatenated.
    pub fn conditioning(&self) -> Conditioning {
        self.conditioning.unwrap_or_else(|| Conditioning::with(self.fusion()))
    }

    /// The channels of `conv_in`'s input and of e(y).
    pub(crate) fn input_channels(&self) -> (usize, usize) {
        let latent = self.encoder.in_channels;
        match self.conditioning() {
            Conditioning::Add => (latent, self.encoder.block_out_channels[0]),
            Conditioning::Concat => {
                let condition = self.condition_channels.unwrap_or(4);
                (latent + condition, condition)
            }
        }
    }

    /// The range of the values that the branch reads the degraded picture in. Without the key, a `ControlNetModel` reads
    /// \[0, 1\], as diffusers does; another branch is of this project's first versions, which read \[-1, 1\].
    pub fn conditioning_range(&self) -> ConditioningRange {
        match self.conditioning_range {
            Some(range) => range,
            None if self.class_name == "ControlNetModel" => ConditioningRange::Unit,
            None => ConditioningRange::Symmetric,
        }
    }

    /// Checks that the branch's features have the channels of the UNet's skips.
    ///
    /// # Errors
    /// The channels differ; the message lists both.
    pub fn check_fits(&self, unet: &UNetConfig) -> Result<()> {
        let (skips, branch) = (unet.skip_channels(), self.encoder.skip_channels());
        ensure!(skips == branch, "the UNet's skips have {skips:?} channels, the control branch's features {branch:?}");
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        self.encoder.check()?;
        ensure!(
            self.conditioning_embedding_out_channels.len() > 1,
            "\"conditioning_embedding_out_channels\" needs two entries or more"
        );
        let embedding = &self.conditioning_embedding_out_channels;
        check_at_most("the number of conditioning_embedding_out_channels", [embedding.len()], MOST_RESOLUTIONS)?;
        check_at_most("conditioning_embedding_out_channels", embedding.iter().copied(), MOST_CHANNELS)?;
        check_at_most("conditioning_channels", [self.conditioning_channels], MOST_CHANNELS)?;
        check_at_most("condition_channels", self.condition_channels, MOST_CHANNELS)?;
        ensure!(
            ["rgb", "bgr"].contains(&self.controlnet_conditioning_channel_order.as_str()),
            "\"controlnet_conditioning_channel_order\": \"{}\" is not rgb or bgr",
            self.controlnet_conditioning_channel_order
        );
        Ok(())
    }
}
