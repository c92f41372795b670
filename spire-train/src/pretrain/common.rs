//! What the stages of pretraining share: where parts are read and written, the seed, the scenes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{DType, Device};
use serde::Serialize;
use spire_core::atomic_write::write_atomic;
use spire_data::degrade::DegradationConfig;
use spire_data::world::WorldConfig;
use spire_model::weights;

use super::fit::FitConfig;

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
}

impl Common {
    /// The weights that `part` starts from: `fresh`, or those in `start`.
    pub fn starting<M: Module>(&self, part: &str, fresh: M) -> Result<M> {
        match &self.start {
            Some(model) => Ok(weights::load(fresh, &model.join(part))?),
            None => Ok(fresh),
        }
    }

    /// Where `stage` keeps its checkpoints.
    pub fn training(&self, stage: &str) -> PathBuf {
        self.out.join("training").join(stage)
    }

    /// Whether `stage` has been done with this many steps.
    pub fn done(&self, stage: &str, fit: &FitConfig) -> bool {
        let figures = fs::read(self.out.join(format!("figures/{stage}.json")));
        let figures = figures.ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let steps = figures.and_then(|figures| figures["steps"].as_u64());
        let done = steps.is_some_and(|steps| steps >= fit.steps);
        if done {
            tracing::info!("{stage}: already in {}", self.out.display());
        }
        done
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
