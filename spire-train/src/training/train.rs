//! The training loop.
//!
//! Several [`Ranks`](crate::distributed::Ranks) share the samples of every step and hold the same weights. The first rank writes the run folder.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use spire_core::interruption::ends_at_once;
use spire_core::progress::{is_quiet, print};
use spire_model::base::Parts;

use super::model_card;
use super::opening;
use super::state::TrainingState;
use super::summary;
use super::validation::validate;
use crate::checkpoint::{Checkpoint, Guard};
use crate::config::RunConfig;
use crate::logging::journal::Journal;
use crate::logging::metrics::{self, StepMetrics};
use crate::optim::gradients::weight_norm;
use crate::run_folder::RunFolder;

/// How a run ended.
#[derive(Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All steps are done and `summary.json` is written.
    Finished,
    /// The run was interrupted after this many steps. A checkpoint is written, unless their losses were not finite.
    Interrupted(u64),
}

/// The key that a run that diverged should lower.
const RATE: &str = "train.learning_rate";

/// Takes the steps that remain, from the state of the checkpoint `resumed` or from the start, and writes the run
/// folder.
///
/// # Errors
/// The training diverges, a rank differs, or a file can't be written.
pub(super) fn run(
    state: &mut TrainingState,
    config: &RunConfig,
    folder: &RunFolder,
    resumed: Option<&Checkpoint>,
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let (train, ranks) = (&config.train, state.ranks);
    let samples = ranks.count() * train.samples_per_step();
    let mut checkpoints = Guard::new(folder.checkpoints(train.keep_checkpoints), resumed, ranks.is_first());
    let open = || Journal::open(folder, train.steps, state.learner.step, config);
    let mut journal = ranks.is_first().then(open).transpose()?;
    if ranks.is_first() && !is_quiet() {
        print(&opening::text(state, config, samples));
    }
    ranks.agree("the norm of the weights", weight_norm(&state.learner.module))?;
    let (mut score, mut validated) = (None, false);
    while state.learner.step < train.steps {
        let started = Instant::now();
        let Some(batches) = state.batches(train.batch_size, train.accumulate, interrupted)? else {
            tracing::warn!("the data source gives no samples: the run stops without them");
            if state.learner.step > 0 && checkpoints.bad_steps() == 0 {
                state.save(&mut checkpoints, score.take(), samples)?;
            }
            return Ok(Outcome::Interrupted(state.learner.step));
        };
        let waited = started.elapsed();
        let inputs = state.prepare(&batches, config)?;
        let learning_rate = state.learner.learning_rate();
        let (loss, norm) = state.take_step(inputs, config)?;
        let took = started.elapsed().as_secs_f64();
        let step = state.learner.step;
        let finite = loss.is_finite() && norm.is_finite();
        if let (Some(journal), false) = (&journal, finite) {
            journal.print(&format!("step {step}: loss {loss}, gradient norm {norm}: step skipped"));
        }
        let mut metrics = StepMetrics {
            step,
            loss,
            learning_rate,
            grad_norm: norm,
            images_per_second: samples as f64 / took,
            data_wait: Some(ranks.mean(waited.as_secs_f64() / took)),
            ..StepMetrics::default()
        };
        state.learner.step += 1;
        checkpoints.step(state.learner.step, finite)?;
        let last = state.learner.step == train.steps;
        if state.learner.step.is_multiple_of(train.validate_every) || last {
            state.base.hold(Parts::ALL)?;
            let found = validate(state, config, journal.as_mut(), &mut metrics, last)?;
            if !last {
                state.base.hold(state.parts)?;
            }
            validated = found.loss.is_finite();
            score = found.score.or(score);
        }
        if let Some(journal) = &mut journal {
            journal.step(&metrics)?;
        }
        if checkpoints.bad_steps() >= train.max_bad_steps {
            let reason = format!("the loss was not finite for {} steps in a row", checkpoints.bad_steps());
            return Err(checkpoints.diverged(&reason, RATE));
        }
        if last && !validated {
            return Err(checkpoints.diverged("the validation loss after the last step is not finite", RATE));
        }
        let stop = ranks.any(interrupted.load(Ordering::Relaxed));
        if state.learner.step.is_multiple_of(train.checkpoint_every) || last || stop {
            state.learner.check().map_err(|error| checkpoints.diverged(&error.to_string(), RATE))?;
            ranks.agree("the norm of the weights", weight_norm(&state.learner.module))?;
            // After the last step, the validation loss has shown what the next steps would.
            if checkpoints.bad_steps() == 0 || last {
                state.save(&mut checkpoints, score.take(), samples)?;
                if last {
                    checkpoints.prove()?;
                }
                journal.iter().try_for_each(Journal::check)?;
            } else if let Some(journal) = &journal {
                journal.print(&format!("step {step}: no checkpoint is written, because the loss is not finite"));
            }
        }
        if stop && !last {
            return Ok(Outcome::Interrupted(state.learner.step));
        }
    }
    if config.evaluated_pictures() > 0 {
        state.base.hold(Parts::ALL)?;
    }
    finish(state, config, folder, journal, interrupted)
}

/// Evaluates the trained branch and writes what is left to write.
fn finish(
    state: &TrainingState,
    config: &RunConfig,
    folder: &RunFolder,
    journal: Option<Journal>,
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let dir = config.run.dir.display();
    let _phase = ends_at_once(format!(
        "the run is trained, but its figures are missing; compute them with: spire train --resume {dir}"
    ));
    // An interruption before this phase.
    if state.ranks.any(interrupted.load(Ordering::Relaxed)) {
        return Ok(Outcome::Interrupted(state.learner.step));
    }
    let skipped = state.skipped_pictures();
    if let Some(mut journal) = journal {
        journal.finish_steps();
        // Empty if the file was removed; a warning has said it, and the weights are there.
        let steps = metrics::read(&folder.metrics())?;
        ensure!(
            steps.is_empty() || steps.iter().any(|step| step.loss.is_finite()),
            "no step had a finite loss, so nothing was trained; lower {RATE}, or compute in f32 (model.precision, \
             model.control_precision)"
        );
        state.write_model(config, folder)?;
        let restored = summary::write(state, config, folder, &steps, skipped)?;
        if let Some(restored) = &restored {
            journal.evaluation(config.train.steps - 1, restored.figures())?;
        }
        model_card::write(state, config, folder, restored.as_ref())?;
    }
    state.ranks.barrier();
    Ok(Outcome::Finished)
}
