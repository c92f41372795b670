//! The loop that every stage of pretraining shares.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::logging::metrics::StepMetrics;
use crate::logging::progress::Progress;
use crate::optim::adamw::{Optimizer, OptimizerSettings};
use crate::optim::backward::{Computation, gradients};
use crate::optim::ema;
use crate::optim::gradients::{grad_norm, number_parameters};
use crate::optim::learning_rate::{LearningRate, Schedule};

/// How long and how fast a stage learns.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Samples a step.
    pub batch_size: usize,
    /// Base rate of AdamW; warm-up over 2 % of the steps, then half a cosine down to 2 %.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients whose joint norm is above this are scaled down to it.
    pub max_grad_norm: f64,
    /// Decay of the weights' moving average, which is what is kept.
    pub ema_decay: f64,
    /// Parts that a batch is split into, each on a thread of its own. The contrastive loss can't be split.
    pub parts: usize,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch_size: 16,
            learning_rate: 1e-3,
            weight_decay: 1e-4,
            max_grad_norm: 1.0,
            ema_decay: 0.999,
            parts: 1,
        }
    }
}

/// Fits `module`, whose parameters require gradients, and returns the moving average of its weights on a plain device.
///
/// `loss(module, part, size)` gives the loss `[1]` of a part of `size` samples, parts being counted over all steps. A
/// batch whose loss or gradients are not finite is passed over.
///
/// # Errors
/// The batch can't be split, `loss` fails, or a hundred batches in a row are passed over.
pub fn fit<M: Module>(
    config: &FitConfig,
    module: M,
    loss: impl Fn(&M, u64, usize) -> Result<Tensor<1>> + Sync,
) -> Result<M> {
    let parts = config.parts.max(1);
    ensure!(
        config.batch_size.is_multiple_of(parts) && config.batch_size > 0,
        "batch_size {} can't be split into {parts} parts",
        config.batch_size
    );
    let size = config.batch_size / parts;
    let mut module = number_parameters(module);
    let mut average = module.valid();
    let mut optimizer = Optimizer::new(OptimizerSettings {
        learning_rate: LearningRate {
            base: config.learning_rate,
            warmup_steps: config.steps / 50,
            schedule: Schedule::Cosine,
            total_steps: config.steps,
            final_ratio: 0.02,
        },
        weight_decay: config.weight_decay,
        max_grad_norm: config.max_grad_norm,
    });
    let mut progress = Progress::new(config.steps, 0, (config.steps / 50).max(1));
    let mut passed_over = 0;
    for step in 0..config.steps {
        let start = Instant::now();
        let numbers = (step * parts as u64..(step + 1) * parts as u64).collect();
        let how = Computation::on_threads(parts);
        let (value, gradients) = gradients(&module, numbers, how, |module, part| loss(module, part, size))?;
        let norm = grad_norm(&module, &gradients);
        if value.is_finite() && norm.is_finite() {
            module = optimizer.step(step, module, gradients, norm);
            average = ema::update(average, &module, ema::decay_at(config.ema_decay, step));
            passed_over = 0;
        } else {
            passed_over += 1;
            if passed_over == 100 {
                bail!("the loss is not finite for 100 steps in a row (step {step}): lower learning_rate");
            }
        }
        progress.step(&StepMetrics {
            step,
            loss: value,
            learning_rate: optimizer.learning_rate(step),
            grad_norm: norm,
            images_per_second: config.batch_size as f64 / start.elapsed().as_secs_f64(),
            ..StepMetrics::default()
        });
    }
    progress.finish();
    Ok(average)
}
