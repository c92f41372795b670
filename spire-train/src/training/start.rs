//! What a run starts from: the models that its configuration names, and the initial control branch.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use spire_data::loader::Samples;
use spire_model::base::{Base, locate_variant, unet_config};
use spire_model::builtin;
use spire_model::control::{self, ConditioningEmbedding, ConditioningRange, Control, ControlConfig};
use spire_model::weights;

use crate::config::{ModelSection, RunConfig, default_embedding_channels};

/// The configuration, validated, with absolute paths of its models, so that the run can be used from any folder. Models
/// on the Hugging Face Hub are downloaded.
pub(crate) fn with_models_located(mut config: RunConfig) -> Result<RunConfig> {
    config.validate()?;
    config.model.base = locate_variant(&config.model.base, config.model.variant.as_deref())?;
    if let Some(folder) = &mut config.model.control {
        *folder = control::locate(folder)?;
    }
    for folder in [&mut config.model.image_encoder, &mut config.model.embedding].into_iter().flatten() {
        *folder = existing_or_built_in(folder)?;
    }
    Ok(config)
}

/// As [`with_models_located`], for a new run: what is not set and follows the frozen model is set.
pub(crate) fn of_new_run(config: RunConfig) -> Result<RunConfig> {
    let mut config = with_models_located(config)?;
    let model = &mut config.model;
    if model.control.is_none() && model.embedding_channels.is_none() {
        model.embedding_channels = Some(default_embedding_channels(&unet_config(&model.base)?));
    }
    Ok(config)
}

/// The configuration with the steps that `train.epochs` takes on so many ranks, if it is set.
///
/// # Errors
/// The training data does not open.
pub(super) fn with_epochs_as_steps(mut config: RunConfig, ranks: usize) -> Result<RunConfig> {
    if let Some(epochs) = config.train.epochs {
        let samples = Samples::open(config.data.clone(), config.degradation.clone(), config.run.seed)?;
        let pictures = samples.epoch_len();
        config.train = config.train.with_epochs_as_steps(pictures, ranks);
        tracing::info!("train.epochs: {epochs} epochs of {pictures} pictures are {} steps", config.train.steps);
    }
    Ok(config)
}

/// The absolute path of a folder of a model, or of a part of the built-in model.
fn existing_or_built_in(folder: &Path) -> Result<PathBuf> {
    if !folder.exists()
        && let Some(built_in) = builtin::resolve(folder)?
    {
        return Ok(built_in);
    }
    folder.canonicalize().with_context(|| format!("there is no model folder {}", folder.display()))
}

/// The control branch that a run starts from, on `device`: the one in `model.control`, or else a copy of the UNet's
/// encoder.
pub(crate) fn initial_control(model: &ModelSection, base: &Base, device: &Device) -> Result<(ControlConfig, Control)> {
    let (config, control) = match &model.control {
        Some(folder) => (ControlConfig::read(folder)?, Control::load(folder, device)?),
        None => {
            let config = model.control_config(&base.unet_config);
            let mut control = Control::from_unet(&config, &base.unet, device)?;
            if let Some(folder) = &model.embedding {
                let latent_channels = base.unet_config.in_channels;
                let fresh = ConditioningEmbedding::fresh(&model.embedding_channels(), latent_channels, device)?;
                let range = ConditioningRange::of_embedding(folder)?;
                control = control.with_embedding(weights::load(fresh, folder)?, range);
            }
            (config, control)
        }
    };
    config.check_fits(&base.unet_config)?;
    Ok((config, control))
}
