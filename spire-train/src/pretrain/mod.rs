//! Pretraining of the small text-to-image model that the project ships: CLIP contrastively, then restoration prompts in its text
//! tower, the VAE, the UNet, what e(y) starts from, and the judge that says what a picture shows, on the illustrated world.
//!
//! Each stage writes its part of a Hugging Face folder. Under `training/STAGE` it has the files of a run: checkpoints, from
//! which it goes on after an interruption, `metrics.jsonl`, TensorBoard, samples. A stage that is done is left out; with more
//! steps than it was done with, it goes on from its last checkpoint.

mod clip;
mod embedding;
mod fit;
mod heat_map;
mod judge;
mod latents;
mod prompts;
mod unet;
mod vae;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};
use spire_data::degrade::DegradationConfig;
use spire_data::world::WorldConfig;
use spire_model::weights;

use spire_core::atomic_write::write_atomic;

pub use clip::ClipStage;
pub use embedding::EmbeddingStage;
pub use fit::FitConfig;
pub use judge::JudgeStage;
pub use prompts::PromptsStage;
pub use unet::UNetStage;
pub use vae::VaeStage;

/// `spire pretrain`'s configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// Where the model folder is written.
    pub out: PathBuf,
    /// A model folder with parts of these sizes to learn on from, without steps to measure; unset, fresh weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// Decides the initial weights, the scenes and the order.
    pub seed: u64,
    /// `flex`, `cuda:0`, …
    pub device: String,
    /// The scenes to learn from.
    pub world: WorldConfig,
    /// What degrades some of CLIP's pictures, and those of e(y).
    pub degradation: DegradationConfig,
    /// The text and image towers.
    pub clip: ClipStage,
    /// Restoration prompts in the text tower.
    pub prompts: PromptsStage,
    /// The autoencoder.
    pub vae: VaeStage,
    /// The denoiser.
    pub unet: UNetStage,
    /// What the control branch's e(y) may start from.
    pub embedding: EmbeddingStage,
    /// The classifier that says which kinds a picture shows.
    pub judge: JudgeStage,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            out: "runs/prior".into(),
            start: None,
            seed: 0,
            device: "flex".into(),
            world: WorldConfig::default(),
            degradation: DegradationConfig::default(),
            clip: ClipStage::default(),
            prompts: PromptsStage::default(),
            vae: VaeStage::default(),
            unet: UNetStage::default(),
            embedding: EmbeddingStage::default(),
            judge: JudgeStage::default(),
        }
    }
}

impl PretrainConfig {
    /// The weights that `part` starts from: `fresh`, or those in `start`.
    fn starting<M: Module>(&self, part: &str, fresh: M) -> Result<M> {
        match &self.start {
            Some(model) => Ok(weights::load(fresh, &model.join(part))?),
            None => Ok(fresh),
        }
    }

    /// Where `stage` keeps its checkpoints.
    fn training(&self, stage: &str) -> PathBuf {
        self.out.join("training").join(stage)
    }

    /// Whether `stage` has been done with this many steps.
    fn done(&self, stage: &str, fit: &FitConfig) -> bool {
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

/// The stages, in the order in which they need each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Text and image towers.
    Clip,
    /// What restoration prompts say, in the text tower; needs it.
    Prompts,
    /// Autoencoder.
    Vae,
    /// The classifier of kinds.
    Judge,
    /// Denoiser; needs all before it.
    UNet,
    /// The control branch's e(y); needs the autoencoder.
    Embedding,
}

/// Runs `stages`, each unless it has been done with as many steps, and writes each one's figures to
/// `figures/{stage}.json` in `config.out`. Says whether all were done: it stops after a checkpoint where it is interrupted.
///
/// # Errors
/// The device is unknown, a configuration contradicts itself, or a file can't be written.
pub fn pretrain(config: &PretrainConfig, stages: &[Stage], interrupted: &AtomicBool) -> Result<bool> {
    let device = spire_model::device::device(&config.device)?;
    write_tokenizer(&config.out)?;
    for stage in stages {
        // Each stage starts from the same state, whether or not others ran before it.
        device.seed(config.seed);
        let run = match stage {
            Stage::Clip => clip::run,
            Stage::Prompts => prompts::run,
            Stage::Vae => vae::run,
            Stage::UNet => unet::run,
            Stage::Embedding => embedding::run,
            Stage::Judge => judge::run,
        };
        if !run(config, &device, interrupted)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_tokenizer(out: &Path) -> Result<()> {
    let folder = out.join("tokenizer");
    create(&folder)?;
    for (name, text) in spire_model::tokenizer::CLIP_FILES {
        write_atomic(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Writes `config.json` and the weights, half precision.
fn write_part<M: Module>(
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

fn write_figures(out: &Path, stage: &str, figures: &serde_json::Value) -> Result<()> {
    let folder = out.join("figures");
    create(&folder)?;
    let text = serde_json::to_string_pretty(figures)?;
    tracing::info!("{stage}: {text}");
    write_atomic(&folder.join(format!("{stage}.json")), text.as_bytes())?;
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))
}

/// The device that a stage's weights are trained on.
fn training(device: &Device) -> Device {
    device.clone().autodiff()
}
