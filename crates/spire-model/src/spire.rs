//! The whole denoiser (design section 1): the frozen UNet reads the semantic prompt, the control branch the degraded
//! picture and the restoration prompt, and fusion joins the two before the frozen decoder.

use std::path::Path;

use anyhow::Result;
use burn::tensor::{Device, Tensor};

use crate::control::{Control, ControlConfig};
use crate::unet::{UNet, UNetConfig};

/// A frozen UNet and its control branch.
#[derive(Clone, Debug)]
pub struct Spire {
    /// Frozen: keep it on a device without autodiff.
    pub unet: UNet,
    /// Trained.
    pub control: Control,
}

impl Spire {
    /// From a folder with `unet/` and `control/`.
    ///
    /// # Errors
    /// As [`UNet::load`] and [`Control::load`]; the two do not fit together.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        ControlConfig::read(&folder.join("control"))?.check_fits(&UNetConfig::read(&folder.join("unet"))?)?;
        Ok(Self {
            unet: UNet::load(&folder.join("unet"), device)?,
            control: Control::load(&folder.join("control"), device)?,
        })
    }

    /// The predicted noise (or velocity) `[batch, channels, height, width]`: see [`predict`].
    pub fn predict(
        &self,
        sample: Tensor<4>,
        timestep: Tensor<1>,
        semantic: Tensor<3>,
        restoration: Tensor<3>,
        degraded: Tensor<4>,
    ) -> Tensor<4> {
        predict(&self.unet, &self.control, sample, timestep, semantic, restoration, degraded)
    }
}

/// ε(zt, t, y, cr, cs): `sample` `[batch, channels, height, width]`, `timestep` `[batch]`, `semantic` and `restoration`
/// `[batch, tokens, width]`, `degraded` `[batch, 3, 8·height, 8·width]` in \[-1, 1\].
///
/// With the UNet's weights on a plain device and the control branch's under autodiff, the frozen encoder leaves no
/// graph behind: only the branch and the decoder that follows the fusion do.
pub fn predict(
    unet: &UNet,
    control: &Control,
    sample: Tensor<4>,
    timestep: Tensor<1>,
    semantic: Tensor<3>,
    restoration: Tensor<3>,
    degraded: Tensor<4>,
) -> Tensor<4> {
    let (semantic, restoration) = control.prompts().route(semantic, restoration);
    let time = unet.embed_time(timestep.clone());
    let frozen = unet.encode(sample.clone(), &time, &semantic);
    let features = control.features(sample, timestep, restoration, degraded);
    let (fused, up) = control.fuse(frozen, features);
    unet.decode(fused, up, &time, &semantic)
}
