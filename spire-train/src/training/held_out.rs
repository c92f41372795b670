//! Held-out samples: where they come from, and how they are restored.

use anyhow::{Result, ensure};
use spire_core::Picture;
use spire_core::parallel::in_order;
use spire_core::progress::PhaseProgress;
use spire_core::sheet::{Note, Row, Sheet};
use spire_data::loader::{Samples, TrainingSample};
use spire_data::source::SourceKind;
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::device::on_one_thread;
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::config::{EvaluateSection, RunConfig};

/// The held-out samples. They have their own seed, and scenes of their own where the source draws scenes.
///
/// # Errors
/// The source does not open, its settings are out of range, or its scenes would be those of training.
pub(crate) fn held_out(config: &RunConfig) -> Result<Samples> {
    let mut data = config.data.clone();
    data.prompt_dropout = 0.0;
    data.horizontal_flip = false;
    (data.max_samples, data.encoded) = (None, None);
    match &config.evaluate.source {
        Some(source) => data.source = source.clone(),
        None if data.source.kind == SourceKind::World => {
            ensure!(
                data.source.seed != config.evaluate.seed,
                "evaluate.seed must differ from data.source.seed: the held-out scenes would be those of training"
            );
            data.source.seed = config.evaluate.seed;
        }
        None => tracing::warn!("no [evaluate.source]: the figures are of training pictures, not of held-out ones"),
    }
    Ok(Samples::open(data, config.degradation.clone(), config.evaluate.seed)?)
}

/// Restores the held-out samples `0..count` with the run's sampling settings and calls `each` with every result. The
/// initial noise of sample `n` has seed `n`. The progress is shown as that of `phase`.
///
/// # Errors
/// Too many samples are broken, sampling fails, or `each` fails.
pub(super) fn restore_held_out(
    base: &Base,
    control: &Control,
    samples: &Samples,
    config: &EvaluateSection,
    (phase, count): (&str, usize),
    mut each: impl FnMut(&TrainingSample, &Picture) -> Result<()>,
) -> Result<()> {
    let numbers: Vec<u64> = (0..count as u64).collect();
    let progress = PhaseProgress::new(phase, count as u64);
    for chunk in numbers.chunks(config.batch_size) {
        let batch = chunk.iter().map(|&n| samples.sample(n)).collect::<Result<Vec<_>, _>>()?;
        let requests: Vec<_> = batch
            .iter()
            .map(|sample| Request {
                degraded: sample.degraded.clone(),
                semantic: sample.semantic.clone(),
                restoration: sample.restoration.clone(),
                seed: sample.n,
            })
            .collect();
        let restored = restore_in_parts(base, control, &config.sampling, &requests, config.threads)?;
        for (sample, restored) in batch.iter().zip(restored) {
            each(sample, &restored)?;
            progress.advance("");
        }
    }
    Ok(())
}

/// Restores a batch in `threads` parts, each on one core. On a CPU and for a small model this is faster than the whole
/// batch on all cores.
///
/// # Errors
/// As [`restore`].
pub(crate) fn restore_in_parts(
    base: &Base,
    control: &Control,
    sampling: &SamplingConfig,
    requests: &[Request],
    threads: usize,
) -> Result<Vec<Picture>> {
    if threads <= 1 {
        return restore(base, control, sampling, requests);
    }
    let parts: Vec<&[Request]> = requests.chunks(requests.len().div_ceil(threads).max(1)).collect();
    let part = |i: usize| on_one_thread(|| restore(base, control, sampling, parts[i]));
    Ok(in_order(parts.len(), threads, part)?.concat())
}

/// A sheet of the first `config.rows` held-out samples: degraded, restored and clean, with both prompts.
///
/// # Errors
/// As [`restore_held_out`].
pub(super) fn sheet(base: &Base, control: &Control, samples: &Samples, config: &EvaluateSection) -> Result<Sheet> {
    let mut sheet = Sheet::new(["degraded", "restored", "clean"]);
    restore_held_out(base, control, samples, config, ("sheet of samples", config.rows), |sample, restored| {
        sheet.rows.push(Row {
            pictures: vec![sample.degraded.clone(), restored.clone(), sample.target().clone()],
            notes: vec![
                Note::new("semantic prompt", &sample.semantic),
                Note::new("restoration prompt", &sample.restoration),
            ],
        });
        Ok(())
    })?;
    Ok(sheet)
}
