//! `[train]`: the training loop and its optimiser.

use serde::{Deserialize, Serialize};

use crate::optim::adamw::OptimizerSettings;
use crate::optim::learning_rate::{LearningRate, Schedule};

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
    /// Batches that are computed in parallel. 0: one a core on a CPU, one on a GPU.
    pub threads: usize,
    /// Size of gradient buckets between ranks, in MB.
    pub bucket_megabytes: usize,
    /// Several GPUs of CUDA in one process: sum gradients by NCCL, if it is installed. `false` takes the host's memory,
    /// for machines on which NCCL does not work.
    pub nccl: bool,
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
            threads: 0,
            bucket_megabytes: 25,
            nccl: true,
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
