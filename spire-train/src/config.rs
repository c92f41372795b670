//! The configuration of a training run: one section per component, every key with a default. [`spire_core::settings`]
//! reads it.

mod validate;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use spire_core::settings::Keys;
use spire_data::degrade::parameterized::SMALL_SIZE;
use spire_data::degrade::{DegradationConfig, ParameterizedConfig};
use spire_data::loader::DataConfig;
use spire_data::source::{SourceConfig, SourceKind};
use spire_model::base::{Base, LongPrompts, Parts};
use spire_model::control::{Conditioning, ControlConfig};
use spire_model::decoupling::PromptRouting;
use spire_model::device::ensure_computes_in;
use spire_model::fusion::Fusion;
use spire_model::restore::SamplingConfig;
use spire_model::unet::UNetConfig;
use spire_model::weights::Precision;
use toml::{Table, Value};

pub use validate::{FixedPicture, ValidateSection};

use crate::optim::adamw::OptimizerSettings;
use crate::optim::backward::Computation;
use crate::optim::learning_rate::{LearningRate, Schedule};

/// The most samples of a batch, and the most batches of a step.
const MOST_IN_A_BATCH: usize = 1 << 16;

/// The most pixels of a batch: 12 GiB of float32, before the first layer.
const MOST_PIXELS: usize = 1 << 30;

/// The most threads.
const MOST_THREADS: usize = 1024;

/// The most held-out pictures: twenty times those of the largest test sets.
const MOST_HELD_OUT: usize = 1_000_000;

/// The most rows of a sheet of samples.
const MOST_ROWS: usize = 1000;

/// Everything on which a run depends.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Run folder, seed and device.
    pub run: RunSection,
    /// The frozen model and the control branch.
    pub model: ModelSection,
    /// Clean pictures and captions.
    pub data: DataConfig,
    /// How they are degraded.
    pub degradation: DegradationConfig,
    /// The training loop.
    pub train: TrainSection,
    /// What is measured and drawn while it trains.
    pub validate: ValidateSection,
    /// Held-out samples, and the evaluation at the end.
    pub evaluate: EvaluateSection,
}

/// `[run]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// The run folder.
    pub dir: PathBuf,
    /// Seed of the order, degradations, noise and initial weights.
    pub seed: u64,
    /// `flex` (the CPU), `cuda:0`, `vulkan`, …; several devices (`cuda:0, cuda:1`) share the samples of every step.
    pub device: String,
}

impl Default for RunSection {
    fn default() -> Self {
        Self { dir: "runs/default".into(), seed: 0, device: "flex".into() }
    }
}

/// `[model]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// The frozen text-to-image model: a folder in the Hugging Face layout, a single `.safetensors` or `.ckpt` file, or
    /// a name on the Hugging Face Hub, `owner/name`.
    pub base: PathBuf,
    /// Variant of the frozen model's weights, such as `fp16` for `diffusion_pytorch_model.fp16.safetensors`; by default
    /// the weights without one.
    pub variant: Option<String>,
    /// Float type of the frozen model: `f32`, `bf16` or `f16`.
    pub precision: Precision,
    /// Float type in which the control branch computes: `f32` or `bf16`. Its weights are float32 in any case.
    pub control_precision: Precision,
    /// Memory for cached text encoder states, in MB; the least recently used are dropped.
    pub text_cache_megabytes: usize,
    /// Memory for cached latents of clean pictures, in MB, on the device; the first that fit are kept. Nothing is kept if
    /// pictures are cut anew each time, or if `data.encoded` has the latents.
    pub latent_cache_megabytes: usize,
    /// Prompts with more tokens than the text encoder reads: `truncate`, or `chunk` to encode them in pieces.
    pub long_prompts: LongPrompts,
    /// Folder of CLIP's image tower, for the Fréchet distance; by default `image_encoder` in the base folder.
    pub image_encoder: Option<PathBuf>,
    /// Initial control branch, a folder or a name on the Hugging Face Hub; by default a copy of the UNet's encoder.
    pub control: Option<PathBuf>,
    /// Fusion of a new branch: `modulate_skip` (the default), `modulate_skip_and_up` or `add`. A branch from `control`
    /// has its own, as for the next four keys.
    pub fusion: Option<Fusion>,
    /// How e(y) enters a new branch: `concat` to the noisy latent, or `add` after `conv_in`; by default `add` with
    /// `fusion = "add"`, which is ControlNet, else `concat`.
    pub conditioning: Option<Conditioning>,
    /// Which prompts the UNet and the branch attend to: `decoupled` (the default), `joined` or `semantic`.
    pub prompts: Option<PromptRouting>,
    /// Channels of e(y)'s convolutions at full size, 1/2, 1/4 and 1/8. By default those of
    /// `default_embedding_channels`; the run folder's configuration has them.
    pub embedding_channels: Option<Vec<usize>>,
    /// Folder with initial weights of e(y) (`spire pretrain --stage embedding`); by default random ones.
    pub embedding: Option<PathBuf>,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            base: "assets/tiny".into(),
            variant: None,
            precision: Precision::default(),
            control_precision: Precision::default(),
            text_cache_megabytes: 1000,
            latent_cache_megabytes: 1000,
            long_prompts: LongPrompts::default(),
            image_encoder: None,
            control: None,
            fusion: None,
            conditioning: None,
            prompts: None,
            embedding_channels: None,
            embedding: None,
        }
    }
}

