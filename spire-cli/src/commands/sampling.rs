//! The options of sampling, which `spire restore` and `spire walk` share.

use serde::Serialize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use spire_model::restore::{ColourFix, QualityPrompts, SamplingConfig, StartFrom};
use spire_model::scheduler::SamplerKind;
use toml::Value;

/// How pictures are sampled. What is left out is as in the model's settings.
#[derive(clap::Args)]
pub struct Sampling {
    /// Negative prompt: replaces the empty prompt in classifier-free guidance
    #[arg(long)]
    negative: Option<String>,
    /// Words for a good picture, appended to the semantic prompt
    #[arg(long, value_name = "WORDS")]
    positive: Option<String>,
    /// Published words for --positive and --negative: none, seesr or diffbir
    #[arg(long, value_name = "PRESET", value_parser = by_name::<QualityPrompts>)]
    quality_prompts: Option<QualityPrompts>,
    /// Denoising steps
    #[arg(long)]
    steps: Option<usize>,
    /// Guidance scale: the weight of the semantic prompt; 1 for no guidance
    #[arg(long)]
    guidance: Option<f64>,
    /// ddim, dpm++2m or euler; with fresh noise in every step: ddpm, dpm++2m-sde or euler-a
    #[arg(long)]
    sampler: Option<SamplerKind>,
    /// Start from the degraded picture with noise and take this share of the steps (SDEdit); 1 starts from pure noise
    #[arg(long)]
    strength: Option<f64>,
    /// Where all steps start: noise, or picture, the degraded picture with the noise of the first step
    #[arg(long, value_parser = by_name::<StartFrom>)]
    start: Option<StartFrom>,
    /// Factor of the control branch's effect; 0 is the text-to-image model alone
    #[arg(long, value_name = "FACTOR")]
    control_scale: Option<f64>,
    /// The control branch acts from this fraction of the steps on
    #[arg(long, value_name = "FRACTION")]
    control_start: Option<f64>,
    /// The control branch acts until this fraction of the steps
    #[arg(long, value_name = "FRACTION")]
    control_end: Option<f64>,
    /// Take colours from the degraded picture: none, wavelet or adain
    #[arg(long, alias = "color-fix", value_parser = by_name::<ColourFix>)]
    colour_fix: Option<ColourFix>,
    /// Side of the tiles in which larger pictures are restored, in pixels; 0 for no tiles [default: the side for which
    /// the model was trained; 512 for --model]
    #[arg(long, value_name = "PIXELS")]
    pub tile: Option<usize>,
    /// Side of the tiles in which the VAE encodes and decodes, in pixels; 0 for no tiles [default: that of --tile]
    #[arg(long, value_name = "PIXELS")]
    vae_tile: Option<usize>,
}

impl Sampling {
    /// These options over a model's settings.
    pub fn over(self, mut sampling: SamplingConfig) -> SamplingConfig {
        sampling.steps = self.steps.unwrap_or(sampling.steps);
        sampling.guidance_scale = self.guidance.unwrap_or(sampling.guidance_scale);
        sampling.sampler = self.sampler.unwrap_or(sampling.sampler);
        sampling.negative = self.negative.unwrap_or(sampling.negative);
        sampling.positive = self.positive.unwrap_or(sampling.positive);
        sampling.quality_prompts = self.quality_prompts.unwrap_or(sampling.quality_prompts);
        sampling.strength = self.strength.unwrap_or(sampling.strength);
        sampling.start = self.start.unwrap_or(sampling.start);
        sampling.control_scale = self.control_scale.unwrap_or(sampling.control_scale);
        sampling.control_start = self.control_start.unwrap_or(sampling.control_start);
        sampling.control_end = self.control_end.unwrap_or(sampling.control_end);
        sampling.colour_fix = self.colour_fix.unwrap_or(sampling.colour_fix);
        sampling.tile = self.tile.or(sampling.tile);
        sampling.vae_tile = self.vae_tile.or(sampling.vae_tile);
        sampling
    }
}

impl Sampling {
    /// The options that are set, each with its key in the settings of sampling and its value.
    pub fn given(&self) -> Result<Vec<(&'static str, &'static str, Value)>, toml::ser::Error> {
        let number = |value: Option<f64>| value.map(Value::from);
        let size = |value: Option<usize>| value.map(|value| Value::from(i64::try_from(value).unwrap_or(i64::MAX)));
        let text = |value: &Option<String>| value.clone().map(Value::from);
        let options = [
            ("--negative", "negative", text(&self.negative)),
            ("--positive", "positive", text(&self.positive)),
            ("--quality-prompts", "quality_prompts", named(self.quality_prompts)?),
            ("--steps", "steps", size(self.steps)),
            ("--guidance", "guidance_scale", number(self.guidance)),
            ("--sampler", "sampler", named(self.sampler)?),
            ("--strength", "strength", number(self.strength)),
            ("--start", "start", named(self.start)?),
            ("--control-scale", "control_scale", number(self.control_scale)),
            ("--control-start", "control_start", number(self.control_start)),
            ("--control-end", "control_end", number(self.control_end)),
            ("--colour-fix", "colour_fix", named(self.colour_fix)?),
            ("--tile", "tile", size(self.tile)),
            ("--vae-tile", "vae_tile", size(self.vae_tile)),
        ];
        Ok(options.into_iter().filter_map(|(option, key, value)| Some((option, key, value?))).collect())
    }
}

fn named<T: Serialize>(value: Option<T>) -> Result<Option<Value>, toml::ser::Error> {
    value.map(Value::try_from).transpose()
}

/// Parses a value by its name in a configuration.
pub fn by_name<T: DeserializeOwned>(name: &str) -> Result<T, serde::de::value::Error> {
    T::deserialize(name.into_deserializer())
}
