//! Restoration in a few lines: a frozen model and a control branch, loaded together.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use spire_core::Picture;

use crate::base::{self, Base, LongPrompts};
use crate::builtin;
use crate::control::{self, Control, ControlConfig};
use crate::model_file::ModelFile;
use crate::restore::{Request, SamplingConfig, restore};
use crate::weights::{self, Precision};

/// A frozen text-to-image model with a trained control branch.
///
/// ```no_run
/// use burn::tensor::Device;
/// use spire_core::Picture;
/// use spire_model::Pipeline;
///
/// # fn main() -> anyhow::Result<()> {
/// let pipeline = Pipeline::load("tiny", "tiny/control", &Device::flex())?;
/// let degraded = Picture::open("degraded.png")?;
/// let restored = pipeline.restore(&degraded, "a panda", "Deblur with sigma 2.0", 0)?;
/// restored.save_png("restored.png")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pipeline {
    /// The frozen model.
    pub base: Base,
    /// The trained branch.
    pub control: Control,
    /// How pictures are sampled. Change `clip_guidance` only through [`Self::with_sampling`], which loads the CLIP.
    pub sampling: SamplingConfig,
}

impl Pipeline {
    /// Loads a base and a branch in f32, each given as a path, as a repository on the Hugging Face Hub, or as a built-in model:
    /// `tiny` and `tiny/control`. The sampling settings are those of a `model.toml` beside the branch, or the defaults.
    ///
    /// # Errors
    /// A part is missing or unreadable, or the branch does not fit the base.
    pub fn load(base: impl AsRef<Path>, control: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let control = control::locate(control.as_ref())?;
        let model = ModelFile::of(&control)?;
        let (sampling, long) = model.map(|model| (model.sampling, model.long_prompts)).unwrap_or_default();
        let base = Base::load(&base::locate(base.as_ref())?, Precision::F32, device)?;
        Self::assemble(base, &control, Precision::F32, long, sampling)
    }

    /// Loads a run: a folder with `control/` and `model.toml`, which names the base, its precision and the sampling settings.
    ///
    /// # Errors
    /// As [`Self::load`]; or there is no `model.toml`, or the device does not compute in its precision.
    pub fn open(run: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let run = run.as_ref();
        let control = run.join("control");
        let model = ModelFile::of(&control)?
            .with_context(|| format!("{} has no model.toml, which names the base model", run.display()))?;
        let variant = model.variant.as_deref();
        let base = base::locate_variant(&model.base, variant)?;
        let base = Base::load_variant(&base, variant, model.precision, device)?;
        Self::assemble(base, &control, model.control_precision, model.long_prompts, model.sampling)
    }

    /// Loads the model [`builtin::SMALL`], which the library carries. It knows pictures of 128×128 pixels of the illustrated world.
    ///
    /// # Errors
    /// The model cannot be unpacked; see [`builtin::folder`].
    pub fn built_in(device: &Device) -> Result<Self> {
        let folder = builtin::folder(builtin::SMALL)?;
        Self::load(&folder, folder.join("control"), device)
    }

    fn assemble(
        mut base: Base,
        control: &Path,
        control_precision: Precision,
        long_prompts: LongPrompts,
        sampling: SamplingConfig,
    ) -> Result<Self> {
        base.prompts.set_long_prompts(long_prompts);
        ControlConfig::read(control)?.check_fits(&base.unet_config)?;
        let device = base.device();
        let control = weights::cast(Control::load(control, &device)?, control_precision);
        Self { base, control, sampling: SamplingConfig::default() }.with_sampling(sampling)
    }

    /// The pipeline with other sampling settings. Loads the CLIP of `sampling.clip_guidance` if it is set.
    ///
    /// # Errors
    /// A setting is out of range, or the CLIP is missing.
    pub fn with_sampling(mut self, sampling: SamplingConfig) -> Result<Self> {
        sampling.validate()?;
        self.base.guide_by(sampling.clip_guidance.as_ref())?;
        self.sampling = sampling;
        Ok(self)
    }

    /// Restores one picture of any size. `semantic` describes what the picture shows and may be empty; `restoration` says
    /// what to undo, for example `Deblur with sigma 2.0; Denoise` or `Remove all degradation`. The same `seed` gives the same
    /// result.
    ///
    /// # Errors
    /// As [`restore`].
    pub fn restore(&self, degraded: &Picture, semantic: &str, restoration: &str, seed: u64) -> Result<Picture> {
        let request =
            Request { degraded: degraded.clone(), semantic: semantic.into(), restoration: restoration.into(), seed };
        let mut restored = self.restore_batch(&[request])?;
        ensure!(restored.len() == 1, "one picture was to be restored, not {}", restored.len());
        Ok(restored.remove(0))
    }

    /// Restores pictures of one size in one batch, in the order of `requests`.
    ///
    /// # Errors
    /// As [`restore`].
    pub fn restore_batch(&self, requests: &[Request]) -> Result<Vec<Picture>> {
        restore(&self.base, &self.control, &self.sampling, requests)
    }
}
