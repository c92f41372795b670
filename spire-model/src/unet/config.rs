//! `config.json` of a UNet or a control branch, as diffusers writes it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bounds::{MOST_CHANNELS, MOST_LAYERS, MOST_RESOLUTIONS, check_at_most};
use crate::nn::PerBlock;
use crate::weights::read_config;

/// diffusers' `UNet2DConditionModel` configuration; the defaults are diffusers'.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Latent channels in.
    pub in_channels: usize,
    /// Latent channels out.
    pub out_channels: usize,
    /// Channels at each resolution, outermost first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks at each resolution.
    pub layers_per_block: PerBlock<usize>,
    /// `CrossAttnDownBlock2D` or `DownBlock2D`, outermost first.
    pub down_block_types: Vec<String>,
    /// `CrossAttnUpBlock2D` or `UpBlock2D`, innermost first.
    pub up_block_types: Vec<String>,
    /// Number of heads, despite its name: diffusers keeps the wrong name for old checkpoints.
    pub attention_head_dim: PerBlock<usize>,
    /// Number of heads; takes precedence.
    pub num_attention_heads: Option<PerBlock<usize>>,
    /// Width of the text tokens.
    pub cross_attention_dim: PerBlock<usize>,
    /// Transformer blocks in each spatial transformer.
    pub transformer_layers_per_block: PerBlock<usize>,
    /// Groups of the normalisations.
    pub norm_num_groups: usize,
    /// Epsilon of the normalisation layers.
    pub norm_eps: f64,
    /// Linear layers around the transformer (SD 2.x) instead of 1×1 convolutions (SD 1.x).
    pub use_linear_projection: bool,
    /// Attention scores in f32 where the weights are f16 (SD 2.1).
    pub upcast_attention: bool,
    /// Whether the cosines come first in the timestep features.
    pub flip_sin_to_cos: bool,
    /// Shift of the timestep features' frequencies.
    pub freq_shift: f64,
    /// Padding of the strided convolutions.
    pub downsample_padding: usize,
    /// Divisor of the middle block's residual sums.
    pub mid_block_scale_factor: f64,
    /// Height and width of the latents that the model was trained on.
    pub sample_size: Option<usize>,
    /// Channels of the maps that modulate the residual blocks, in StableSR's UNet alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structure_channels: Option<usize>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::All(2),
            down_block_types: ["CrossAttnDownBlock2D"; 3].into_iter().chain(["DownBlock2D"]).map(Into::into).collect(),
            up_block_types: ["UpBlock2D"].into_iter().chain(["CrossAttnUpBlock2D"; 3]).map(Into::into).collect(),
            attention_head_dim: PerBlock::All(8),
            num_attention_heads: None,
            cross_attention_dim: PerBlock::All(1280),
            transformer_layers_per_block: PerBlock::All(1),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            use_linear_projection: false,
            upcast_attention: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            sample_size: None,
            structure_channels: None,
        }
    }
}

