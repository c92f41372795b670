//! Pretraining of the small text-to-image model that the project ships: CLIP contrastively, then restoration prompts in its text
//! tower, the VAE, the UNet, and what e(y) starts from, on the drawn world. Each stage writes its part of a Hugging Face folder
//! and leaves out what is already there, so an interrupted pretraining goes on with the stage that it was in.

mod clip;
mod embedding;
mod fit;
mod prompts;
mod unet;
mod vae;

use std::fs;
use std::path::{Path, PathBuf};

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
    /// Denoiser; needs all before it.
    UNet,
    /// The control branch's e(y); needs the autoencoder.
    Embedding,
}

/// Runs `stages`, each unless its weights are already in `config.out`, and writes each one's figures to
/// `figures/{stage}.json` there.
///
/// # Errors
/// The device is unknown, a configuration contradicts itself, or a file can't be written.
pub fn pretrain(config: &PretrainConfig, stages: &[Stage]) -> Result<()> {
    let device = spire_model::device::device(&config.device)?;
    write_tokenizer(&config.out)?;
    for stage in stages {
        // Each stage starts from the same state, whether or not others ran before it.
        device.seed(config.seed);
        match stage {
            Stage::Clip => clip::run(config, &device)?,
            Stage::Prompts => prompts::run(config, &device)?,
            Stage::Vae => vae::run(config, &device)?,
            Stage::UNet => unet::run(config, &device)?,
            Stage::Embedding => embedding::run(config, &device)?,
        }
    }
    Ok(())
}

fn write_tokenizer(out: &Path) -> Result<()> {
    let folder = out.join("tokenizer");
    create(&folder)?;
    for (name, text) in spire_model::tokenizer::CLIP_FILES {
        write_atomic(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Whether the stage that writes `folder` is done.
fn done(folder: &Path) -> bool {
    weights::weights_file(folder).is_ok()
}

/// Writes `config.json` and the weights, half precision, the weights last: they say that the stage is done.
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
