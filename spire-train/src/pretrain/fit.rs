//! The loop that every stage of pretraining shares.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use burn::tensor::{DType, Tensor};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use spire_model::weights::{self, Precision, Tensors, fill};

use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::logging::journal::Journal;
use crate::logging::metrics::StepMetrics;
use crate::optim::adamw::{Optimizer, OptimizerSettings};
use crate::optim::backward::{Computation, gradients};
use crate::optim::ema;
use crate::optim::gradients::{grad_norm, number_parameters};
use crate::optim::learning_rate::{LearningRate, Schedule};
use crate::run_folder::RunFolder;

/// How long and how fast a stage learns.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Samples a step.
    pub batch_size: usize,
    /// Base rate of AdamW.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// What follows the warm-up; `cosine` goes down to 2 % of the base rate.
    pub schedule: Schedule,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients whose joint norm is above this are scaled down to it.
    pub max_grad_norm: f64,
    /// Decay of the weights' moving average, which is what is kept.
    pub ema_decay: f64,
    /// Parts that a batch is split into, each on a thread of its own. The contrastive loss can't be split.
    pub parts: usize,
    /// Steps between two checkpoints, from which an interrupted stage goes on.
    pub checkpoint_every: u64,
    /// Steps between two looks at held-out scenes: a loss and a sheet of pictures.
    pub preview_every: u64,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch_size: 16,
            learning_rate: 1e-3,
            warmup_steps: 200,
            schedule: Schedule::Cosine,
            weight_decay: 1e-4,
            max_grad_norm: 1.0,
            ema_decay: 0.999,
            parts: 1,
            checkpoint_every: 500,
            preview_every: 2000,
        }
    }
}

/// What a stage shows of itself on the way.
pub struct Preview {
    /// Loss on held-out scenes.
    pub loss: f64,
    /// Pictures that say how far it is.
    pub sheet: RgbImage,
}

/// The files of a checkpoint. The moving average has the name of a part's weights.
const AVERAGE: &str = "diffusion_pytorch_model.safetensors";
const WEIGHTS: &str = "training.safetensors";
const OPTIMIZER: &str = "optimizer.burnpack";
/// How many checkpoints are kept.
const KEPT: usize = 2;

/// Fits `module`, whose parameters require gradients, and returns the moving average of its weights on a plain device; nothing
/// where it was interrupted, after a checkpoint is written.
///
/// `loss(module, part, size)` gives the loss `[1]` of a part of `size` samples. Parts are counted over all steps, and a loss
/// depends on its part's number alone; so a stage that goes on from a checkpoint in `folder` repeats, bit for bit, what it
/// would have done without the interruption. A batch whose loss or gradients are not finite is passed over.
///
/// # Errors
/// The batch can't be split, `loss` or `preview` fails, a file can't be read or written, or a hundred batches in a row are
/// passed over.
pub fn fit<M: Module>(
    config: &FitConfig,
    folder: &Path,
    interrupted: &AtomicBool,
    module: M,
    loss: impl Fn(&M, u64, usize) -> Result<Tensor<1>> + Sync,
    preview: impl Fn(&M) -> Result<Preview>,
) -> Result<Option<M>> {
    let parts = config.parts.max(1);
    ensure!(
        config.batch_size.is_multiple_of(parts) && config.batch_size > 0,
        "batch_size {} can't be split into {parts} parts",
        config.batch_size
    );
    let size = config.batch_size / parts;
    let mut learning = Learning::start(config, module);
    if config.steps == 0 {
        return Ok(Some(learning.average));
    }
    let folder = RunFolder::at(folder);
    std::fs::create_dir_all(folder.samples())
        .with_context(|| format!("can't create {}", folder.samples().display()))?;
    let checkpoints = folder.checkpoints(KEPT);
    if let Some(checkpoint) = checkpoints.latest()? {
        learning = learning.resumed(&checkpoint)?;
    }
    let mut journal = Journal::open(&folder, config.steps, learning.step)?;
    let mut passed_over = 0;
    while learning.step < config.steps {
        let step = learning.step;
        let start = Instant::now();
        let numbers = (step * parts as u64..(step + 1) * parts as u64).collect();
        let how = Computation::on_threads(parts);
        let (value, gradients) = gradients(&learning.module, numbers, how, |module, part| loss(module, part, size))?;
        let norm = grad_norm(&learning.module, &gradients);
        let learning_rate = learning.optimizer.learning_rate(step);
        if value.is_finite() && norm.is_finite() {
            let module = learning.optimizer.step(step, learning.module, gradients, norm);
            learning.average = ema::update(learning.average, &module, ema::decay_at(config.ema_decay, step));
            learning.module = module;
            passed_over = 0;
        } else {
            passed_over += 1;
            if passed_over == 100 {
                bail!("the loss is not finite for 100 steps in a row (step {step}): lower learning_rate");
            }
        }
        learning.step += 1;
        let images_per_second = config.batch_size as f64 / start.elapsed().as_secs_f64();
        if learning.step.is_multiple_of(config.preview_every) && learning.step < config.steps {
            let preview = preview(&learning.average)?;
            journal.validation(learning.step, preview.loss, &preview.sheet)?;
        }
        let metrics = StepMetrics {
            step,
            loss: value,
            learning_rate,
            grad_norm: norm,
            images_per_second,
            ..StepMetrics::default()
        };
        journal.step(&metrics)?;
        let stop = interrupted.load(Ordering::Relaxed);
        if learning.step.is_multiple_of(config.checkpoint_every) || learning.step == config.steps || stop {
            learning.save(&checkpoints)?;
        }
        if stop && learning.step < config.steps {
            return Ok(None);
        }
    }
    Ok(Some(learning.average))
}

/// A stage's state between two steps.
struct Learning<M: Module> {
    module: M,
    average: M,
    optimizer: Optimizer,
    /// Steps done.
    step: u64,
}

impl<M: Module> Learning<M> {
    fn start(config: &FitConfig, module: M) -> Self {
        let module = number_parameters(module);
        let optimizer = Optimizer::new(OptimizerSettings {
            learning_rate: LearningRate {
                base: config.learning_rate,
                warmup_steps: config.warmup_steps,
                schedule: config.schedule,
                total_steps: config.steps,
                final_ratio: 0.02,
                power: 1.0,
                cycles: 1,
            },
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: config.weight_decay,
            max_grad_norm: config.max_grad_norm,
        });
        Self { average: module.valid(), module, optimizer, step: 0 }
    }

    fn resumed(self, checkpoint: &Checkpoint) -> Result<Self> {
        let origin = checkpoint.dir.display().to_string();
        let read = |name: &str| Tensors::from_bytes(checkpoint.read(name)?, &origin);
        Ok(Self {
            module: number_parameters(fill(self.module, read(WEIGHTS)?, Precision::F32)?),
            average: number_parameters(fill(self.average, read(AVERAGE)?, Precision::F32)?),
            optimizer: self.optimizer.with_bytes(checkpoint.read(OPTIMIZER)?).context(origin.clone())?,
            step: checkpoint.step,
        })
    }

    fn save(&self, checkpoints: &CheckpointStore) -> Result<()> {
        let file = |name| -> Result<(&str, Vec<u8>)> {
            let bytes = match name {
                AVERAGE => weights::to_bytes(&self.average, DType::F32)?,
                WEIGHTS => weights::to_bytes(&self.module, DType::F32)?,
                _ => self.optimizer.to_bytes()?,
            };
            Ok((name, bytes))
        };
        checkpoints.save(self.step, [AVERAGE, WEIGHTS, OPTIMIZER].into_iter().map(file), None)?;
        Ok(())
    }
}
