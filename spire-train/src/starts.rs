//! `starts.jsonl`: one line per start of a run; and what a start may change.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use spire_core::settings::Difference;
use spire_core::{machine, settings};

use crate::config::RunConfig;
use crate::run_folder::RunFolder;

/// A start of a run: a line of `starts.jsonl`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Start {
    /// In UTC.
    pub time: String,
    /// The version of this program.
    pub version: String,
    /// The machine of the first rank.
    pub host: String,
    /// The first rank's process.
    pub process: u32,
    /// `run.device`.
    pub device: String,
    /// The number of ranks.
    pub ranks: usize,
    /// Steps that were done before.
    pub from_step: u64,
    /// `--set`, as given.
    pub overrides: Vec<String>,
    /// What differs from the configuration of the start before, as `KEY: THEN, now NOW`.
    pub changes: Vec<String>,
    /// The file with the configuration of the start before, if something differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier_config: Option<String>,
}

impl Start {
    /// A start by this process, at the first step and without changes.
    pub fn now(config: &RunConfig, overrides: &[String], ranks: usize) -> Self {
        Self {
            time: machine::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: machine::host(),
            process: std::process::id(),
            device: config.run.device.clone(),
            ranks,
            from_step: 0,
            overrides: overrides.to_vec(),
            changes: vec![],
            earlier_config: None,
        }
    }

    /// Appends it to `starts.jsonl`.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn append(&self, folder: &RunFolder) -> Result<()> {
        let path = folder.starts();
        let line = format!("{}\n", serde_json::to_string(self)?);
        let append = || File::options().create(true).append(true).open(&path)?.write_all(line.as_bytes());
        append().with_context(|| format!("can't write {}", path.display()))
    }
}

/// The changes from the configuration `then` of a run to `now`.
///
/// # Errors
/// Without `force`: a change makes it another run.
pub fn allowed_changes(then: &RunConfig, now: &RunConfig, force: bool) -> Result<Vec<Difference>> {
    let changes = settings::differences(then, now)?;
    let splits = then.held_out_share() != now.held_out_share();
    let of_split = |key: &str| splits && key.starts_with("evaluate.") && !key.starts_with("evaluate.sampling");
    let identifies = |change: &&Difference| identifies_a_run(&change.key) || of_split(&change.key);
    let other: Vec<String> = changes.iter().filter(identifies).map(Difference::to_string).collect();
    if !other.is_empty() && !force {
        bail!(
            "this would make it another run: start a new one (spire train CONFIG), or add --force, for instance after \
             moving the data or the model:\n  {}",
            other.join("\n  ")
        );
    }
    Ok(changes)
}

/// Whether a run with another value of `key` is another run: its weights, losses or samples would not belong together.
fn identifies_a_run(key: &str) -> bool {
    let section = key.split('.').next().unwrap_or_default();
    let technical = [
        "data.workers",
        "data.prefetch",
        "model.text_cache_megabytes",
        "model.latent_cache_megabytes",
        "model.image_encoder",
    ];
    key == "run.seed" || (["model", "data", "degradation"].contains(&section) && !technical.contains(&key))
}

/// What a run that continues at `step` should say of its learning rate, if a change makes it jump.
pub fn jump_of_the_rate(then: &RunConfig, now: &RunConfig, step: u64) -> Option<String> {
    if step == 0 {
        return None;
    }
    let [planned, changed] = [then, now].map(|config| config.train.optimizer(1).learning_rate.at(step));
    let last = then.train.optimizer(1).learning_rate.at(step.saturating_sub(1));
    ((planned - changed).abs() > 0.01 * planned.max(changed)).then(|| {
        format!(
            "the learning rate of the next step is {changed:.2e}; that of the last one was {last:.2e}. The schedule depends on \
             train.steps, train.learning_rate, train.warmup_steps and train.final_ratio; to go on at the last rate, set \
             train.schedule=constant, train.warmup_steps=0 and train.learning_rate={last:.2e}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(change: impl Fn(&mut RunConfig)) -> RunConfig {
        let mut config = RunConfig::default();
        change(&mut config);
        config
    }

    #[test]
    fn what_makes_another_run_needs_force() {
        let then = RunConfig::default();
        for (now, key) in [
            (changed(|config| config.run.seed = 7), "run.seed: 0, now 7"),
            (changed(|config| config.data.size = 128), "data.size: 64, now 128"),
            (changed(|config| config.data.source.count = 3), "data.source.count"),
            (changed(|config| config.degradation.parameterized_share = 1.0), "degradation.parameterized_share"),
            (changed(|config| config.model.fusion = Some(spire_model::fusion::Fusion::Add)), "model.fusion"),
            (changed(|config| config.model.base = "other".into()), "model.base"),
        ] {
            let error = allowed_changes(&then, &now, false).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("--force"), "{error}");
            assert_eq!(allowed_changes(&then, &now, true).unwrap().len(), 1);
        }
        let mut folder = then.clone();
        folder.data.source.kind = spire_data::source::SourceKind::Folder;
        folder.evaluate.held_out_share = Some(0.02);
        let mut other = folder.clone();
        other.evaluate.held_out_share = Some(0.1);
        let error = allowed_changes(&folder, &other, false).unwrap_err().to_string();
        assert!(error.contains("evaluate.held_out_share: 0.02, now 0.1"), "{error}");
        other = folder.clone();
        other.evaluate.source = Some(folder.data.source.clone());
        assert!(allowed_changes(&folder, &other, false).is_err(), "nothing would be held out from the data any more");

        let technical = changed(|config| {
            (config.run.device, config.data.workers, config.train.steps) = ("cuda".into(), 0, 7);
            config.evaluate.samples = Some(0);
        });
        let keys = allowed_changes(&then, &technical, false).unwrap();
        let keys: Vec<&str> = keys.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["data.workers", "evaluate.samples", "run.device", "train.steps"]);
    }

    #[test]
    fn a_rate_that_jumps_is_told() {
        let then = changed(|config| (config.train.steps, config.train.warmup_steps) = (800, 0));
        assert_eq!(jump_of_the_rate(&then, &then, 800), None);
        assert_eq!(jump_of_the_rate(&then, &changed(|config| config.train.learning_rate = 1.0), 0), None);
        let longer = changed(|config| (config.train.steps, config.train.warmup_steps) = (1600, 0));
        let told = jump_of_the_rate(&then, &longer, 800).unwrap();
        // Half of the cosine is left; before, nothing was.
        assert!(told.contains("next step is 2.50e-5") && told.contains("last one was 1.93e-10"), "{told}");
        let constant = changed(|config| {
            (config.train.steps, config.train.warmup_steps) = (1600, 0);
            config.train.schedule = crate::optim::learning_rate::Schedule::Constant;
        });
        assert_eq!(
            jump_of_the_rate(
                &constant,
                &changed(|config| {
                    *config = constant.clone();
                    config.train.steps = 9000;
                }),
                800
            ),
            None
        );
    }
}