/// Channels of e(y)'s convolutions in ControlNet.
const CONTROLNET_EMBEDDING_CHANNELS: [usize; 4] = [16, 32, 96, 256];

/// Channels of e(y)'s convolutions in a new branch for `unet`, if they are not set: ControlNet's, or for a UNet whose first
/// block is narrower than their last one an eighth, a quarter, a half and all of its width.
pub(crate) fn default_embedding_channels(unet: &UNetConfig) -> Vec<usize> {
    let width = unet.block_out_channels.first().copied().unwrap_or(0);
    if width >= CONTROLNET_EMBEDDING_CHANNELS[3] {
        return CONTROLNET_EMBEDDING_CHANNELS.to_vec();
    }
    [8, 4, 2, 1].map(|part| (width / part).max(1)).to_vec()
}

impl ModelSection {
    /// The folder of CLIP's image tower, if it exists.
    pub(crate) fn image_encoder(&self) -> Option<PathBuf> {
        let folder = self.image_encoder.clone().unwrap_or_else(|| self.base.join("image_encoder"));
        folder.is_dir().then_some(folder)
    }

    /// Loads the frozen model.
    ///
    /// # Errors
    /// As [`Base::load_variant`].
    pub(crate) fn load_base(&self, device: &Device) -> Result<Base> {
        self.load_parts(device, Parts::ALL)
    }

    /// Loads some parts of the frozen model.
    ///
    /// # Errors
    /// As [`Base::load_variant`].
    pub(crate) fn load_parts(&self, device: &Device, parts: Parts) -> Result<Base> {
        let mut base = Base::load_parts(&self.base, self.variant.as_deref(), self.precision, device, parts)?;
        base.prompts.set_long_prompts(self.long_prompts);
        Ok(base)
    }

    /// The configuration of a new branch for this UNet.
    pub(crate) fn control_config(&self, unet: &UNetConfig) -> ControlConfig {
        let fusion = self.fusion.unwrap_or_default();
        let conditioning = self.conditioning.unwrap_or_else(|| Conditioning::with(fusion));
        let new = ControlConfig::with_conditioning(unet, fusion, conditioning, self.embedding_channels());
        ControlConfig { prompts: self.prompts.unwrap_or_default(), ..new }
    }

    /// Channels of e(y)'s convolutions in a new branch. A run folder without the key is of an earlier version, which had one
    /// default for all models.
    pub(crate) fn embedding_channels(&self) -> Vec<usize> {
        self.embedding_channels.clone().unwrap_or_else(|| CONTROLNET_EMBEDDING_CHANNELS.to_vec())
    }

    /// Checks that no key of a new branch is set beside an initial branch, which would not follow it.
    ///
    /// # Errors
    /// One is; the error names it.
    fn check_contradictions(&self) -> Result<()> {
        let Some(control) = &self.control else { return Ok(()) };
        for (key, is_set) in [
            ("fusion", self.fusion.is_some()),
            ("conditioning", self.conditioning.is_some()),
            ("prompts", self.prompts.is_some()),
            ("embedding_channels", self.embedding_channels.is_some()),
            ("embedding", self.embedding.is_some()),
        ] {
            ensure!(
                !is_set,
                "model.{key} is for a new branch, but model.control = \"{}\" is a branch with its own: remove one of the two",
                control.display()
            );
        }
        Ok(())
    }

