//! How a run begins, and how it continues: the run folder, its lock, its configuration, the checkpoint.

use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use spire_core::settings::Difference;

use super::held_out::training_samples;
use super::start::{of_new_run, with_models_located};
use super::state::TrainingState;
use super::train::{Outcome, run};
use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::config::RunConfig;
use crate::distributed::Ranks;
use crate::run_folder::{NewRun, RunFolder};
use crate::starts::{Start, allowed_changes, jump_of_the_rate};

/// The checkpoint that a run continues from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CheckpointChoice {
    /// The newest intact one that is not known to be bad.
    #[default]
    Latest,
    /// That with the lowest validation loss, or the best figure of `validate.best`.
    Best,
    /// That of this step.
    Step(u64),
}

impl FromStr for CheckpointChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            step => step.parse().map(Self::Step).map_err(|_| format!("{step:?} is neither a step nor \"best\"")),
        }
    }
}

/// How a run continues.
#[derive(Clone, Debug, Default)]
pub struct Continuation {
    /// From which checkpoint.
    pub from: CheckpointChoice,
    /// Changes of the configuration, `section.key=value`.
    pub overrides: Vec<String>,
    /// Accept changes that make it another run.
    pub force: bool,
}

/// Starts a new run on all devices that the configuration names. All ranks call it with the same configuration, which
/// `overrides` changed already; they are recorded. If one rank is interrupted, all stop. A run that fails before its first
/// step leaves no folder.
///
/// # Errors
/// The configuration is invalid; the data or the model does not open; the run folder exists or is in use; training fails or
/// diverges; the ranks differ.
pub fn train(config: RunConfig, overrides: &[String], ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    RunFolder::check_free(&config)?;
    ranks.on_each_device(&config.run.device, config.train.nccl, |ranks| {
        train_as_rank(config.clone(), overrides, ranks, interrupted)
    })
}

fn train_as_rank(config: RunConfig, overrides: &[String], ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    // The first rank may have to download a model.
    let config = ranks.first_before_others(|| of_new_run(config))?;
    let config = with_epochs_as_steps(config, ranks.count())?;
    remark(&config, ranks);
    // Create the run folder only if the run can start on all ranks.
    let mut state = TrainingState::open(&config, ranks, None)?;
    ranks.barrier();
    let folder = RunFolder::at(&config.run.dir);
    let new = ranks.first_before_others(|| match ranks.is_first() {
        true => NewRun::create(&config).map(Some),
        false => folder.wait_until_created().map(|()| None),
    })?;
    let record = || match &new {
        Some(new) => Start::now(&config.run.device, overrides, ranks.count()).append(new.folder()),
        None => Ok(()),
    };
    let outcome = record().and_then(|()| run(&mut state, &config, &folder, None, interrupted));
    if let (Err(_), Some(new)) = (&outcome, new)
        && state.learner.step == 0
    {
        new.discard();
    }
    outcome
}

/// Continues the run in `dir`. The number of ranks may differ from before.
///
/// # Errors
/// There is no run, or another process is at it; the checkpoint does not exist, or all are damaged; a change would make it
/// another run; fewer steps are wanted than are done; otherwise as [`train`].
pub fn resume(dir: &Path, how: &Continuation, ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    let of_folder = |text: &String| text.split('=').next().is_some_and(|key| key.trim() == "run.dir");
    ensure!(
        !how.overrides.iter().any(of_folder),
        "run.dir can't change when a run continues: copy {} and continue the copy",
        dir.display()
    );
    let (folder, then) = RunFolder::open(dir, &[])?;
    let (_, now) = RunFolder::open(dir, &how.overrides)?;
    now.validate()?;
    ranks.on_each_device(&now.run.device, now.train.nccl, |ranks| {
        resume_as_rank(&folder, &then, now.clone(), how, ranks, interrupted)
    })
}

