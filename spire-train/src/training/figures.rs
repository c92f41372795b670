//! Figures of restored held-out pictures while a run trains.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use burn::tensor::Device;
use spire_eval::evaluation::{Metric, Scorer};

use super::held_out::restore_held_out;
use super::state::TrainingState;
use crate::config::{RunConfig, ValidateSection};

/// The networks of the metrics; `None` if no pictures are measured.
///
/// # Errors
/// Weights are missing, or can't be read or do not fit.
pub(super) fn load(section: &ValidateSection, device: &Device) -> Result<Option<Scorer>> {
    if section.samples == 0 {
        return Ok(None);
    }
    let scorer = Scorer::load(&section.scoring(), device)?;
    let missing = scorer.missing().iter().map(|(metric, needed)| format!("{}: {needed}", metric.key()));
    let missing: Vec<String> = missing.collect();
    ensure!(missing.is_empty(), "validate.metrics can't be measured: {}", missing.join("; "));
    Ok(Some(scorer))
}

/// The name of a figure in `metrics.jsonl`.
pub(super) fn name(metric: Metric) -> String {
    format!("validation_{}", metric.key())
}

/// Means over the restored held-out pictures, which the ranks share. All ranks call it and get the same figures. A metric
/// that no picture has is left out.
///
/// # Errors
/// Too many held-out pictures are broken, sampling fails, or a picture is too small for a metric.
pub(super) fn measure(state: &TrainingState, config: &RunConfig) -> Result<BTreeMap<Metric, f64>> {
    let Some(scorer) = &state.scorer else { return Ok(BTreeMap::new()) };
    let branch = state.branch(config);
    let phase = state.ranks.is_first().then_some("restored held-out pictures");
    let numbers = state.ranks.share(config.validate.samples as u64);
    let mut sums: BTreeMap<Metric, (f64, f64)> = BTreeMap::new();
    restore_held_out(&state.base, &branch, &state.held_out, &config.evaluate, (phase, numbers), |sample, restored| {
        for (metric, value) in scorer.score_picture(restored.clone(), sample.clean.clone(), &sample.caption)? {
            let (sum, count) = sums.entry(metric).or_default();
            *sum += value;
            *count += 1.0;
        }
        Ok(())
    })?;
    let mut means = BTreeMap::new();
    for metric in BTreeSet::from_iter(config.validate.metrics.iter().copied()) {
        let (sum, count) = sums.get(&metric).copied().unwrap_or_default();
        let (sum, count) = (state.ranks.sum(sum), state.ranks.sum(count));
        if count > 0.0 {
            means.insert(metric, sum / count);
        }
    }
    Ok(means)
}