    /// Checks that `device` supports both float types.
    ///
    /// # Errors
    /// It does not; the error names the key.
    pub(crate) fn check_precision(&self, device: &Device) -> Result<()> {
        for (key, precision) in
            [("model.precision", self.precision), ("model.control_precision", self.control_precision)]
        {
            ensure_computes_in(precision, device, &format!("{key} = \"{precision}\""))?;
        }
        Ok(())
    }

    /// Memory for cached text encoder states, in bytes.
    pub(crate) fn text_cache_bytes(&self) -> usize {
        self.text_cache_megabytes.saturating_mul(1_000_000)
    }

    /// Memory for cached latents, in bytes.
    fn latent_cache_bytes(&self) -> usize {
        self.latent_cache_megabytes.saturating_mul(1_000_000)
    }
}

/// `[train]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Optimiser steps.
    pub steps: u64,
    /// Instead of `steps`: passes over the training pictures. The run folder's configuration has the steps.
    pub epochs: Option<f64>,
    /// Samples per batch.
    pub batch_size: usize,
    /// Batches per step; their gradients are averaged.
    pub accumulate: usize,
    /// Batches that are computed in parallel, each on a thread. On a CPU, 2 or more are faster.
    pub threads: usize,
    /// Size of gradient buckets between ranks, in MB.
    pub bucket_megabytes: usize,
    /// Gradient checkpointing: keep only the inputs of the blocks of the branch and of the UNet's decoder, and
    /// recompute the blocks in the backward pass.
    pub gradient_checkpointing: bool,
    /// Base learning rate of AdamW.
    pub learning_rate: f64,
    /// Multiply the learning rate by the number of ranks.
    pub scale_learning_rate: bool,
    /// Schedule after the warm-up: `cosine`, `constant`, `linear`, `polynomial` or `cosine_with_restarts`.
    pub schedule: Schedule,
    /// `polynomial`: the exponent.
    pub schedule_power: f64,
    /// `cosine_with_restarts`: the number of half cosines.
    pub schedule_cycles: u32,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Final learning rate of a schedule that is not constant, relative to the base rate.
    pub final_ratio: f64,
    /// AdamW's β₁, the decay of the gradients' moving average.
    pub adam_beta1: f64,
    /// AdamW's β₂, the decay of the squared gradients' moving average.
    pub adam_beta2: f64,
    /// AdamW's ε, added to the divisor of an update.
    pub adam_epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down so that their global norm is at most this.
    pub max_grad_norm: f64,
    /// Limits the weight of timesteps with little noise in the loss: min-SNR's γ (<https://arxiv.org/abs/2303.09556>,
    /// which takes 5). By default all timesteps weigh the same. The validation loss is not weighted.
    pub min_snr_gamma: Option<f32>,
    /// Decay of the weights' moving average, which is used for samples and evaluation.
    pub ema_decay: f64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Number of newest checkpoints that are kept, besides the best and the newest that is known to be good.
    pub keep_checkpoints: usize,
    /// Steps between validations. Each computes a loss and draws a sheet of samples.
    pub validate_every: u64,
    /// The run stops after this many steps in a row whose loss is not finite.
    pub max_bad_steps: u32,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            steps: 10_000,
            epochs: None,
            batch_size: 16,
            accumulate: 1,
            threads: 1,
            bucket_megabytes: 25,
            gradient_checkpointing: false,
            learning_rate: 5e-5,
            scale_learning_rate: false,
            schedule: Schedule::Cosine,
            schedule_power: 1.0,
            schedule_cycles: 1,
            warmup_steps: 500,
            final_ratio: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            weight_decay: 1e-2,
            max_grad_norm: 1.0,
            min_snr_gamma: None,
            ema_decay: 0.999,
            checkpoint_every: 1000,
            keep_checkpoints: 2,
            validate_every: 1000,
            max_bad_steps: 10,
        }
    }
}

