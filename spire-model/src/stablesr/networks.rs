//! A restoration by StableSR's networks, as its script for pictures of any size makes it.

use anyhow::Result;
use burn::tensor::Tensor;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

use super::{Decoder, Settings, StructureEncoder};
use crate::aggregation::{Aggregation, DOWNSCALE};
use crate::nn::pixels::{Mirror, extend, resize};
use crate::pictures;
use crate::scheduler::PredictionType;
use crate::scheduler::spaced::{LAST, SpacedSampler};
use crate::unet::UNet;
use crate::vae::Vae;

/// The sides are padded to multiples of this many pixels.
const MULTIPLE: usize = 32;

/// StableSR's networks.
#[derive(Clone, Copy, Debug)]
pub struct Networks<'a> {
    unet: &'a UNet,
    vae: &'a Vae,
    scaling_factor: f64,
    structure: &'a StructureEncoder,
    decoder: &'a Decoder,
}

impl<'a> Networks<'a> {
    /// The UNet, which `structure` modulates; the VAE that encodes, with the factor of its latents; the decoder.
    pub fn new(
        unet: &'a UNet,
        vae: &'a Vae,
        scaling_factor: f64,
        structure: &'a StructureEncoder,
        decoder: &'a Decoder,
    ) -> Self {
        Self { unet, vae, scaling_factor, structure, decoder }
    }

    /// The restored picture `[1, 3, size]` of `degraded` `[1, 3, height, width]`, both in \[0, 1\]; `size` is its height and
    /// width. `context` are the prompt's states `[1, tokens, width]`. `noise` draws standard normal noise of a shape: first for
    /// the latent, then for the start, then for each step.
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn restore(
        &self,
        degraded: Tensor<4>,
        size: [usize; 2],
        context: &Tensor<3>,
        settings: &Settings,
        noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
    ) -> Result<Tensor<4>> {
        settings.validate()?;
        let enlarged = enlarged(degraded, size, settings.shortest_side);
        let [_, channels, height, width] = enlarged.dims();
        let enlarged = extend(enlarged, padded([height, width]), Mirror::WithoutEdge);
        let [_, _, rows, columns] = enlarged.dims();
        let windows = Aggregation::new([rows / DOWNSCALE, columns / DOWNSCALE], settings.tile, settings.tile / 2);

        let condition = self.encode(&enlarged, &windows, noise);
        let sampler = SpacedSampler::new(PredictionType::Epsilon, false, settings.steps)?;
        let shape = condition.dims();
        let mut latent = sampler.noisy(condition.clone(), noise(shape), LAST);
        for (i, timestep) in sampler.timesteps().enumerate() {
            let output = windows.denoise(|window| {
                let time = Tensor::full([1], timestep as f32, &latent.device());
                let structure = self.structure.forward(window.cut(&condition, 1), time.clone());
                self.unet.forward_modulated(window.cut(&latent, 1), time, context, &structure)
            });
            let clean = sampler.clean(i, output, latent.clone());
            latent = sampler.step(i, clean, latent, noise(shape));
        }
        let decoded = windows.decode(|window| {
            let latent = window.cut(&latent, 1).div_scalar(self.scaling_factor);
            self.decoder.decode(latent, window.cut(&enlarged, DOWNSCALE), settings.decoder_weight)
        });

        let device = decoded.device();
        let of = |tensor: Tensor<4>| pictures::from_unit_tensor(tensor).swap_remove(0);
        let corrected = settings.colour_fix.apply_unclamped(of(decoded), &of(enlarged));
        let restored = pictures::to_unit_tensor([&corrected], &device).add_scalar(1.0).div_scalar(2.0);
        let restored = restored.clamp(0.0, 1.0).slice([0..1, 0..channels, 0..height, 0..width]);
        Ok(resize(restored, size).clamp(0.0, 1.0))
    }

    /// A sample of the latent's distribution.
    fn encode(
        &self,
        picture: &Tensor<4>,
        windows: &Aggregation,
        noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
    ) -> Tensor<4> {
        let moments = windows.encode(picture, |part| {
            let (mean, logvar) = self.vae.encode(part);
            Tensor::cat(vec![mean, logvar], 1)
        });
        let halves = moments.chunk(2, 1);
        let (mean, deviation) = (halves[0].clone(), halves[1].clone().div_scalar(2.0).exp());
        let shape = mean.dims();
        (mean + deviation * noise(shape)).mul_scalar(self.scaling_factor)
    }
}

/// The picture in \[-1, 1\] of `size`, or larger in the same proportions if it is too small for the model.
fn enlarged(degraded: Tensor<4>, [height, width]: [usize; 2], shortest: usize) -> Tensor<4> {
    let scale = (shortest as f64 / height.min(width) as f64).max(1.0);
    let size = [height, width].map(|side| (side as f64 * scale).round() as usize);
    let signed = degraded.mul_scalar(2.0).sub_scalar(1.0);
    let [_, _, height, width] = signed.dims();
    if [height, width] == size {
        return signed;
    }
    let options = InterpolateOptions::new(InterpolateMode::Bicubic).with_align_corners(false);
    interpolate(signed, options.with_output_size(size)).clamp(-1.0, 1.0)
}

/// The sides to which the original script pads: if one is not a multiple, both grow.
fn padded(size: [usize; 2]) -> [usize; 2] {
    if size.iter().all(|side| side.is_multiple_of(MULTIPLE)) {
        return size;
    }
    size.map(|side| (side / MULTIPLE + 1) * MULTIPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_padded_as_in_the_original_script() {
        assert_eq!(padded([512, 544]), [512, 544]);
        assert_eq!(padded([512, 545]), [544, 576]);
        assert_eq!(padded([1, 31]), [32, 32]);
    }
}
