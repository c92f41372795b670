//! Finds and loads the model that restores: a run's, a base with a control branch, or the built-in one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use spire_data::degrade::{DegradationConfig, ParameterizedConfig};
use spire_model::base::{self, Base, LongPrompts, locate_variant};
use spire_model::builtin;
use spire_model::control::{self, Control, ControlConfig};
use spire_model::model_file::ModelFile;
use spire_model::restore::SamplingConfig;
use spire_model::weights::checksum::checksum;
use spire_model::weights::{self, Precision, weights_file};
use spire_train::config::RunConfig;
use spire_train::run_folder::RunFolder;

use crate::provenance::ModelIdentity;
use crate::restorer::Restorer;

/// The built-in model that restores by default, as a path in the repository.
const BUILT_IN: &str = "assets/small";

/// A model that is found but not loaded.
#[derive(Debug)]
pub struct TrainedModel {
    /// Default sampling settings.
    pub sampling: SamplingConfig,
    /// Pictures that are restored together.
    pub batch_size: usize,
    base: PathBuf,
    variant: Option<String>,
    control: PathBuf,
    precision: Precision,
    control_precision: Precision,
    long_prompts: LongPrompts,
    /// The ranges of the degradations on which the branch was trained.
    pub trained: ParameterizedConfig,
    /// The device of its run, the first if there are several.
    pub device: String,
    /// Where the model comes from, for the provenance.
    origin: String,
}

impl TrainedModel {
    /// Finds the model of a run; or a branch with `base`, or with the base that its own `model.toml` names; or else the
    /// built-in model.
    ///
    /// # Errors
    /// The run or the branch does not exist, or nothing names the branch's base.
    pub fn locate(run: Option<&Path>, base: Option<&Path>, control: Option<&Path>) -> Result<Self> {
        if let Some(run) = run {
            return Self::of_run(run);
        }
        match (base, control) {
            (Some(base), Some(branch)) => {
                let origin = format!("{} with {}", base.display(), branch.display());
                let found = Self::of_branch(base, control::locate(branch)?, origin)?;
                Ok(Self { base: base.to_owned(), ..found })
            }
            (None, Some(branch)) => {
                let control = control::locate(branch)?;
                let model = ModelFile::of(&control)?.with_context(|| {
                    format!(
                        "the branch {} has no model.toml that names its base: name it with --base",
                        branch.display()
                    )
                })?;
                Self::described(model, control, branch.display().to_string())
            }
            (Some(base), None) => bail!("the base {} needs a control branch", base.display()),
            (None, None) => {
                let control = control::locate(&Path::new(BUILT_IN).join("control"))?;
                Self::of_branch(Path::new(BUILT_IN), control, BUILT_IN.to_owned())
            }
        }
    }

    /// The model of a run folder. A folder without the run's configuration has to hold `control/` and `model.toml`.
    fn of_run(run: &Path) -> Result<Self> {
        let origin = run.display().to_string();
        let folder = RunFolder::at(run);
        if !folder.config_file().is_file()
            && let Some(model) = ModelFile::of(&folder.control())?
        {
            return Self::described(model, folder.control(), origin);
        }
        let (folder, config) = RunFolder::open(run, &[])?;
        Self::configured(config, folder.trained_control()?, origin)
    }

    /// A branch with its `model.toml`, if there is one; otherwise `base` and the defaults.
    fn of_branch(base: &Path, control: PathBuf, origin: String) -> Result<Self> {
        if let Some(model) = ModelFile::of(&control)? {
            return Self::described(model, control, origin);
        }
        let mut config = RunConfig::default();
        config.model.base = base.to_owned();
        // What it was trained on is unknown; the paper's ranges are the widest.
        config.degradation = DegradationConfig::default();
        Self::configured(config, control, origin)
    }

    fn configured(config: RunConfig, control: PathBuf, origin: String) -> Result<Self> {
        let first_device = config.devices().next().unwrap_or_default().to_owned();
        Ok(Self {
            sampling: config.evaluate.sampling,
            batch_size: config.evaluate.batch_size,
            base: config.model.base,
            variant: config.model.variant,
            control,
            precision: config.model.precision,
            control_precision: config.model.control_precision,
            long_prompts: config.model.long_prompts,
            trained: config.degradation.parameterized,
            device: first_device,
            origin,
        })
    }

    fn described(model: ModelFile, control: PathBuf, origin: String) -> Result<Self> {
        let trained = model.trained.try_into().with_context(|| format!("[trained] in the model.toml of {origin}"))?;
        let defaults = RunConfig::default();
        Ok(Self {
            sampling: model.sampling,
            batch_size: defaults.evaluate.batch_size,
            base: model.base,
            variant: model.variant,
            control,
            precision: model.precision,
            control_precision: model.control_precision,
            long_prompts: model.long_prompts,
            trained,
            device: defaults.run.device,
            origin,
        })
    }

    /// Checks that the branch has weights.
    ///
    /// # Errors
    /// It has none.
    pub fn check(&self) -> Result<()> {
        weights_file(&self.control).map(|_| ())
    }

    /// Whether the text-to-image model is a built-in one, which knows only the illustrated world.
    ///
    /// # Errors
    /// The base does not exist.
    pub fn is_built_in(&self) -> Result<bool> {
        Ok(builtin::is_built_in(&locate_variant(&self.base, self.variant.as_deref())?))
    }

    /// Loads the model. By default it uses the run's first device and the run's precision, or float32 if the device
    /// does not support that precision.
    ///
    /// # Errors
    /// A part can't be read, or the branch does not fit the base.
    pub fn load(&self, device: Option<&str>, precision: Option<Precision>) -> Result<Restorer> {
        let device = spire_model::device::device(device.unwrap_or(&self.device))?;
        let precision = precision.unwrap_or_else(|| supported(self.precision, &device, "the base"));
        let of_origin = || format!("the text-to-image model of {}", self.origin);
        let variant = self.variant.as_deref();
        let folder = locate_variant(&self.base, variant).with_context(of_origin)?;
        let mut base = Base::load_variant(&folder, variant, precision, &device).with_context(of_origin)?;
        base.prompts.set_long_prompts(self.long_prompts);
        ControlConfig::read(&self.control)?.check_fits(&base.unet_config)?;
        // The weights on disk are float32 in any case.
        let control_precision = supported(self.control_precision, &device, "the branch");
        let control = weights::cast(Control::load(&self.control, &device)?, control_precision);
        let identity = ModelIdentity {
            base_sha256: base::checksum(&folder)?,
            control_sha256: checksum(&self.control, &[""])?,
            clip_sha256: None,
            precision,
            control_precision,
        };
        tracing::debug!(
            "base {} in {precision}, SHA-256 {}; branch {} in {control_precision}, SHA-256 {}",
            folder.display(),
            identity.base_sha256,
            self.control.display(),
            identity.control_sha256
        );
        Ok(Restorer { control, base, run: self.origin.clone(), trained: self.trained.clone(), identity })
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