impl TrainSection {
    /// The settings of the optimiser, for a run on so many ranks.
    pub(crate) fn optimizer(&self, ranks: usize) -> OptimizerSettings {
        let factor = if self.scale_learning_rate { ranks as f64 } else { 1.0 };
        OptimizerSettings {
            learning_rate: LearningRate {
                base: self.learning_rate * factor,
                warmup_steps: self.warmup_steps,
                schedule: self.schedule,
                total_steps: self.steps,
                final_ratio: self.final_ratio,
                power: self.schedule_power,
                cycles: self.schedule_cycles,
            },
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }

    /// The configuration with the steps that `epochs` passes over `pictures` take on so many ranks, at least one.
    pub(crate) fn with_epochs_as_steps(mut self, pictures: usize, ranks: usize) -> Self {
        if let Some(epochs) = self.epochs.take() {
            let per_step = (self.samples_per_step() * ranks) as f64;
            self.steps = ((epochs * pictures as f64 / per_step).ceil() as u64).max(1);
        }
        self
    }

    /// Samples per step and rank.
    pub(crate) fn samples_per_step(&self) -> usize {
        self.batch_size * self.accumulate
    }
}

/// `[evaluate]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateSection {
    /// Seed of the held-out samples: order, degradations, noise and, if the source draws scenes, the scenes.
    pub seed: u64,
    /// Source of the held-out pictures. By default: scenes that are drawn with `seed` if the training source draws
    /// scenes, or else a share of the training source.
    pub source: Option<SourceConfig>,
    /// Without `source`: the share of the training source that is held out, at least one picture; a new run has 0.02 by
    /// default. 0 measures training pictures, with a warning.
    pub held_out_share: Option<f64>,
    /// Held-out pictures of the evaluation at the end; 0 for no evaluation. By default as many as a tenth of the
    /// training's computation restores, from 8 to 256.
    pub samples: Option<usize>,
    /// Held-out pictures of the validation loss.
    pub validation_samples: usize,
    /// Rows of a sheet of samples.
    pub rows: usize,
    /// Pictures that are restored together.
    pub batch_size: usize,
    /// Parts of a batch that are restored in parallel, each on a thread. On a CPU, 2 or more are faster.
    pub threads: usize,
    /// Sampling settings.
    pub sampling: SamplingConfig,
}

impl Default for EvaluateSection {
    fn default() -> Self {
        Self {
            seed: 1_000_003,
            source: None,
            held_out_share: None,
            samples: None,
            validation_samples: 64,
            rows: 6,
            batch_size: 16,
            threads: 1,
            sampling: SamplingConfig::default(),
        }
    }
}

/// The share of the data that a new run holds out by default.
const HELD_OUT_SHARE: f64 = 0.02;

impl Default for RunConfig {
    fn default() -> Self {
        let data = DataConfig::default();
        let degradation = DegradationConfig {
            parameterized: ParameterizedConfig::for_size(data.size),
            ..DegradationConfig::default()
        };
        Self {
            run: RunSection::default(),
            model: ModelSection::default(),
            data,
            degradation,
            train: TrainSection::default(),
            validate: ValidateSection::default(),
            evaluate: EvaluateSection::default(),
        }
    }
}

impl Keys for RunConfig {
    /// The ranges of blur and downsampling follow `data.size`.
    fn fill_in(settings: &mut Table) {
        let size = settings.get("data").and_then(|data| data.get("size")).and_then(Value::as_integer);
        let size = size.map_or(DataConfig::default().size, |size| usize::try_from(size).unwrap_or(0));
        let ranges = ParameterizedConfig::for_size(size);
        let section =
            |table: &mut Table, name: &str| -> Value { table.remove(name).unwrap_or_else(|| Table::new().into()) };
        let mut degradation = section(settings, "degradation");
        if let Value::Table(pipelines) = &mut degradation {
            let mut parameterized = section(pipelines, "parameterized");
            if let Value::Table(keys) = &mut parameterized {
                keys.entry("blur_sigma").or_insert_with(|| ranges.blur_sigma.to_vec().into());
                keys.entry("downsample_factor").or_insert_with(|| ranges.downsample_factor.to_vec().into());
            }
            pipelines.insert("parameterized".into(), parameterized);
        }
        settings.insert("degradation".into(), degradation);
    }
}

impl RunConfig {
    /// The configuration of a new run. One of a run that began without a held-out share keeps training on all pictures.
    pub(crate) fn with_held_out_share(mut self) -> Self {
        self.evaluate.held_out_share.get_or_insert(HELD_OUT_SHARE);
        self
    }

    /// The share of the training source that is held out, if it is split.
    pub(crate) fn held_out_share(&self) -> Option<f64> {
        let split = self.evaluate.source.is_none() && self.data.source.kind != SourceKind::World;
        self.evaluate.held_out_share.filter(|&share| split && share > 0.0)
    }

