//! `summary.json`: the figures at the end of a run.

use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use serde_json::json;
use spire_core::atomic_write::write_atomic;

use super::quality::{Quality, evaluate};
use super::state::TrainingState;
use crate::config::RunConfig;
use crate::logging::memory;
use crate::logging::metrics::StepMetrics;
use crate::run_folder::RunFolder;

/// Evaluates the trained branch on held-out pictures and writes the summary. `steps` has the metrics of all steps,
/// `skipped` is the number of source pictures that could not be used. Returns the figures of the restored pictures; nothing
/// if the run has no evaluation.
///
/// # Errors
/// The evaluation fails, or the file can't be written.
pub(super) fn write(
    state: &TrainingState,
    config: &RunConfig,
    folder: &RunFolder,
    steps: &[StepMetrics],
    skipped: usize,
) -> Result<Option<Quality>> {
    let (first, last) = smoothed_ends(steps.iter().map(|metrics| metrics.loss));
    let seconds_per_image: f64 = steps.iter().map(|metrics| 1.0 / metrics.images_per_second).sum();
    let mut summary = json!({
        "steps": state.learner.step,
        "first_smoothed_loss": first,
        "last_smoothed_loss": last,
        "images_per_second": steps.len() as f64 / seconds_per_image,
        "ranks": state.ranks.count(),
        "skipped_samples": skipped,
        "parameters": { "trained": state.learner.module.num_params(), "frozen_unet": state.base.unet.num_params() },
    });
    let mut figures = None;
    let count = config.evaluated_pictures();
    if count > 0 {
        let started = Instant::now();
        let (base, branch, space) = (&state.base, &state.branch(config), state.image_space.as_ref());
        let (degraded, restored) = evaluate(base, branch, &state.held_out, &config.evaluate, count, space)?;
        summary["held_out"] = json!({
            "samples": count,
            "sampling": config.evaluate.sampling,
            "degraded": degraded,
            "restored": restored,
        });
        summary["evaluation_seconds"] = json!(started.elapsed().as_secs_f64());
        figures = Some(restored);
    }
    // Last, so that it includes the evaluation.
    summary["peak_memory_bytes"] = json!(memory::peak());
    write_atomic(&folder.summary(), serde_json::to_string_pretty(&summary)?.as_bytes())?;
    Ok(figures)
}

/// The mean loss over the first twentieth of the steps and over the last; steps whose loss is not finite are left out.
fn smoothed_ends(losses: impl Iterator<Item = f64>) -> (f64, f64) {
    let losses: Vec<f64> = losses.filter(|loss| loss.is_finite()).collect();
    let window = (losses.len() / 20).max(1).min(losses.len());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    (mean(&losses[..window]), mean(&losses[losses.len() - window..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothed_ends_are_means_of_finite_losses() {
        let losses = (0..40).map(|step| if step == 0 { f64::NAN } else { f64::from(step) });
        assert_eq!(smoothed_ends(losses), (1.0, 39.0));
    }
}
