//! The configuration of a training run: one section a component, all with defaults, read by [`spire_core::settings`].

use std::path::PathBuf;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use spire_data::degrade::DegradationConfig;
use spire_data::loader::DataConfig;
use spire_data::source::SourceConfig;
use spire_model::control::ControlConfig;
use spire_model::decoupling::PromptRouting;
use spire_model::device::ensure_computes_in;
use spire_model::fusion::Fusion;
use spire_model::restore::SamplingConfig;
use spire_model::unet::UNetConfig;
use spire_model::weights::Precision;

use crate::optim::adamw::OptimizerSettings;
use crate::optim::backward::Computation;
use crate::optim::learning_rate::{LearningRate, Schedule};

/// Everything that a run depends on.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Where the run is written, what makes it reproducible, where it computes.
    pub run: RunSection,
    /// The frozen model and the control branch.
    pub model: ModelSection,
    /// Clean pictures and captions.
    pub data: DataConfig,
    /// What degrades them.
    pub degradation: DegradationConfig,
    /// The training loop.
    pub train: TrainSection,
    /// Validation and the figures at the end.
    pub evaluate: EvaluateSection,
}

/// `[run]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// The run folder.
    pub dir: PathBuf,
    /// Decides order, degradations, noise and initial weights.
    pub seed: u64,
    /// `flex` (the CPU), `cuda:0`, `vulkan`, …; several, as in `cuda:0, cuda:1`, share every step's samples.
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
    /// The frozen text-to-image model: a folder in the Hugging Face layout, a single `.safetensors` or `.ckpt` file, or a
    /// name on the Hugging Face Hub, `owner/name`.
    pub base: PathBuf,
    /// The float type in which the frozen model is kept and computes: `f32`, `bf16` or `f16`.
    pub precision: Precision,
    /// That in which the control branch computes, `f32` or `bf16`; its weights are kept and trained in 32 bits.
    pub control_precision: Precision,
    /// Memory for the states of texts, in MB; beyond it, those that were not met for the longest time are encoded again.
    pub text_cache_megabytes: usize,
    /// Folder of CLIP's image tower, for the Fréchet distance; `image_encoder` in the base folder if not set.
    pub image_encoder: Option<PathBuf>,
    /// Control branch to start from, a folder or a name on the Hugging Face Hub; a copy of the UNet's encoder if not set.
    pub control: Option<PathBuf>,
    /// `modulate_skip`, `modulate_skip_and_up` or `add`.
    pub fusion: Fusion,
    /// `decoupled`, or `joined`: which prompts the UNet and the branch attend to. Of a branch that is there already its own
    /// configuration says.
    pub prompts: PromptRouting,
    /// Channels of e(y)'s convolutions, at full size, 1/2, 1/4 and 1/8.
    pub embedding_channels: Vec<usize>,
    /// Folder with the weights that a fresh branch's e(y) starts from (`spire pretrain --stage embedding`); fresh ones if not
    /// set. A branch from `control` has its own.
    pub embedding: Option<PathBuf>,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            base: "assets/tiny".into(),
            precision: Precision::default(),
            control_precision: Precision::default(),
            text_cache_megabytes: 1000,
            image_encoder: None,
            control: None,
            fusion: Fusion::default(),
            prompts: PromptRouting::default(),
            embedding_channels: vec![16, 32, 96, 256],
            embedding: None,
        }
    }
}

impl ModelSection {
    /// The folder of CLIP's image tower, where there is one.
    pub fn image_encoder(&self) -> Option<PathBuf> {
        let folder = self.image_encoder.clone().unwrap_or_else(|| self.base.join("image_encoder"));
        folder.is_dir().then_some(folder)
    }

    /// A fresh branch for this UNet.
    pub fn control_config(&self, unet: &UNetConfig) -> ControlConfig {
        let channels = self.embedding_channels.clone();
        ControlConfig { prompts: self.prompts, ..ControlConfig::for_unet(unet, self.fusion, channels) }
    }

    /// Whether `device` computes in both float types.
    ///
    /// # Errors
    /// It does not; the error names the key.
    pub fn check_precision(&self, device: &Device) -> Result<()> {
        for (key, precision) in
            [("model.precision", self.precision), ("model.control_precision", self.control_precision)]
        {
            ensure_computes_in(precision, device, &format!("{key} = \"{precision}\""))?;
        }
        Ok(())
    }

    /// Memory for the states of texts.
    pub fn text_cache_bytes(&self) -> usize {
        self.text_cache_megabytes.saturating_mul(1_000_000)
    }
}