    /// How gradients are computed.
    pub(crate) fn computation(&self) -> Computation {
        Computation {
            threads: self.train.threads,
            precision: self.model.control_precision,
            checkpointing: self.train.gradient_checkpointing,
        }
    }

    /// The number of held-out pictures of the evaluation at the end. By default it follows from the computation, counted
    /// in passes through the networks, and so does not depend on the machine.
    pub fn evaluated_pictures(&self) -> usize {
        // A sample is trained by a forward pass and a backward pass, which takes about two of these.
        const PASSES_OF_A_SAMPLE: f64 = 3.0;
        let SamplingConfig { steps, strength, guidance_scale, .. } = &self.evaluate.sampling;
        let passes_of_a_step = if *guidance_scale == 1.0 { 1.0 } else { 2.0 };
        let training = self.train.steps as f64 * self.train.samples_per_step() as f64 * PASSES_OF_A_SAMPLE;
        let affordable = 0.1 * training / (*steps as f64 * strength * passes_of_a_step);
        self.evaluate.samples.unwrap_or((affordable as usize).clamp(8, 256))
    }

    /// Memory for latents that a run may keep, in bytes; 0 if it has no use for them.
    pub(crate) fn kept_latent_bytes(&self) -> usize {
        let useful = self.data.has_fixed_pictures() && self.data.encoded.is_none();
        if useful { self.model.latent_cache_bytes() } else { 0 }
    }

    /// Checks that the model can halve pictures as often as it does.
    ///
    /// # Errors
    /// `data.size` is not a multiple of `side`.
    pub(crate) fn check_size(&self, side: usize) -> Result<()> {
        let size = self.data.size;
        ensure!(size.is_multiple_of(side), "data.size {size} is not a multiple of {side}, as this model needs");
        Ok(())
    }

