//! What the stages of pretraining share: where parts are read and written, the seed, the scenes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{DType, Device};
use serde::Serialize;
use spire_core::atomic_write::write_atomic;
use spire_core::settings::{self, Difference};
use spire_data::degrade::DegradationConfig;
use spire_data::world::WorldConfig;
use spire_model::weights;

use super::{PretrainConfig, Stage};
use crate::run_folder::RunFolder;
use crate::starts::Start;

/// The keys of the configuration that every stage reads.
pub struct Common {
    /// Where the model folder is written.
    pub out: PathBuf,
    /// A model folder with parts to start from.
    pub start: Option<PathBuf>,
    /// Decides the initial weights, the scenes and the order.
    pub seed: u64,
    /// The scenes to learn from.
    pub world: WorldConfig,
    /// What degrades pictures.
    pub degradation: DegradationConfig,
    /// The whole configuration, to record it.
    pub whole: PretrainConfig,
    /// `--set`, as given.
    pub overrides: Vec<String>,
}

impl Common {
    /// The weights that `part` starts from: `fresh`, or those in `start`.
    pub fn starting<M: Module>(&self, part: &str, fresh: M) -> Result<M> {
        match &self.start {
            Some(model) => Ok(weights::load(fresh, &model.join(part))?),
            None => Ok(fresh),
        }
    }

    /// Where and how `stage` trains.
    pub fn training(&self, stage: &'static str) -> Training<'_> {
        Training { stage, folder: RunFolder::at(&self.out.join("training").join(stage)), common: self }
    }

    /// Whether `stage` has been done with this many steps.
    pub fn done(&self, stage: &str, steps: u64) -> bool {
        let figures = fs::read(self.out.join(format!("figures/{stage}.json")));
        let figures = figures.ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let reached = figures.and_then(|figures| figures["steps"].as_u64());
        let done = reached.is_some_and(|reached| reached >= steps);
        if done {
            tracing::info!("{stage}: already in {}", self.out.display());
        }
        done
    }
}

/// The training of a stage: the files of a run.
pub struct Training<'a> {
    stage: &'static str,
    /// Where its checkpoints are.
    pub folder: RunFolder,
    common: &'a Common,
}

impl Training<'_> {
    /// Writes down that the stage starts after `step` steps, and with which configuration. One that differs from that of the
    /// start before is announced, and the earlier one is kept.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn begin(&self, step: u64) -> Result<()> {
        let Common { whole, overrides, .. } = self.common;
        let file = self.folder.config_file();
        let (mut changes, mut earlier_config) = (vec![], None);
        if file.is_file() {
            let then: PretrainConfig = settings::load(&file, &[])?;
            let differences = settings::differences(&then, whole)?;
            changes = differences.iter().filter(|it| self.reads(&it.key)).map(Difference::to_string).collect();
            if !changes.is_empty() {
                tracing::warn!("{}: the configuration has changed: {}", self.stage, changes.join("; "));
                earlier_config = Some(self.folder.replace_config(whole)?);
            }
        } else {
            write_atomic(&file, settings::resolved(whole)?.as_bytes())?;
        }
        let start = Start::now(&whole.device, overrides, 1);
        Start { from_step: step, changes, earlier_config, ..start }.append(&self.folder)
    }

    /// Whether the stage reads `key`: it is not in the section of another one.
    fn reads(&self, key: &str) -> bool {
        let section = key.split('.').next().unwrap_or_default();
        section == self.stage || Stage::ALL.iter().all(|stage| stage.name() != section)
    }
}

/// Writes `config.json` and the weights, half precision.
pub fn write_part<M: Module>(
    folder: &Path,
    config: &impl Serialize,
    class: (&str, &str),
    file: &str,
    module: &M,
) -> Result<()> {
    create(folder)?;
    let mut json = serde_json::to_value(config)?;
    json[class.0] = class.1.into();
    write_atomic(&folder.join("config.json"), serde_json::to_string_pretty(&json)?.as_bytes())?;
    write_atomic(&folder.join(file), &weights::to_bytes(module, DType::F16)?)?;
    Ok(())
}

/// Writes the figures of `stage` and prints them. Last of all: they mark the stage as done.
pub fn write_figures(out: &Path, stage: &str, figures: &serde_json::Value) -> Result<()> {
    let folder = out.join("figures");
    let text = serde_json::to_string_pretty(figures)?;
    tracing::info!("{stage}: {text}");
    write_atomic(&folder.join(format!("{stage}.json")), text.as_bytes())?;
    Ok(())
}

pub fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))
}

/// The device that a stage's weights are trained on.
pub fn training(device: &Device) -> Device {
    device.clone().autodiff()
}