/// `[train]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Optimiser steps.
    pub steps: u64,
    /// Samples that go through the network together.
    pub batch_size: usize,
    /// Batches whose gradients are averaged for one step.
    pub accumulate: usize,
    /// Batches of a step that are computed at a time, each on a thread: 2 or more pays on a CPU.
    pub threads: usize,
    /// Where several processes train together: the size of the parts, in MB, in which gradients travel between them.
    pub bucket_megabytes: usize,
    /// Keep what goes into each block of the branch and of the UNet's decoder, and compute the block again in the backward pass.
    pub gradient_checkpointing: bool,
    /// Base rate of AdamW.
    pub learning_rate: f64,
    /// `cosine` or `constant`, after the warm-up.
    pub schedule: Schedule,
    /// Steps over which the rate rises to its base.
    pub warmup_steps: u64,
    /// Where the cosine ends, relative to the base rate.
    pub final_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients whose joint norm is above this are scaled down to it.
    pub max_grad_norm: f64,
    /// Decay of the weights' moving average, which samples and is evaluated.
    pub ema_decay: f64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// How many of the newest checkpoints are kept, beside the best.
    pub keep_checkpoints: usize,
    /// Steps between validations, each with a sheet of samples.
    pub validate_every: u64,
    /// After this many steps in a row whose loss is not finite the run stops.
    pub max_bad_steps: u32,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch_size: 16,
            accumulate: 1,
            threads: 1,
            bucket_megabytes: 25,
            gradient_checkpointing: false,
            learning_rate: 5e-5,
            schedule: Schedule::Cosine,
            warmup_steps: 500,
            final_ratio: 0.0,
            weight_decay: 1e-2,
            max_grad_norm: 1.0,
            ema_decay: 0.999,
            checkpoint_every: 1000,
            keep_checkpoints: 2,
            validate_every: 1000,
            max_bad_steps: 10,
        }
    }
}

impl TrainSection {
    /// The optimiser's part.
    pub fn optimizer(&self) -> OptimizerSettings {
        OptimizerSettings {
            learning_rate: LearningRate {
                base: self.learning_rate,
                warmup_steps: self.warmup_steps,
                schedule: self.schedule,
                total_steps: self.steps,
                final_ratio: self.final_ratio,
            },
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }

    /// Samples a step, of each process.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size * self.accumulate
    }
}

/// `[evaluate]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateSection {
    /// Decides the held-out samples' order, degradations and noise, and in the drawn world their scenes.
    pub seed: u64,
    /// Where they come from. If not set: the drawn world with `seed`, or else the training pictures, with a warning.
    pub source: Option<SourceConfig>,
    /// Held-out pictures of the figures at the end; 0 for no figures.
    pub samples: usize,
    /// Held-out pictures of the loss during training.
    pub validation_samples: usize,
    /// Rows of the sheets of samples.
    pub rows: usize,
    /// Pictures that are restored together.
    pub batch_size: usize,
    /// Parts of a batch that are restored at a time, each on a thread: 2 or more pays on a CPU.
    pub threads: usize,
    /// How pictures are sampled.
    pub sampling: SamplingConfig,
}

impl Default for EvaluateSection {
    fn default() -> Self {
        Self {
            seed: 1_000_003,
            source: None,
            samples: 256,
            validation_samples: 64,
            rows: 6,
            batch_size: 16,
            threads: 1,
            sampling: SamplingConfig::default(),
        }
    }
}

impl RunConfig {
    /// How gradients are computed.
    pub fn computation(&self) -> Computation {
        Computation {
            threads: self.train.threads,
            precision: self.model.control_precision,
            checkpointing: self.train.gradient_checkpointing,
        }
    }

    /// Whether pictures have a side that the model can halve as often as it does.
    ///
    /// # Errors
    /// `data.size` is not a multiple of `side`.
    pub fn check_size(&self, side: usize) -> Result<()> {
        let size = self.data.size;
        ensure!(size.is_multiple_of(side), "data.size {size} is not a multiple of {side}, as this model needs");
        Ok(())
    }

    /// Whether the numbers make sense; the data's and the degradations' are checked where they are opened.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn validate(&self) -> Result<()> {
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
        ensure!(train.bucket_megabytes <= 4096, "train.bucket_megabytes must be at most 4096");
        ensure!(
            self.model.control_precision != Precision::F16,
            "model.control_precision must be f32 or bf16: in f16 small gradients are lost"
        );
        ensure!(train.max_bad_steps > 0, "train.max_bad_steps must be at least 1");
        for (key, value) in [("train.learning_rate", train.learning_rate), ("train.max_grad_norm", train.max_grad_norm)]
        {
            ensure!(value.is_finite() && value > 0.0, "{key} must be a number above 0");
        }
        for (key, value) in [("train.ema_decay", train.ema_decay), ("train.final_ratio", train.final_ratio)] {
            ensure!((0.0..=1.0).contains(&value), "{key} must be between 0 and 1");
        }
        ensure!(train.weight_decay.is_finite() && train.weight_decay >= 0.0, "train.weight_decay must not be negative");
        ensure!(self.evaluate.samples != 1, "evaluate.samples must be 0 (no figures) or at least 2");
        self.evaluate.sampling.validate().map_err(|error| error.context("[evaluate.sampling]"))
    }
}
