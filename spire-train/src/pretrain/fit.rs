//! The loop that every stage of pretraining shares.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Tensor;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::common::Training;
use crate::checkpoint::Guard;
use crate::logging::journal::Journal;
use crate::logging::metrics::StepMetrics;
use crate::optim::adamw::OptimizerSettings;
use crate::optim::backward::{Computation, gradients};
use crate::optim::gradients::grad_norm;
use crate::optim::learner::Learner;
use crate::optim::learning_rate::{LearningRate, Schedule};

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

impl FitConfig {
    fn optimizer(&self) -> OptimizerSettings {
        OptimizerSettings {
            learning_rate: LearningRate {
                base: self.learning_rate,
                warmup_steps: self.warmup_steps,
                schedule: self.schedule,
                total_steps: self.steps,
                final_ratio: 0.02,
                power: 1.0,
                cycles: 1,
            },
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
        }
    }
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
    /// Other figures with their names, such as the share of kinds that the judge finds.
    pub figures: Vec<(&'static str, f64)>,
}

/// How many checkpoints are kept.
const KEPT: usize = 2;
/// The stage stops after this many batches in a row that are passed over.
const MOST_BAD_STEPS: u32 = 100;

/// Fits `module`, whose parameters require gradients, and returns the moving average of its weights on a plain device; nothing
/// where it was interrupted, after a checkpoint is written.
///
/// `loss(module, part, size)` gives the loss `[1]` of a part of `size` samples. Parts are counted over all steps, and a loss
/// depends on its part's number alone; so a stage that goes on from a checkpoint repeats, bit for bit, what it
/// would have done without the interruption. A batch whose loss or gradients are not finite is passed over.
///
/// # Errors
/// `loss` or `preview` fails, a file can't be read or written; a hundred batches in a row, or all
/// of them, are passed over; or the weights are lost.
pub fn fit<M: Module>(
    config: &FitConfig,
    training: &Training,
    interrupted: &AtomicBool,
    module: M,
    loss: impl Fn(&M, u64, usize) -> Result<Tensor<1>> + Sync,
    preview: impl Fn(&M) -> Result<Preview>,
) -> Result<Option<M>> {
    let parts = config.parts;
    let size = config.batch_size / parts;
    let mut learner = Learner::new(module, config.optimizer());
    if config.steps == 0 {
        return Ok(Some(learner.average));
    }
    let folder = &training.folder;
    std::fs::create_dir_all(folder.samples())
        .with_context(|| format!("can't create {}", folder.samples().display()))?;
    let store = folder.checkpoints(KEPT);
    let checkpoint = store.latest()?;
    if let Some(checkpoint) = &checkpoint {
        learner = learner.resumed(checkpoint)?;
    }
    let mut checkpoints = Guard::new(store, checkpoint.as_ref(), true);
    training.begin(learner.step)?;
    let mut journal = Journal::open(folder, config.steps, learner.step, config)?;
    let mut any_finite = learner.step > 0;
    while learner.step < config.steps {
        let step = learner.step;
        let start = Instant::now();
        let numbers = (step * parts as u64..(step + 1) * parts as u64).collect();
        let how = Computation::on_threads(parts);
        let (value, gradients) = gradients(&learner.module, numbers, how, |module, part| loss(module, part, size))?;
        let norm = grad_norm(&learner.module, &gradients);
        let learning_rate = learner.learning_rate();
        let finite = value.is_finite() && norm.is_finite();
        if finite {
            learner.update(gradients, norm, config.ema_decay);
        }
        any_finite |= finite;
        learner.step += 1;
        checkpoints.step(learner.step, finite)?;
        let images_per_second = config.batch_size as f64 / start.elapsed().as_secs_f64();
        let mut metrics = StepMetrics {
            step,
            loss: value,
            learning_rate,
            grad_norm: norm,
            images_per_second,
            ..StepMetrics::default()
        };
        if learner.step.is_multiple_of(config.preview_every) && learner.step < config.steps {
            let preview = preview(&learner.average)?;
            let figures = preview.figures.into_iter().chain([("loss", preview.loss)]);
            metrics.more.extend(figures.map(|(name, value)| (format!("validation_{name}"), Some(value))));
            journal.sheet(step, &preview.sheet)?;
        }
        journal.step(&metrics)?;
        let done = learner.step == config.steps;
        if checkpoints.bad_steps() >= MOST_BAD_STEPS || (done && !any_finite) {
            let reason = format!("the loss was not finite for {} steps in a row", checkpoints.bad_steps());
            return Err(checkpoints.diverged(&reason, "learning_rate"));
        }
        let stop = interrupted.load(Ordering::Relaxed);
        let due = learner.step.is_multiple_of(config.checkpoint_every) || done || stop;
        if due {
            learner.check().map_err(|error| checkpoints.diverged(&error.to_string(), "learning_rate"))?;
        }
        if due && checkpoints.bad_steps() == 0 {
            checkpoints.save(learner.step, learner.files(), None)?;
            journal.check()?;
        }
        if stop && !done {
            return Ok(None);
        }
    }
    Ok(Some(learner.average))
}
