//! Held-out samples: where they come from, and how they are restored.

use anyhow::{Context, Result, ensure};
use spire_core::Picture;
use spire_core::parallel::in_order;
use spire_core::progress::PhaseProgress;
use spire_core::sheet::{Note, Row, Sheet};
use spire_data::loader::{DataConfig, Part, Samples, TrainingSample};
use spire_data::source::SourceKind;
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::device::{is_cpu, on_cores, threads};
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::config::{EvaluateSection, RunConfig};
use crate::encoding::with_encoded;

/// The training samples of a configuration whose models are located: all of the source but the share that is held out,
/// with what `data.encoded` names.
///
/// # Errors
/// The source does not open, its settings are out of range, or what was encoded is of another model or configuration.
pub(crate) fn training_samples(config: &RunConfig) -> Result<Samples> {
    let part = config.held_out_share().map_or(Part::Whole, Part::Training);
    with_encoded(open_part(config, config.data.clone(), config.run.seed, part)?, config)
}

/// The held-out samples. They have their own seed, and scenes of their own where the source draws scenes.
///
/// # Errors
/// The source does not open, its settings are out of range, or its scenes would be those of training.
pub(crate) fn held_out(config: &RunConfig) -> Result<Samples> {
    let mut data = config.data.clone();
    data.prompt_dropout = 0.0;
    data.horizontal_flip = false;
    (data.max_samples, data.encoded) = (None, None);
    let mut part = Part::Whole;
    match (&config.evaluate.source, config.held_out_share()) {
        (Some(source), _) => data.source = source.clone(),
        (None, Some(share)) => part = Part::HeldOut(share),
        (None, None) if data.source.kind == SourceKind::World => {
            ensure!(
                data.source.seed != config.evaluate.seed,
                "evaluate.seed must differ from data.source.seed: the held-out scenes would be those of training"
            );
            data.source.seed = config.evaluate.seed;
        }
        (None, None) => warn_of_training_pictures("evaluate.held_out_share holds out none"),
    }
    open_part(config, data, config.evaluate.seed, part)
}

/// A part of the data; all of it if it can't be split.
fn open_part(config: &RunConfig, data: DataConfig, seed: u64, part: Part) -> Result<Samples> {
    let open = |part| Samples::open_part(data.clone(), config.degradation.clone(), seed, part);
    if let Some(samples) = open(part)? {
        return Ok(samples);
    }
    if let Part::HeldOut(_) = part {
        warn_of_training_pictures("the data has too few pictures to hold one out");
    }
    open(Part::Whole)?.context("the data has no pictures")
}

fn warn_of_training_pictures(reason: &str) {
    tracing::warn!("no [evaluate.source], and {reason}: the figures are of training pictures, not of held-out ones");
}

/// Restores the held-out samples `numbers` with the run's sampling settings and calls `each` with every result. The initial
/// noise of sample `n` has seed `n`. The progress is shown as that of `phase`; `None` shows none.
///
/// # Errors
/// Too many samples are broken, sampling fails, or `each` fails.
pub(super) fn restore_held_out(
    base: &Base,
    control: &Control,
    samples: &Samples,
    config: &EvaluateSection,
    (phase, numbers): (Option<&str>, impl IntoIterator<Item = u64>),
    mut each: impl FnMut(&TrainingSample, &Picture) -> Result<()>,
) -> Result<()> {
    let numbers: Vec<u64> = numbers.into_iter().collect();
    let progress = phase.map(|phase| PhaseProgress::new(phase, numbers.len() as u64));
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
            progress.iter().for_each(|progress| progress.advance(""));
        }
    }
    Ok(())
}

/// Restores a batch in as many parts at the same time as `threads_key` asks for ([`threads`]). On a CPU and for a small model this is
/// faster than the whole batch on all cores.
///
/// # Errors
/// As [`restore`].
pub(crate) fn restore_in_parts(
    base: &Base,
    control: &Control,
    sampling: &SamplingConfig,
    requests: &[Request],
    threads_key: usize,
) -> Result<Vec<Picture>> {
    let threads = threads(threads_key, is_cpu(&base.device()), 1);
    let parts: Vec<&[Request]> = requests.chunks(requests.len().div_ceil(threads).max(1)).collect();
    let part = |i: usize| on_cores(parts.len(), || restore(base, control, sampling, parts[i]));
    Ok(in_order(parts.len(), threads, part)?.concat())
}

/// A sheet of the first `config.rows` held-out samples: degraded, restored and clean, with both prompts.
///
/// # Errors
/// As [`restore_held_out`].
pub(super) fn sheet(base: &Base, control: &Control, samples: &Samples, config: &EvaluateSection) -> Result<Sheet> {
    let mut sheet = Sheet::new(["degraded", "restored", "clean"]);
    restore_held_out(
        base,
        control,
        samples,
        config,
        (Some("sheet of samples"), 0..config.rows as u64),
        |sample, restored| {
            sheet.rows.push(Row {
                pictures: vec![sample.degraded.clone(), restored.clone(), sample.target().clone()],
                notes: vec![
                    Note::new("semantic prompt", &sample.semantic),
                    Note::new("restoration prompt", &sample.restoration),
                ],
            });
            Ok(())
        },
    )?;
    Ok(sheet)
}