    /// What is odd about the configuration, although a run with it can start: a sentence each.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = vec![];
        let TrainSection { steps, warmup_steps, learning_rate, .. } = self.train;
        if warmup_steps > 0 && warmup_steps >= steps {
            let highest = self.train.optimizer(1).learning_rate.at(steps.saturating_sub(1));
            remarks.push(format!(
                "train.warmup_steps = {warmup_steps} is not below train.steps = {steps}: the learning rate only rises, up to \
                 {highest:.2e} of train.learning_rate = {learning_rate:.2e}; lower train.warmup_steps"
            ));
        }
        let (found, defaults) = (&self.degradation.parameterized, ParameterizedConfig::default());
        let strongest = [
            ("blur_sigma", found.blur_sigma[1], defaults.blur_sigma[1]),
            ("downsample_factor", found.downsample_factor[1], defaults.downsample_factor[1]),
        ];
        let size = self.data.size;
        for (key, most, default) in strongest {
            if self.degradation.parameterized_share > 0.0 && size < SMALL_SIZE && most >= default {
                remarks.push(format!(
                    "degradation.parameterized.{key} goes up to {most}, which is for pictures of 512 pixels: of data.size = \
                     {size} it leaves little that could be restored; remove the key to have a range for this size"
                ));
            }
        }
        remarks
    }

    /// Checks that no number asks for more than memory and time can give.
    ///
    /// # Errors
    /// The error names the key and the limit.
    fn check_limits(&self) -> Result<()> {
        let (train, evaluate) = (&self.train, &self.evaluate);
        for (key, value, most) in [
            ("train.batch_size", train.batch_size, MOST_IN_A_BATCH),
            ("train.accumulate", train.accumulate, MOST_IN_A_BATCH),
            ("evaluate.batch_size", evaluate.batch_size, MOST_IN_A_BATCH),
            ("train.threads", train.threads, MOST_THREADS),
            ("evaluate.threads", evaluate.threads, MOST_THREADS),
            ("evaluate.samples", evaluate.samples.unwrap_or(0), MOST_HELD_OUT),
            ("evaluate.validation_samples", evaluate.validation_samples, MOST_HELD_OUT),
            ("evaluate.rows", evaluate.rows, MOST_ROWS),
            ("validate.samples", self.validate.samples, MOST_HELD_OUT),
            ("the number of validate.pictures", self.validate.pictures.len(), MOST_ROWS),
        ] {
            ensure!(value <= most, "{key} = {value} is too much: the most are {most}");
        }
        let pixels = train.batch_size.saturating_mul(self.data.size).saturating_mul(self.data.size);
        ensure!(
            pixels <= MOST_PIXELS,
            "train.batch_size = {} pictures with data.size = {} have more than {MOST_PIXELS} pixels: lower one of the two",
            train.batch_size,
            self.data.size
        );
        Ok(())
    }

    /// Checks the numbers. Those of `[data]` and `[degradation]` are checked when the data is opened.
    ///
    /// # Errors
    /// A number is out of range; the error names the key.
    pub fn validate(&self) -> Result<()> {
        ensure!(!self.run.dir.as_os_str().is_empty(), "run.dir is empty: name the folder of the run");
        self.check_limits()?;
        let train = &self.train;
        for (key, value) in [
            ("train.batch_size", train.batch_size),
            ("train.accumulate", train.accumulate),
            ("train.threads", train.threads),
            ("train.bucket_megabytes", train.bucket_megabytes),
            ("train.keep_checkpoints", train.keep_checkpoints),
            ("evaluate.batch_size", self.evaluate.batch_size),
            ("evaluate.threads", self.evaluate.threads),
            ("evaluate.validation_samples", self.evaluate.validation_samples),
        ] {
            ensure!(value > 0, "{key} must be at least 1");
        }
        for (key, value) in [
            ("train.steps", train.steps),
            ("train.checkpoint_every", train.checkpoint_every),
            ("train.validate_every", train.validate_every),
        ] {
            ensure!(value > 0, "{key} must be at least 1");
        }
        self.model.check_contradictions()?;
        let partial = self.degradation.parameterized.partial_probability > 0.0;
        ensure!(
            !(partial && self.data.encoded.is_some()),
            "degradation.parameterized.partial_probability asks for targets that keep some degradations, but data.encoded has \
             the latents of clean pictures alone: remove one of the two"
        );
        ensure!(train.bucket_megabytes <= 4096, "train.bucket_megabytes must be at most 4096");
        ensure!(
            self.model.control_precision != Precision::F16,
            "model.control_precision must be f32 or bf16: f16 loses small gradients"
        );
        ensure!(train.max_bad_steps > 0, "train.max_bad_steps must be at least 1");
        ensure!(train.schedule_cycles > 0, "train.schedule_cycles must be at least 1");
        for (key, value) in [
            ("train.learning_rate", train.learning_rate),
            ("train.max_grad_norm", train.max_grad_norm),
            ("train.schedule_power", train.schedule_power),
            ("train.adam_epsilon", train.adam_epsilon),
            ("train.min_snr_gamma", train.min_snr_gamma.map_or(1.0, f64::from)),
            ("train.epochs", train.epochs.unwrap_or(1.0)),
        ] {
            ensure!(value.is_finite() && value > 0.0, "{key} must be a number above 0");
        }
        for (key, value) in [("train.adam_beta1", train.adam_beta1), ("train.adam_beta2", train.adam_beta2)] {
            ensure!((0.0..1.0).contains(&value), "{key} must be at least 0 and below 1");
        }
        for (key, value) in [("train.ema_decay", train.ema_decay), ("train.final_ratio", train.final_ratio)] {
            ensure!((0.0..=1.0).contains(&value), "{key} must be between 0 and 1");
        }
        ensure!(train.weight_decay.is_finite() && train.weight_decay >= 0.0, "train.weight_decay must not be negative");
        let share = self.evaluate.held_out_share.unwrap_or(HELD_OUT_SHARE);
        ensure!((0.0..=0.5).contains(&share), "evaluate.held_out_share must be from 0 to 0.5");
        self.validate.check(train.validate_every)?;
        ensure!(self.evaluate.samples != Some(1), "evaluate.samples must be 0 (no evaluation) or at least 2");
        self.evaluate.sampling.validate().map_err(|error| error.context("[evaluate.sampling]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spire_core::settings;
    use std::path::Path;

    #[test]
    fn odd_configurations_are_remarked_on() {
        let mut config = RunConfig::default();
        config.data.size = 512;
        assert_eq!(config.remarks(), Vec::<String>::new());
        config.train.steps = 100;
        let remarks = config.remarks();
        assert_eq!(remarks.len(), 1);
        assert!(
            remarks[0].contains("train.warmup_steps = 500") && remarks[0].contains("up to 1.00e-5 of"),
            "{remarks:?}"
        );
        config.train.warmup_steps = 0;
        config.data.size = 64;
        assert_eq!(config.remarks(), Vec::<String>::new());
        config.degradation.parameterized = ParameterizedConfig::default();
        let remarks = config.remarks();
        assert!(remarks.len() == 2 && remarks[0].contains("blur_sigma goes up to 5"), "{remarks:?}");
    }

    #[test]
    fn blur_and_downsampling_follow_the_size_unless_they_are_set() {
        let strongest = |text: &str, sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            let config: RunConfig = settings::parse(text, Path::new("run.toml"), &sets).unwrap();
            let ranges = &config.degradation.parameterized;
            // What the run folder stores says the same for every size.
            let stored = settings::resolved(&config).unwrap().replace("size = 64", "size = 512");
            let read: RunConfig = settings::parse(&stored, Path::new("config.toml"), &[]).unwrap();
            assert_eq!(read.degradation, config.degradation);
            [ranges.blur_sigma[1], ranges.downsample_factor[1]]
        };
        assert_eq!(strongest("", &[]), [3.0, 4.0]);
        assert_eq!(strongest("", &["data.size=255"]), [3.0, 4.0]);
        assert_eq!(strongest("data.size = 256", &[]), [5.0, 8.0]);
        assert_eq!(strongest("[degradation]\nparameterized_share = 1.0", &["data.size=512"]), [5.0, 8.0]);
        assert_eq!(strongest("[degradation.parameterized]\nblur_sigma = [1.0, 9.0]", &[]), [9.0, 4.0]);
        for text in ["degradation = 3", "degradation.parameterized = 3", "data.size = 'x'", "data = 3"] {
            let read = settings::parse::<RunConfig>(text, Path::new("run.toml"), &[]);
            assert!(read.unwrap_err().to_string().contains("must be"), "{text}");
        }
        let defaults: RunConfig = settings::parse("", Path::new("run.toml"), &[]).unwrap();
        assert_eq!(settings::resolved(&defaults).unwrap(), settings::resolved(&RunConfig::default()).unwrap());
    }

    #[test]
    fn the_channels_of_the_embedding_follow_the_unet() {
        let channels = |widths: &[usize]| {
            let unet = UNetConfig { block_out_channels: widths.to_vec(), ..UNetConfig::default() };
            default_embedding_channels(&unet)
        };
        assert_eq!(channels(&[320, 640, 1280, 1280]), [16, 32, 96, 256]);
        assert_eq!(channels(&[64, 96]), [8, 16, 32, 64]);
        assert_eq!(channels(&[4]), [1, 1, 2, 4]);
    }

    #[test]
    fn keys_of_a_new_branch_contradict_an_initial_branch() {
        let checked = |change: fn(&mut ModelSection)| {
            let mut config = RunConfig::default();
            config.model.control = Some("branch".into());
            change(&mut config.model);
            config.validate().map_err(|error| error.to_string())
        };
        assert_eq!(checked(|_| ()), Ok(()));
        for (key, change) in [
            ("model.fusion", (|model| model.fusion = Some(Fusion::ModulateSkip)) as fn(&mut ModelSection)),
            ("model.conditioning", |model| model.conditioning = Some(Conditioning::Add)),
            ("model.prompts", |model| model.prompts = Some(PromptRouting::Joined)),
            ("model.embedding_channels", |model| model.embedding_channels = Some(vec![8, 16])),
            ("model.embedding", |model| model.embedding = Some("weights".into())),
        ] {
            let message = checked(change).unwrap_err();
            assert!(message.starts_with(&format!("{key} is")) && message.contains("\"branch\""), "{message}");
        }
    }

    #[test]
    fn short_runs_are_evaluated_on_few_pictures_and_long_ones_on_256() {
        let evaluated = |steps: u64, samples: Option<usize>| {
            let mut config = RunConfig::default();
            (config.train.steps, config.evaluate.samples) = (steps, samples);
            config.evaluated_pictures()
        };
        // 16 samples a step; 50 steps with guidance a picture: 1000 steps pay for 48 pictures.
        assert_eq!([3, 1000, 10_000, u64::MAX].map(|steps| evaluated(steps, None)), [8, 48, 256, 256]);
        assert_eq!([0, 2, 1000].map(|samples| evaluated(3, Some(samples))), [0, 2, 1000]);
    }
}
