//! Which model restores: a run's, a base with a control branch, or the one that comes with the program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use spire_data::checksum::sha256;
use spire_model::base::{Base, locate};
use spire_model::control::{self, Control, ControlConfig};
use spire_model::weights::{self, Precision, weights_file};

use crate::config::RunConfig;
use crate::restore_files::Restorer;
use crate::run_folder::RunFolder;

/// The model that comes with the program.
const BUILT_IN: &str = "assets/tiny";

/// Where a model is, before any of it is loaded.
#[derive(Debug)]
pub struct TrainedModel {
    /// The run's configuration, or the default with the base.
    pub config: RunConfig,
    control: PathBuf,
    origin: String,
}

impl TrainedModel {
    /// Of a run, of a base and a branch, or of none: the one that comes with the program.
    ///
    /// # Errors
    /// The run or the branch is not there.
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

    /// Loads it, on the run's (first) device and in its precision where these are not given; where the device does not compute
    /// in the run's precision, in 32 bits.
    ///
    /// # Errors
    /// A part can't be read, or the branch does not fit the base.
    pub fn load(self, device: Option<&str>, precision: Option<Precision>) -> Result<Restorer> {
        let Self { config, control, origin } = self;
        let first = config.run.device.split(',').next().unwrap_or_default();
        let device = spire_model::device::device(device.unwrap_or(first))?;
        let precision = precision.unwrap_or_else(|| possible(config.model.precision, &device, "the base"));
        let base = locate(&config.model.base)
            .and_then(|base| Base::load(&base, precision, &device))
            .with_context(|| format!("the text-to-image model of {origin}"))?;
        ControlConfig::read(&control)?.check_fits(&base.unet_config)?;
        // Its weights have 32 bits, whatever it computed in where it was trained.
        let precision = possible(config.model.control_precision, &device, "the branch");
        let control = weights::cast(Control::load(&control, &device)?, precision);
        Ok(Restorer { control, base, run: origin, trained: config.degradation.parameterized })
    }
}

/// The precision of a run, or 32 bits where another device than the run's does not compute in it, which is said.
fn possible(precision: Precision, device: &Device, part: &str) -> Precision {
    if device.supports_dtype(precision.dtype()) {
        return precision;
    }
    tracing::warn!("this device does not compute in {precision}, as the run did: {part} computes in f32");
    Precision::F32
}