/// Settings that change the computation and of which only one value is supported; an absent key means that value.
fn fixed_settings() -> Vec<(&'static str, Value)> {
    vec![
        ("act_fn", json!("silu")),
        ("addition_embed_type", json!(null)),
        ("attention_type", json!("default")),
        ("center_input_sample", json!(false)),
        ("class_embed_type", json!(null)),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("cross_attention_norm", json!(null)),
        ("dropout", json!(0.0)),
        ("dual_cross_attention", json!(false)),
        ("encoder_hid_dim", json!(null)),
        ("encoder_hid_dim_type", json!(null)),
        ("mid_block_only_cross_attention", json!(null)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("num_class_embeds", json!(null)),
        ("only_cross_attention", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("reverse_transformer_layers_per_block", json!(null)),
        ("time_cond_proj_dim", json!(null)),
        ("time_embedding_act_fn", json!(null)),
        ("time_embedding_dim", json!(null)),
        ("time_embedding_type", json!("positional")),
        ("timestep_post_act", json!(null)),
        ("global_pool_conditions", json!(false)),
    ]
}

/// Rejects a `config.json` with settings that are not supported.
///
/// # Errors
/// The message names the file and the setting.
pub fn check_fixed_settings(folder: &Path) -> Result<()> {
    let raw: Value = read_config(folder, "config.json")?;
    for (key, expected) in fixed_settings() {
        let found = raw.get(key).unwrap_or(&expected);
        // 0 and 0.0 are the same setting.
        let same = match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => found == expected,
            _ => *found == expected,
        };
        if !same {
            let path = folder.join("config.json");
            bail!("{}: \"{key}\": {found} is not supported, only {expected} is", path.display());
        }
    }
    Ok(())
}

impl UNetConfig {
    /// Reads and checks `config.json` of a UNet folder.
    ///
    /// # Errors
    /// The file is unreadable, or its settings contradict each other or are not supported.
    pub fn read(folder: &Path) -> Result<Self> {
        let config: Self = read_config(folder, "config.json")?;
        let context = || folder.join("config.json").display().to_string();
        check_fixed_settings(folder)?;
        config.check().and_then(|()| config.check_decoder()).with_context(context)?;
        Ok(config)
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// The message names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        let blocks = self.block_out_channels.len();
        ensure!(blocks > 0, "\"block_out_channels\" is empty");
        self.check_sizes()?;
        ensure!(self.norm_num_groups > 0, "\"norm_num_groups\" is 0");
        self.check_block_types("down_block_types", &self.down_block_types, ["CrossAttnDownBlock2D", "DownBlock2D"])?;
        for (i, &channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.heads(i).context("\"attention_head_dim\" has fewer entries than there are blocks")?;
            ensure!(heads > 0 && channels % heads == 0, "{channels} channels can't be split among {heads} heads");
            ensure!(
                channels > 0 && channels % self.norm_num_groups == 0,
                "{channels} channels can't be split into {} groups",
                self.norm_num_groups
            );
            let layers = self.layers_per_block.get(i).context("\"layers_per_block\" has too few entries")?;
            ensure!(layers > 0, "\"layers_per_block\" is 0");
            self.cross_attention_dim.get(i).context("\"cross_attention_dim\" has too few entries")?;
            self.transformer_layers_per_block.get(i).context("\"transformer_layers_per_block\" has too few entries")?;
        }
        ensure!(self.block_out_channels[0].is_multiple_of(2), "the first of \"block_out_channels\" is odd");
        Ok(())
    }

    fn check_sizes(&self) -> Result<()> {
        let each = |setting: &PerBlock<usize>| {
            (0..self.block_out_channels.len()).filter_map(|i| setting.get(i)).collect::<Vec<_>>()
        };
        check_at_most("block_out_channels", self.block_out_channels.iter().copied(), MOST_CHANNELS)?;
        check_at_most("the number of block_out_channels", [self.block_out_channels.len()], MOST_RESOLUTIONS)?;
        check_at_most("layers_per_block", each(&self.layers_per_block), MOST_LAYERS)?;
        check_at_most("transformer_layers_per_block", each(&self.transformer_layers_per_block), MOST_LAYERS)?;
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("downsample_padding", self.downsample_padding),
            ("sample_size", self.sample_size.unwrap_or_default()),
        ] {
            check_at_most(key, [value], MOST_CHANNELS)?;
        }
        check_at_most("cross_attention_dim", each(&self.cross_attention_dim), MOST_CHANNELS)
    }

    /// Checks the decoder's settings; a control branch has none.
    ///
    /// # Errors
    /// The message names the setting that is out of range.
    pub fn check_decoder(&self) -> Result<()> {
        self.check_block_types("up_block_types", &self.up_block_types, ["CrossAttnUpBlock2D", "UpBlock2D"])
    }

    fn check_block_types(&self, key: &str, types: &[String], known: [&str; 2]) -> Result<()> {
        let blocks = self.block_out_channels.len();
        ensure!(types.len() == blocks, "\"{key}\" has {} entries, \"block_out_channels\" {blocks}", types.len());
        match types.iter().find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => bail!("\"{key}\": {unknown} is not supported, only {} and {} are", known[0], known[1]),
            None => Ok(()),
        }
    }

    /// Attention heads in block `i`.
    pub fn heads(&self, i: usize) -> Option<usize> {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).get(i)
    }

    /// Width of the timestep embedding.
    pub fn time_width(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// Channels of every skip, in the order of the encoder.
    pub fn skip_channels(&self) -> Vec<usize> {
        let last = self.block_out_channels.len() - 1;
        let mut skips = vec![self.block_out_channels[0]];
        for (i, &channels) in self.block_out_channels.iter().enumerate() {
            let layers = self.layers_per_block.get(i).unwrap_or(0);
            skips.extend(std::iter::repeat_n(channels, layers + usize::from(i < last)));
        }
        skips
    }

    /// Channels of the decoder feature that meets each skip, in the order of [`Self::skip_channels`].
    pub fn up_channels(&self) -> Vec<usize> {
        let mut channels = vec![];
        let mut before = *self.block_out_channels.last().unwrap_or(&0);
        for (i, &width) in self.block_out_channels.iter().enumerate().rev() {
            for _ in 0..=self.layers_per_block.get(i).unwrap_or(0) {
                channels.push(before);
                before = width;
            }
        }
        channels.reverse();
        channels
    }
}
