//! CLIP guidance: a semantic prompt for a model that was trained without one (paper section 4.2, "+ CLIP").
//!
//! Each step moves the predicted clean latent along the gradient of the cosine between its picture and the prompt in CLIP's
//! space. The network's output is held fixed, so the UNet needs no backward pass. The gradient has unit root mean square, so
//! the scale means the same at every step.

use anyhow::{Result, ensure};
use burn::tensor::Tensor;

use crate::clip::ClipGuide;
use crate::scheduler::PredictionType;
use crate::scheduler::prediction::Rates;

/// CLIP guidance of one batch.
#[derive(Debug)]
pub(crate) struct ClipGuidance<'a> {
    pub guide: &'a ClipGuide,
    pub scale: f64,
    /// What the network predicts.
    pub prediction: PredictionType,
    /// `[batch, features]`, of unit length.
    pub prompts: Tensor<2>,
}

impl ClipGuidance<'_> {
    /// The network's `output` for the noisy latent `sample`, moved so that the clean latent it predicts shifts by
    /// `scale·√(1 − ᾱ_t)` in the direction of the prompts. `alpha_cumprod` is ᾱ_t; `decode` maps latents to pictures in
    /// \[-1, 1\].
    ///
    /// # Errors
    /// ᾱ_t is 0: a step of pure noise predicts no picture.
    pub fn apply(
        &self,
        output: Tensor<4>,
        sample: Tensor<4>,
        alpha_cumprod: f64,
        decode: impl Fn(Tensor<4>) -> Tensor<4>,
    ) -> Result<Tensor<4>> {
        let (signal, noise) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        ensure!(signal > 0.0, "CLIP guidance needs a predicted picture, and a step of pure noise predicts none");
        let clean = self.prediction.clean(output.clone(), sample, &Rates::scalar(signal, noise));
        let direction = self.guide.direction(decode, clean, self.prompts.clone())?;
        Ok(output + direction.mul_scalar(self.scale * self.prediction.output_per_clean(signal, noise)))
    }
}
