//! What a run starts from: the models that its configuration names, and the initial control branch.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use spire_eval::evaluation::Metric;
use spire_model::base::{Base, locate_variant};
use spire_model::builtin;
use spire_model::control::{self, ConditioningEmbedding, ConditioningRange, Control, ControlConfig};
use spire_model::weights;

use crate::config::{ModelSection, RunConfig};

/// The configuration, validated, with absolute paths of its models, so that the run can be used from any folder. Models
/// on the Hugging Face Hub are downloaded.
pub(crate) fn with_models_located(mut config: RunConfig) -> Result<RunConfig> {
    config.validate()?;
    if let Some(folder) = config.data.encoded.as_mut().filter(|folder| folder.exists()) {
        *folder = folder.canonicalize().with_context(|| format!("data.encoded = \"{}\"", folder.display()))?;
    }
    config.model.base = locate_variant(&config.model.base, config.model.variant.as_deref())?;
    if let Some(folder) = &mut config.model.control {
        *folder = control::locate(folder)?;
    }
    for folder in [&mut config.model.image_encoder, &mut config.model.embedding].into_iter().flatten() {
        *folder = existing_or_built_in(folder)?;
    }
    let validate = &mut config.validate;
    let measures = |metrics: &[Metric]| validate.samples > 0 && metrics.iter().any(|it| validate.metrics.contains(it));
    let (of_clip, of_judge) = (measures(&[Metric::ClipI, Metric::ClipT]), measures(&[Metric::Identity]));
    for (folder, _) in [(&mut validate.clip, of_clip), (&mut validate.judge, of_judge)].into_iter().filter(|it| it.1) {
        *folder = existing_or_built_in(folder)?;
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
