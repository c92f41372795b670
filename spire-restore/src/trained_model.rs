//! Finds and loads the model that restores: a run's, a base with a control branch, or the built-in one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use spire_core::checksum::sha256;
use spire_model::base::{Base, locate};
use spire_model::control::{self, Control, ControlConfig};
use spire_model::weights::{self, Precision, weights_file};
use spire_train::config::RunConfig;
use spire_train::run_folder::RunFolder;

use crate::restorer::Restorer;

/// The built-in model.
const BUILT_IN: &str = "assets/tiny";

/// A model that is found but not loaded.
#[derive(Debug)]
pub struct TrainedModel {
    /// The run's configuration; without a run, the defaults.
    pub config: RunConfig,
    control: PathBuf,
    origin: String,
}

impl TrainedModel {
    /// Finds the model of a run, or a base with a branch, or else the built-in model.
    ///
    /// # Errors
    /// The run or the branch does not exist.
    pub fn locate(run: Option<&Path>, base_and_control: Option<(&Path, &Path)>) -> Result<Self> {
        Ok(match (run, base_and_control) {
            (Some(run), _) => {
                let (folder, config) = RunFolder::open(run, &[])?;
                Self { config, control: folder.trained_control()?, origin: run.display().to_string() }
            }
            (None, Some((base, branch))) => {
                let mut config = RunConfig::default();
                config.model.base = base.to_owned();
                let origin = format!("{} with {}", base.display(), branch.display());
                Self { config, control: control::locate(branch)?, origin }
            }
            (None, None) => {
                let control = Path::new(BUILT_IN).join("control");
                Self { config: RunConfig::default(), control, origin: BUILT_IN.to_owned() }
            }
        })
    }

    /// SHA-256 of the branch's weights.
    ///
    /// # Errors
    /// They can't be read.
    pub fn checksum(&self) -> Result<String> {
        let file = weights_file(&self.control)?;
        let bytes = std::fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
        Ok(sha256(&bytes))
    }

    /// Loads the model. By default it uses the run's first device and the run's precision, or float32 if the device does not
    /// support that precision.
    ///
    /// # Errors
    /// A part can't be read, or the branch does not fit the base.
    pub fn load(self, device: Option<&str>, precision: Option<Precision>) -> Result<Restorer> {
        let Self { config, control, origin } = self;
        let first = config.run.device.split(',').next().unwrap_or_default();
        let device = spire_model::device::device(device.unwrap_or(first))?;
        let precision = precision.unwrap_or_else(|| supported(config.model.precision, &device, "the base"));
        let base = locate(&config.model.base)
            .and_then(|base| Base::load(&base, precision, &device))
            .with_context(|| format!("the text-to-image model of {origin}"))?;
        ControlConfig::read(&control)?.check_fits(&base.unet_config)?;
        // The weights on disk are float32 in any case.
        let precision = supported(config.model.control_precision, &device, "the branch");
        let control = weights::cast(Control::load(&control, &device)?, precision);
        Ok(Restorer { control, base, run: origin, trained: config.degradation.parameterized })
    }
}

/// `precision` if `device` supports it, or else float32 with a warning.
fn supported(precision: Precision, device: &Device, part: &str) -> Precision {
    if device.supports_dtype(precision.dtype()) {
        return precision;
    }
    tracing::warn!("this device does not support {precision}, which the run used: {part} computes in f32");
    Precision::F32
}
