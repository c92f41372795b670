//! The training step: forward, backward, clipping, AdamW, moving average.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::dump::Dump;
use super::{BenchSettings, Measurement, Memory, Peak, timed};
use crate::config::RunConfig;
use crate::dry_run::count;
use crate::ranks::Ranks;
use crate::trainer::{Inputs, Trainer, located};

/// What came out of a step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Trained {
    /// Before the step's update.
    pub loss: f64,
    /// Of all gradients together, before they are clipped.
    pub grad_norm: f64,
    /// With which the weights were changed.
    pub learning_rate: f64,
}

/// Measures a run's steps. All take the first step's samples: latents and texts are encoded before the clock starts, as they
/// are in a run whose pictures were seen before, and what prepares samples is measured by `spire data stats`. Nothing is
/// written but what is dumped.
///
/// # Errors
/// As [`train`](crate::trainer::train), up to its first step; a loss is not finite; the dump can't be written.
pub fn train(config: RunConfig, settings: &BenchSettings) -> Result<Measurement> {
    let config = located(config)?;
    let counted = count(config.clone())?;
    let alone = Ranks::alone();
    let mut trainer = Trainer::new(&config, &alone, None)?;
    let batches = trainer.batches(config.train.batch_size, config.train.accumulate)?;
    let inputs = trainer.prepared(&batches, config.run.seed)?;
    if let Some(folder) = &settings.dump {
        dumped(&inputs).write(folder, &trainer.control_config, &trainer.control)?;
    }
    let mut trained = Vec::new();
    let seconds = timed(settings, || {
        let learning_rate = trainer.optimizer.learning_rate(trainer.step);
        let (loss, grad_norm) = trainer.train_on(inputs.clone(), &config)?;
        trainer.device.sync()?;
        ensure!(loss.is_finite() && grad_norm.is_finite(), "the loss is {loss}, its gradient {grad_norm}");
        trainer.step += 1;
        trained.push(Trained { loss, grad_norm, learning_rate });
        Ok(())
    })?;
    let images = config.train.samples_per_step();
    Ok(Measurement {
        what: "training step",
        images,
        seconds,
        flops: images as u64 * counted.training_flops(),
        // Before the matrices of the peak.
        memory: Memory::peak(&trainer.device),
        peak: Peak::measure(&trainer.device, config.model.control_precision),
        trained,
        config,
    })
}

fn dumped(batches: &[Inputs]) -> Dump {
    let mut dump = Dump::default();
    for (i, inputs) in batches.iter().enumerate() {
        let pictures = [("noisy", &inputs.noisy), ("target", &inputs.target), ("degraded", &inputs.degraded)];
        for (name, tensor) in pictures {
            dump.add(format!("{i}.{name}"), tensor);
        }
        dump.add(format!("{i}.timesteps"), &inputs.timesteps);
        dump.add(format!("{i}.semantic"), &inputs.semantic);
        dump.add(format!("{i}.restoration"), &inputs.restoration);
    }
    dump
}
