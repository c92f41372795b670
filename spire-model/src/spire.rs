//! The whole denoiser (paper sections 3.2 to 3.4): the frozen UNet reads the semantic prompt, the control branch the degraded picture
//! and the restoration prompt, and fusion joins the two before the frozen decoder.

use std::path::Path;

use anyhow::Result;
use burn::tensor::{Device, Tensor};

use crate::control::{Control, ControlConfig, ControlFeatures};
use crate::nn::{cores, repeat_batch};
use crate::unet::{UNet, UNetConfig};

/// A frozen UNet and its control branch.
#[derive(Clone, Debug)]
pub struct Spire {
    /// The frozen UNet; keep it on a device without autodiff.
    pub unet: UNet,
    /// The trained branch.
    pub control: Control,
}

impl Spire {
    /// Loads a folder with `unet/` and `control/`.
    ///
    /// # Errors
    /// As [`UNet::load`] and [`Control::load`], or the two do not fit together.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        ControlConfig::read(&folder.join("control"))?.check_fits(&UNetConfig::read(&folder.join("unet"))?)?;
        Ok(Self {
            unet: UNet::load(&folder.join("unet"), device)?,
            control: Control::load(&folder.join("control"), device)?,
        })
    }

    /// The predicted noise (or velocity) `[batch, channels, height, width]`: see [`predict`]; `degraded` is
    /// `[batch, 3, 8·height, 8·width]` in the range in which the branch reads pictures.
    pub fn predict(
        &self,
        sample: Tensor<4>,
        timestep: Tensor<1>,
        semantic: Tensor<3>,
        restoration: Tensor<3>,
        degraded: Tensor<4>,
    ) -> Tensor<4> {
        let embedded = self.control.embed_values(degraded);
        let inputs = DenoiserInputs { sample, timestep, semantic, restoration, embedded };
        predict(&self.unet, &self.control, inputs)
    }
}

/// What the denoiser reads.
#[derive(Clone, Debug)]
pub struct DenoiserInputs {
    /// zt, `[batch, channels, height, width]`.
    pub sample: Tensor<4>,
    /// t, `[batch]`.
    pub timestep: Tensor<1>,
    /// The states of cs, `[passes · batch, tokens, width]`.
    pub semantic: Tensor<3>,
    /// The states of cr, `[batch, tokens, width]`.
    pub restoration: Tensor<3>,
    /// e(y) as [`Control::embed`] returns it.
    pub embedded: Tensor<4>,
}

/// ε(zt, t, y, cr, cs), or v, `[passes · batch, channels, height, width]`.
///
/// The guidance passes differ only in the semantic prompt. If the branch ignores it, its features are the same for all
/// passes and computed once.
///
/// With a [`Control::scale`] of 0 the frozen UNet predicts alone, and the branch is not computed.
///
/// Keep the UNet's weights on a device without autodiff and the control branch's on one with it: then the graph contains
/// the branch and the decoder after the fusion, but not the frozen encoder.
pub fn predict(unet: &UNet, control: &Control, inputs: DenoiserInputs) -> Tensor<4> {
    let DenoiserInputs { sample, timestep, semantic, restoration, embedded } = inputs;
    let batch = sample.dims()[0];
    let (semantic, context) = control.prompts().route(semantic, restoration);
    let passes = semantic.dims()[0] / batch;
    let time = repeat_batch(unet.embed_time(timestep.clone()), passes);
    let of_all_passes = repeat_batch(sample.clone(), passes);
    let encode = || unet.encode(of_all_passes, &time, &semantic);
    if control.scale() == 0.0 {
        return unet.decode(encode(), None, &time, &semantic);
    }
    // On a CPU the frozen encoder and the branch, which do not need each other, share the cores.
    let branch = || features(control, sample.clone(), timestep, context, embedded);
    let (features, frozen) = cores::both(&sample, branch, encode);
    let (fused, up) = control.fuse(frozen, features);
    unet.decode(fused, up, &time, &semantic)
}

/// The branch's features for the guidance passes of `context`, which may be more than the batch of `sample`.
fn features(
    control: &Control,
    sample: Tensor<4>,
    timestep: Tensor<1>,
    context: Tensor<3>,
    embedded: Tensor<4>,
) -> ControlFeatures {
    let passes = context.dims()[0] / sample.dims()[0];
    let [sample, embedded] = [sample, embedded].map(|x| repeat_batch(x, passes));
    control.features(sample, repeat_batch(timestep, passes), context, embedded)
}

/// The branch's features alone, with the inputs of [`predict`]: to find out which part of the model failed.
pub(crate) fn branch_features(control: &Control, inputs: DenoiserInputs) -> Vec<Tensor<4>> {
    let DenoiserInputs { sample, timestep, semantic, restoration, embedded } = inputs;
    let (_, context) = control.prompts().route(semantic, restoration);
    let ControlFeatures { mut down, mid } = features(control, sample, timestep, context, embedded);
    down.push(mid);
    down
}
