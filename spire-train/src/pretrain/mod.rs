//! Pretraining of the small text-to-image model that the project ships: CLIP contrastively, then restoration prompts in its text
//! tower, the VAE, the UNet, what e(y) starts from, and the judge that says what a picture shows, on the illustrated world.
//!
//! Each stage writes its part of a Hugging Face folder. Under `training/STAGE` it has the files of a run: checkpoints, from
//! which it continues after an interruption, `metrics.jsonl`, TensorBoard, samples. A stage that is done is left out; with more
//! steps than before, it continues from its last checkpoint.

mod clip;
mod common;
mod embedding;
mod fit;
mod heat_map;
mod judge;
mod latents;
mod limits;
mod prompts;
mod unet;
mod vae;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use spire_core::atomic_write::write_atomic;
use spire_core::folder_lock::FolderLock;
use spire_core::settings::Keys;
use spire_data::degrade::DegradationConfig;
use spire_data::world::WorldConfig;

use common::{Common, create};

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
    /// A model folder with parts of these sizes to start from; unset, fresh weights.
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

impl Keys for PretrainConfig {}

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
    /// What all stages share.
    fn common(&self, overrides: &[String]) -> Common {
        Common {
            out: self.out.clone(),
            start: self.start.clone(),
            seed: self.seed,
            world: self.world.clone(),
            degradation: self.degradation.clone(),
            whole: self.clone(),
            overrides: overrides.to_vec(),
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
    /// The classifier of kinds.
    Judge,
    /// Denoiser; needs all before it.
    UNet,
    /// The control branch's e(y); needs the autoencoder.
    Embedding,
}

impl Stage {
    const ALL: [Self; 6] = [Self::Clip, Self::Prompts, Self::Vae, Self::Judge, Self::UNet, Self::Embedding];

    /// Its name in configurations, files and messages.
    fn name(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::Prompts => "prompts",
            Self::Vae => "vae",
            Self::Judge => "judge",
            Self::UNet => "unet",
            Self::Embedding => "embedding",
        }
    }
}

/// Runs `stages`, each unless it has been done with as many steps, and writes each one's figures to
/// `figures/{stage}.json` in `config.out`. `overrides` changed the configuration already; each start of a stage records
/// them. Returns whether all are done; if it is interrupted, it writes a checkpoint and stops.
///
/// # Errors
/// A number is out of range, the device is unknown, a configuration contradicts itself, another process uses `config.out`, a stage diverges, or a file
/// can't be written.
pub fn pretrain(
    config: &PretrainConfig,
    overrides: &[String],
    stages: &[Stage],
    interrupted: &AtomicBool,
) -> Result<bool> {
    limits::check(config, stages)?;
    let device = spire_model::device::device(&config.device)?;
    let _lock = FolderLock::take(&config.out)?;
    write_tokenizer(&config.out)?;
    create(&config.out.join("figures"))?;
    let common = config.common(overrides);
    for stage in stages {
        // Each stage starts from the same state, whether or not others ran before it.
        device.seed(config.seed);
        let done = match stage {
            Stage::Clip => clip::run(&common, &config.clip, &device, interrupted)?,
            Stage::Prompts => prompts::run(&common, &config.prompts, &device, interrupted)?,
            Stage::Vae => vae::run(&common, &config.vae, &device, interrupted)?,
            Stage::Judge => judge::run(&common, &config.judge, &device, interrupted)?,
            Stage::UNet => unet::run(&common, &config.unet, &device, interrupted)?,
            Stage::Embedding => embedding::run(&common, &config.embedding, &device, interrupted)?,
        };
        if !done {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_tokenizer(out: &Path) -> Result<()> {
    let folder = out.join("tokenizer");
    create(&folder)?;
    for (name, text) in spire_model::tokenizer::clip_files() {
        write_atomic(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}
