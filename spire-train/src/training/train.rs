//! The training loop.
//!
//! Several [`Ranks`] share the samples of every step and hold the same weights. The first rank writes the run folder.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::held_out::sheet;
use super::start::{with_epochs_as_steps, with_models_located};
use super::state::TrainingState;
use super::summary;
use super::validation::validation_loss;
use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::config::RunConfig;
use crate::distributed::Ranks;
use crate::logging::journal::Journal;
use crate::logging::metrics::StepMetrics;
use crate::optim::gradients::weight_norm;
use crate::run_folder::RunFolder;

/// How a run ended.
#[derive(Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All steps are done and `summary.json` is written.
    Finished,
    /// The run was interrupted after this many steps; a checkpoint is written.
    Interrupted(u64),
}

/// Starts a new run on all devices that the configuration names. All ranks call it with the same configuration. If one
/// rank is interrupted, all stop.
///
/// # Errors
/// The configuration is invalid; the data or the model does not open; the run folder exists; training fails; the ranks
/// differ.
pub fn train(config: RunConfig, ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    ranks.on_each_device(&config.run.device, |ranks| train_as_rank(config.clone(), ranks, interrupted))
}

fn train_as_rank(config: RunConfig, ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    // The first rank may have to download a model.
    let config = ranks.first_before_others(|| with_models_located(config))?;
    let config = with_epochs_as_steps(config, ranks.count())?;
    // Create the run folder only if the run can start on all ranks.
    let mut state = TrainingState::open(&config, ranks, None)?;
    ranks.barrier();
    let create = if ranks.is_first() { RunFolder::create } else { RunFolder::created_elsewhere };
    let folder = ranks.first_before_others(|| create(&config))?;
    run(&mut state, &config, &folder, interrupted)
}

/// Continues the run in `dir` from its newest intact checkpoint. The number of ranks may differ from before.
///
/// # Errors
/// There is no run, or all of its checkpoints are damaged; otherwise as [`train`].
pub fn resume(dir: &Path, overrides: &[String], ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    let (folder, config) = RunFolder::open(dir, overrides)?;
    config.validate()?;
    ranks.on_each_device(&config.run.device, |ranks| resume_as_rank(&folder, &config, ranks, interrupted))
}

fn resume_as_rank(folder: &RunFolder, config: &RunConfig, ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    let config = &with_epochs_as_steps(config.clone(), ranks.count())?;
    let checkpoint = newest(&folder.checkpoints(config.train.keep_checkpoints), ranks)?;
    if checkpoint.is_none() && ranks.is_first() {
        tracing::warn!("the run in {} has no checkpoint yet and starts from the beginning", config.run.dir.display());
    }
    run(&mut TrainingState::open(config, ranks, checkpoint.as_ref())?, config, folder, interrupted)
}

/// The newest checkpoint that is intact on the first rank: the same step on all ranks.
fn newest(checkpoints: &CheckpointStore, ranks: &Ranks) -> Result<Option<Checkpoint>> {
    let newest = if ranks.is_first() { checkpoints.latest()? } else { None };
    let step = ranks.broadcast(&newest.as_ref().map(|newest| newest.step.to_string()).unwrap_or_default());
    if ranks.is_first() || step.is_empty() {
        return Ok(newest);
    }
    Ok(Some(checkpoints.of_step(step.parse()?).context("the first rank continues from a checkpoint")?))
}

fn run(state: &mut TrainingState, config: &RunConfig, folder: &RunFolder, interrupted: &AtomicBool) -> Result<Outcome> {
    let (train, ranks) = (&config.train, state.ranks);
    let samples = ranks.count() * train.samples_per_step();
    let checkpoints = folder.checkpoints(train.keep_checkpoints);
    let mut journal = ranks.is_first().then(|| Journal::open(folder, train.steps, state.step)).transpose()?;
    if let (Some(journal), 2..) = (&journal, ranks.count()) {
        journal.print(&format!("ranks {}, machines {}, samples per step {samples}", ranks.count(), ranks.machines()));
    }
    ranks.agree("the norm of the weights", weight_norm(&state.control))?;
    let mut bad_steps = 0;
    let mut score = None;
    while state.step < train.steps {
        let started = Instant::now();
        let batches = state.batches(train.batch_size, train.accumulate)?;
        let waited = started.elapsed();
        let inputs = state.prepare(&batches, config)?;
        let (loss, norm) = state.take_step(inputs, config)?;
        if loss.is_finite() && norm.is_finite() {
            bad_steps = 0;
        } else {
            bad_steps += 1;
            if let Some(journal) = &journal {
                journal.print(&format!("step {}: loss {loss}, gradient norm {norm}: step skipped", state.step));
            }
        }
        let took = started.elapsed().as_secs_f64();
        let mut metrics = StepMetrics {
            step: state.step,
            loss,
            learning_rate: state.optimizer.learning_rate(state.step),
            grad_norm: norm,
            images_per_second: samples as f64 / took,
            data_wait: Some(ranks.mean(waited.as_secs_f64() / took)),
            ..StepMetrics::default()
        };
        state.step += 1;
        if state.step.is_multiple_of(train.validate_every) || state.step == train.steps {
            let loss = validation_loss(state, config)?;
            score = Some(-loss);
            metrics.more.insert("validation_loss".into(), Some(loss));
            if let Some(journal) = &mut journal {
                let sheet = sheet(&state.base, &state.branch(config), &state.held_out, &config.evaluate)?.draw();
                journal.validation(state.step, loss, &sheet)?;
            }
            ranks.barrier();
        }
        if let Some(journal) = &mut journal {
            journal.step(&metrics)?;
        }
        if bad_steps >= train.max_bad_steps {
            bail!("{}", diverged(bad_steps, &checkpoints));
        }
        let stop = ranks.any(interrupted.load(Ordering::Relaxed));
        if state.step.is_multiple_of(train.checkpoint_every) || state.step == train.steps || stop {
            ranks.agree("the norm of the weights", weight_norm(&state.control))?;
            if ranks.is_first() {
                state.save(&checkpoints, score.take(), samples)?;
            }
        }
        if stop && state.step < train.steps {
            return Ok(Outcome::Interrupted(state.step));
        }
    }
    drop(journal);
    let skipped = state.skipped_pictures();
    if ranks.is_first() {
        state.write_model(config, folder)?;
        summary::write(state, config, folder, skipped)?;
    }
    ranks.barrier();
    Ok(Outcome::Finished)
}

fn diverged(bad_steps: u32, checkpoints: &CheckpointStore) -> String {
    let last = match checkpoints.latest() {
        Ok(Some(checkpoint)) => format!("the last good checkpoint is {}", checkpoint.dir.display()),
        _ => "there is no checkpoint yet".into(),
    };
    format!("the loss was not finite for {bad_steps} steps in a row; {last}; lower train.learning_rate")
}
