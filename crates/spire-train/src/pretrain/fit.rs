//! The loop that every stage of pretraining shares.

use std::time::Instant;

use anyhow::{Result, bail};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::ema;
use crate::learning_rate::{LearningRate, Schedule};
use crate::metrics_log::StepMetrics;
use crate::optimizer::{Optimizer, OptimizerSettings, grad_norm, number_parameters};
use crate::progress::Progress;

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
        }
    }
}

/// Fits `module`, whose parameters require gradients, and returns the moving average of its weights on a plain device.
///
/// `loss(module, step)` gives the loss `[1]` of one batch. A batch whose loss or gradients are not finite is passed over.
///
/// # Errors
/// `loss` fails, or a hundred batches in a row are passed over.
pub fn fit<M: Module>(
    config: &FitConfig,
    module: M,
    mut loss: impl FnMut(&M, u64) -> Result<Tensor<1>>,
) -> Result<M> {
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
        let value = loss(&module, step)?;
        let gradients = GradientsParams::from_grads(value.backward(), &module);
        let norm = grad_norm(&module, &gradients);
        let value = f64::from(value.into_scalar::<f32>());
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
