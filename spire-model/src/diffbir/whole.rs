//! Both stages, from a degraded picture to the restored one.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use spire_core::Picture;
use spire_core::rng::rng;

use super::{FirstStage, IrControlNet, SecondStage, Settings, Version};
use crate::base::Prior;
use crate::clip::ClipGuide;
use crate::feedforward::{Network, NetworkKind};
use crate::finite::{is_finite, not_finite};
use crate::guidance::PromptStates;
use crate::nn::pixels::resize;
use crate::pictures;
use crate::restore::clip_guidance::ClipGuidance;
use crate::restore::{ColourFix, noise};
use crate::task::Task;

/// A DiffBIR that is ready to restore.
#[derive(Debug)]
pub struct DiffBir {
    version: Version,
    first: FirstStage,
    control: IrControlNet,
    prior: Prior,
    clip: Option<ClipGuide>,
    device: Device,
}

impl DiffBir {
    /// Loads the published files: `base` is a text-to-image model in any layout, `control` the checkpoint of the control branch,
    /// `first` the first stage's.
    ///
    /// # Errors
    /// A file can't be read, or does not hold what it should.
    pub fn load(
        version: Version,
        base: &Path,
        control: &Path,
        (kind, first): (NetworkKind, &Path),
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            version,
            first: FirstStage::new(kind, Network::load(kind, first, device).context("the first stage")?),
            control: IrControlNet::load(control, device)?,
            prior: Prior::load(base, device).context("the text-to-image model")?,
            clip: None,
            device: device.clone(),
        })
    }

    /// Loads the CLIP that guides, or unloads it for `None`.
    ///
    /// # Errors
    /// The folder is missing or does not hold a CLIP.
    pub fn guide_by(&mut self, clip: Option<&Path>) -> Result<()> {
        let load = |folder| ClipGuide::load(folder, &self.device).context("clip_guidance.clip");
        self.clip = clip.map(load).transpose()?;
        Ok(())
    }

    /// The restored picture. `settings` say what reads the task's prompt.
    ///
    /// # Errors
    /// A setting is out of range, the CLIP of `settings` is not loaded, or a network computes NaN or infinity.
    pub fn restore(&self, task: Task, settings: &Settings) -> Result<Picture> {
        let Task { degraded, size: (width, height), semantic, seed } = task;
        settings.validate()?;
        let size = [height, width];
        let image = pictures::to_unit_tensor([degraded], &self.device);
        let condition = self.first.restore(image, size, settings)?;
        let Prior { prompts, vae, scaling_factor, unet } = &self.prior;
        let encode = |prompt: &str| PromptStates {
            conditional: prompts.encode(&[prompt]),
            // Between equal prompts guidance changes nothing.
            unconditional: (prompt != settings.negative).then(|| prompts.encode(&[settings.negative.as_str()])),
        };
        let joined = |semantic: &str| {
            let parts = [semantic, settings.prompt.as_str()];
            parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
        };
        let clip = match &settings.clip_guidance {
            Some(guidance) => {
                let guide = self.clip.as_ref().context("clip_guidance is set, but no CLIP is loaded")?;
                let (scale, prediction) = (guidance.scale, self.version.prediction());
                Some(ClipGuidance { guide, scale, prediction, prompts: guide.prompts(&[semantic.to_owned()])? })
            }
            None => None,
        };
        let edits = settings.strength < 1.0;
        let own = if edits || clip.is_some() { joined("") } else { joined(semantic) };
        let stage =
            SecondStage { version: self.version, unet, vae, scaling_factor: *scaling_factor, control: &self.control };
        let mut random = rng(seed, "initial noise", 0);
        let mut draw =
            |[_, channels, height, width]: [usize; 4]| noise(&mut random, [channels, height, width], &self.device);
        let mut restored =
            stage.restore_guided(condition.clone(), &encode(&own), clip.as_ref(), settings, &mut draw)?;
        if edits {
            restored = stage.edit(restored.clamp(0.0, 1.0), &encode(&joined(semantic)), settings, &mut draw)?;
        }
        ensure!(is_finite(&restored), not_finite("the restored picture", restored.dtype()));
        let restored = finished(restored, &condition, settings.colour_fix, size);
        Ok(pictures::from_unit_tensor(restored).swap_remove(0))
    }
}

/// The last steps: `restored` with the colours of `condition`, both `[1, 3, height, width]` in \[0, 1\], resized to `size`,
/// height and width, and clamped.
pub fn finished(restored: Tensor<4>, condition: &Tensor<4>, fix: ColourFix, size: [usize; 2]) -> Tensor<4> {
    let device = restored.device();
    let of = |tensor: Tensor<4>| pictures::from_unit_tensor(tensor).swap_remove(0);
    let corrected = fix.apply_unclamped(of(restored), &of(condition.clone()));
    resize(pictures::to_unit_tensor([&corrected], &device), size).clamp(0.0, 1.0)
}