fn resume_as_rank(
    folder: &RunFolder,
    then: &RunConfig,
    now: RunConfig,
    how: &Continuation,
    ranks: &Ranks,
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let _lock = if ranks.is_first() { Some(folder.lock()?) } else { None };
    // The paths in the run's own configuration are located already.
    let changes_model = how.overrides.iter().any(|change| change.trim_start().starts_with("model"));
    let config = if changes_model { ranks.first_before_others(|| with_models_located(now))? } else { now };
    let config = with_epochs_as_steps(config, ranks.count())?;
    let changes = allowed_changes(then, &config, how.force)?;
    let checkpoint = chosen(&folder.checkpoints(config.train.keep_checkpoints), how.from, ranks)?;
    let step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
    ensure!(
        step <= config.train.steps,
        "train.steps = {}, but {step} steps are done: raise train.steps, or go back to an earlier checkpoint (--from)",
        config.train.steps
    );
    remark(&config, ranks);
    let mut state = TrainingState::open(&config, ranks, checkpoint.as_ref())?;
    if ranks.is_first() {
        if checkpoint.is_none() {
            tracing::warn!(
                "the run in {} has no good checkpoint and starts from the beginning",
                config.run.dir.display()
            );
        }
        if how.from != CheckpointChoice::Latest {
            let abandoned = folder.abandon_after(step)?;
            tracing::info!("continuing from step {step}; what came after it is in {}", abandoned.display());
        }
        if let Some(told) = jump_of_the_rate(then, &config, step) {
            tracing::warn!("{told}");
        }
        record(folder, &config, &changes, how, step, ranks)?;
    }
    ranks.barrier();
    run(&mut state, &config, folder, checkpoint.as_ref(), interrupted)
}

/// Writes down that the run continues at `step`, and with which configuration.
fn record(
    folder: &RunFolder,
    config: &RunConfig,
    changes: &[Difference],
    how: &Continuation,
    step: u64,
    ranks: &Ranks,
) -> Result<()> {
    let earlier_config = if changes.is_empty() { None } else { Some(folder.replace_config(config)?) };
    let changes = changes.iter().map(Difference::to_string).collect();
    let start = Start::now(&config.run.device, &how.overrides, ranks.count());
    Start { from_step: step, changes, earlier_config, ..start }.append(folder)
}

/// The checkpoint to continue from, as the first rank finds it: the same step on all ranks.
fn chosen(checkpoints: &CheckpointStore, from: CheckpointChoice, ranks: &Ranks) -> Result<Option<Checkpoint>> {
    let found = match from {
        _ if !ranks.is_first() => None,
        CheckpointChoice::Latest => checkpoints.latest()?,
        CheckpointChoice::Step(step) => Some(checkpoints.of_step(step)?),
        CheckpointChoice::Best => match checkpoints.best()? {
            None => bail!("no checkpoint has a validation loss or figure yet: name a step instead of \"best\""),
            best => best,
        },
    };
    let step = ranks.broadcast(&found.as_ref().map(|found| found.step.to_string()).unwrap_or_default());
    if ranks.is_first() || step.is_empty() {
        return Ok(found);
    }
    Ok(Some(checkpoints.of_step(step.parse()?).context("the first rank continues from a checkpoint")?))
}

/// The configuration with the steps that `train.epochs` takes on so many ranks, if it is set.
///
/// # Errors
/// The training data does not open.
fn with_epochs_as_steps(mut config: RunConfig, ranks: usize) -> Result<RunConfig> {
    if let Some(epochs) = config.train.epochs {
        let pictures = training_samples(&config)?.epoch_len();
        config.train = config.train.with_epochs_as_steps(pictures, ranks);
        tracing::info!("train.epochs: {epochs} epochs of {pictures} pictures are {} steps", config.train.steps);
    }
    Ok(config)
}

/// Says what is odd about a configuration.
fn remark(config: &RunConfig, ranks: &Ranks) {
    if ranks.is_first() {
        config.remarks().iter().for_each(|remark| tracing::warn!("{remark}"));
    }
}
