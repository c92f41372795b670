//! What a run says at its start: device, data, model, work and folder, as the program understood them.

use std::path::PathBuf;

use burn::module::Module;
use spire_core::parallel;
use spire_data::source::{SourceConfig, SourceKind};

use super::state::TrainingState;
use crate::config::RunConfig;

/// The lines for a run with `samples` samples per step over all ranks.
pub(super) fn text(state: &TrainingState, config: &RunConfig, samples: usize) -> String {
    let (train, model, ranks) = (&config.train, &config.model, state.ranks);
    let several = match (ranks.count(), ranks.machines()) {
        (1, _) => String::new(),
        (count, machines) => format!(", {count} ranks, {machines} machines"),
    };
    let device = format!("{} ({} cores){several}", config.run.device, parallel::available());
    let pictures = state.loader.samples().epoch_len();
    let encoded = state.loader.samples().encoded().map_or(String::new(), |encoded| {
        let texts = if encoded.manifest().model.text.is_some() { "latents and texts" } else { "latents" };
        format!("; {texts} encoded in {}", encoded.folder().display())
    });
    let held_out = match config.held_out_share() {
        Some(_) => format!("; {} more are held out (evaluate.held_out_share)", state.held_out.epoch_len()),
        None => String::new(),
    };
    let size = config.data.size;
    let data = format!("{pictures} {}; {size}×{size} pixels{encoded}{held_out}", source(&config.data.source));
    let parameters = |count: usize| format!("{:.1} M parameters", count as f64 / 1e6);
    let frozen = format!("{}, {}", parameters(state.base.unet.num_params()), model.precision);
    let trained = format!("{}, {}", parameters(state.learner.module.num_params()), state.control_config.fusion());
    let batches = match train.accumulate {
        1 => String::new(),
        count => format!(" in {count} batches"),
    };
    let steps = match state.learner.step {
        done if done >= train.steps => format!("all {} steps are done", train.steps),
        done => format!("steps {} to {}, {samples} samples each{batches}", done + 1, train.steps),
    };
    let figures = match config.evaluated_pictures() {
        0 => "no figures at the end (evaluate.samples)".to_owned(),
        count => format!("figures on {count} held-out pictures at the end (evaluate.samples)"),
    };
    [
        ("device", device),
        (
            "threads",
            format!(
                "{} for batches (train.threads), {} for data (data.workers)",
                config.train_threads(),
                config.data.workers
            ),
        ),
        ("gradients", ranks.gradients().to_owned()),
        ("data", data),
        ("base", format!("{} (UNet: {frozen}, frozen)", model.base.display())),
        ("branch", format!("{trained}, trained")),
        ("work", format!("{steps}; {figures}")),
        ("folder", config.run.dir.display().to_string()),
    ]
    .into_iter()
    .filter(|(_, text)| !text.is_empty())
    .map(|(name, text)| format!("{name:<9} {text}"))
    .collect::<Vec<_>>()
    .join("\n")
}

/// What the pictures are, and where their captions come from.
fn source(source: &SourceConfig) -> String {
    if source.is_paired() && source.kind != SourceKind::Mixture {
        let of = source.path.as_ref().map(|path| path.display().to_string()).or(source.shards.clone());
        let degraded = source.degraded.as_deref().unwrap_or_default();
        return format!("pairs in {}, their degraded pictures in {degraded}", of.unwrap_or_default());
    }
    let path = |path: &Option<PathBuf>| path.as_ref().map_or(String::new(), |path| path.display().to_string());
    let shards = || source.shards.as_deref().unwrap_or_default();
    let caption = || source.caption.as_ref().map_or(String::new(), |key| format!(" in \"{key}\""));
    match source.kind {
        SourceKind::World => "scenes of the illustrated world with their captions".to_owned(),
        SourceKind::Folder => {
            let left_out = if source.uncaptioned { "empty where missing" } else { "pictures without one are skipped" };
            format!("pictures in the folder {}, captions beside them ({left_out})", path(&source.path))
        }
        SourceKind::Coco => {
            format!("pictures in {}, captions in {}", path(&source.images), path(&source.annotations))
        }
        SourceKind::Webdataset => format!("pictures with captions{} in the shards {}", caption(), shards()),
        SourceKind::Parquet => format!("pictures with captions{} in the Parquet files {}", caption(), shards()),
        SourceKind::Mixture => format!("pictures of {} sources with their captions", source.sources.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_names_its_pictures_and_captions() {
        let of = |kind| SourceConfig {
            kind,
            path: Some("photos".into()),
            images: Some("val2017".into()),
            annotations: Some("captions.json".into()),
            shards: Some("a-{0..3}.tar".into()),
            caption: Some("text".into()),
            ..SourceConfig::default()
        };
        for (kind, expected) in [
            (SourceKind::World, "scenes of the illustrated world with their captions"),
            (
                SourceKind::Folder,
                "pictures in the folder photos, captions beside them (pictures without one are skipped)",
            ),
            (SourceKind::Coco, "pictures in val2017, captions in captions.json"),
            (SourceKind::Webdataset, "pictures with captions in \"text\" in the shards a-{0..3}.tar"),
            (SourceKind::Mixture, "pictures of 0 sources with their captions"),
        ] {
            assert_eq!(source(&of(kind)), expected);
        }
    }
}
