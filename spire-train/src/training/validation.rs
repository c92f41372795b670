//! A validation: a loss, figures and sheets of pictures. It draws no number of the training's random streams.

use std::collections::BTreeMap;

use anyhow::Result;
use spire_core::progress::PhaseProgress;

use super::held_out::sheet;
use super::latents::Latents;
use super::objective::DenoisingBatch;
use super::state::TrainingState;
use super::{figures, quality};
use crate::config::RunConfig;
use crate::logging::journal::Journal;
use crate::logging::metrics::StepMetrics;

/// What a validation found.
pub(super) struct Validation {
    /// The moving average's loss on held-out samples.
    pub loss: f64,
    /// The score by which the best checkpoint is chosen, the higher the better; `None` if it was not measured this time.
    pub score: Option<f64>,
}

/// Validates the state after the step of `metrics`, which get the figures. The first rank has a journal, for the sheets.
///
/// # Errors
/// Too many held-out pictures are broken, sampling fails, or a file can't be written.
pub(super) fn validate(
    state: &TrainingState,
    config: &RunConfig,
    journal: Option<&mut Journal>,
    metrics: &mut StepMetrics,
    last: bool,
) -> Result<Validation> {
    let loss = validation_loss(state, config)?;
    metrics.more.insert("validation_loss".into(), Some(loss));
    if !loss.is_finite() {
        // Pictures of weights that are lost show nothing.
        state.ranks.barrier();
        return Ok(Validation { loss, score: Some(loss) });
    }
    let figures = match config.validate.measures_after(metrics.step + 1, last) {
        true => figures::measure(state, config)?,
        false => BTreeMap::new(),
    };
    metrics.more.extend(figures.iter().map(|(metric, &value)| (figures::name(*metric), Some(value))));
    if let Some(journal) = journal {
        let branch = state.branch(config);
        let sheet = sheet(&state.base, &branch, &state.held_out, &config.evaluate)?;
        journal.sheet(metrics.step, &sheet.draw())?;
        if config.validate.samples == 0 {
            metrics.more.extend(quality::of_sheet(&sheet));
        }
        if let Some(sheet) = state.fixed_pictures.sheet(&state.base, &branch, &config.evaluate.sampling)? {
            journal.fixed_pictures(metrics.step, &sheet.draw())?;
        }
    }
    state.ranks.barrier();
    let score = match config.validate.best {
        None => Some(-loss),
        Some(best) => figures.get(&best).map(|&value| if best.rises() { value } else { -value }),
    };
    Ok(Validation { loss, score })
}

/// The moving average's loss on held-out samples, with the same timesteps and noise in every validation. The ranks
/// share the samples.
///
/// # Errors
/// Too many held-out pictures are broken.
fn validation_loss(state: &TrainingState, config: &RunConfig) -> Result<f64> {
    let count = config.evaluate.validation_samples as u64;
    let (base, device, branch) = (&state.base, &state.device, state.branch(config));
    let mut total = 0.0;
    let progress =
        state.ranks.is_first().then(|| PhaseProgress::new("validation", state.ranks.share(count).count() as u64));
    for n in state.ranks.share(count) {
        let sample = state.held_out.sample(n)?;
        let latent = Latents::keeping(0).of(base, &sample, device)?;
        let seed = config.evaluate.seed;
        let batch = DenoisingBatch::new(base, &state.schedule, &[sample], vec![latent], seed, None, device)?;
        total += f64::from(batch.loss(&base.unet, &branch).into_scalar::<f32>());
        progress.iter().for_each(|progress| progress.advance(""));
    }
    Ok(state.ranks.sum(total) / count as f64)
}
