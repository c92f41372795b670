//! Measures the training step: forward and backward pass, clipping, AdamW, moving average.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};

use super::dry_run::count;
use super::dump::Dump;
use super::measurement::{BenchSettings, Measurement, PeakMemory, StepResult, timed};
use super::peak_flops::PeakFlops;
use crate::config::RunConfig;
use crate::distributed::Ranks;
use crate::training::objective::DenoisingBatch;
use crate::training::start::with_models_located;
use crate::training::state::TrainingState;

/// Measures training steps on the samples of the first step. Latents and texts are encoded before, as in a run whose
/// pictures were seen before; `spire data stats` measures how fast samples are prepared. Only the dump is written.
///
/// # Errors
/// As [`train`](crate::training::train), up to its first step; a loss or gradient is not finite; the dump can't be
/// written.
pub fn train(config: RunConfig, settings: &BenchSettings) -> Result<Measurement> {
    let config = with_models_located(config.with_held_out_share())?;
    let counted = count(config.clone())?;
    let alone = Ranks::alone();
    let mut state = TrainingState::open(&config, &alone, None)?;
    let batches = state.batches(config.train.batch_size, config.train.accumulate, &AtomicBool::new(false))?;
    let batches = batches.context("no samples")?;
    let inputs = state.prepare(&batches, &config)?;
    if let Some(folder) = &settings.dump {
        dump_of(&inputs).write(folder, &state.control_config, &state.learner.module)?;
    }
    let mut trained = Vec::new();
    let seconds = timed(settings, || {
        let learning_rate = state.learner.learning_rate();
        let (loss, grad_norm) = state.take_step(inputs.clone(), &config)?;
        state.device.sync()?;
        ensure!(loss.is_finite() && grad_norm.is_finite(), "the loss is {loss}, the gradient norm {grad_norm}");
        state.learner.step += 1;
        trained.push(StepResult { loss, grad_norm, learning_rate });
        Ok(())
    })?;
    let images = config.train.samples_per_step();
    Ok(Measurement {
        what: "training step",
        images,
        seconds,
        flops: images as u64 * counted.training_flops(),
        // Read before the matrices of the peak are allocated.
        memory: PeakMemory::until_now(&state.device),
        peak: PeakFlops::measure(&state.device, config.model.control_precision),
        trained,
        config,
    })
}

fn dump_of(batches: &[DenoisingBatch]) -> Dump {
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
