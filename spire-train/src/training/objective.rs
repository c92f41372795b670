//! The training objective (paper Eq. 1).
//!
//! ```text
//! L = E ‖ ε − ε_θ(z_t, t, c_s, c_r, y) ‖²,   z_t = √ᾱ_t · z_0 + √(1 − ᾱ_t) · ε
//! ```
//!
//! z_0 is the latent of the clean picture, ε the noise, t the timestep, c_s the semantic prompt, c_r the restoration
//! prompt and y the degraded picture. The UNet is frozen; θ is the control branch. With `v_prediction` the target is v
//! instead of ε.

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use spire_core::rng::rng;
use spire_data::loader::TrainingSample;
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::pictures;
use spire_model::restore::noise;
use spire_model::scheduler::NoiseSchedule;
use spire_model::spire::{DenoiserInputs, predict};
use spire_model::unet::UNet;

use crate::encoding;

/// The network's inputs for one batch, and the target of its prediction. Nothing here has a gradient.
#[derive(Clone)]
pub(crate) struct DenoisingBatch {
    /// z_t, `[batch, channels, height / 8, width / 8]`.
    pub noisy: Tensor<4>,
    /// ε or v, of the same shape.
    pub target: Tensor<4>,
    /// t, `[batch]`.
    pub timesteps: Tensor<1>,
    /// Text encoder states of c_s, `[batch, tokens, channels]`.
    pub semantic: Tensor<3>,
    /// Text encoder states of c_r, `[batch, tokens, channels]`.
    pub restoration: Tensor<3>,
    /// y, `[batch, 3, height, width]`, values in [0, 1].
    pub degraded: Tensor<4>,
    /// The weight of each sample's squared error, `[batch, 1, 1, 1]`; `None` for 1.
    pub weights: Option<Tensor<4>>,
}

impl DenoisingBatch {
    /// Draws a timestep and noise for each sample, from `seed` and the sample's number. `latents` has z_0 of each
    /// sample, `[1, channels, height / 8, width / 8]`. With `min_snr_gamma` the loss is weighted by the timestep.
    pub fn new(
        base: &Base,
        schedule: &NoiseSchedule,
        batch: &[TrainingSample],
        latents: Vec<Tensor<4>>,
        seed: u64,
        min_snr_gamma: Option<f32>,
        device: &Device,
    ) -> Result<Self> {
        let clean = Tensor::cat(latents, 0);
        let [_, channels, height, width] = clean.dims();
        let (mut timesteps, mut noises) = (Vec::new(), Vec::new());
        for sample in batch {
            let mut rng = rng(seed, "diffusion", sample.n);
            timesteps.push(rng.random_range(0..schedule.num_train_timesteps()));
            noises.push(noise(&mut rng, [channels, height, width], device));
        }
        let noise = Tensor::cat(noises, 0);
        let texts = |prompt: fn(&TrainingSample) -> &str, which: usize| -> Result<Tensor<3>> {
            let known = batch.iter().map(|sample| {
                let states = sample.encoded.as_ref().and_then(|encoded| encoded.texts[which].as_ref());
                Ok((prompt(sample), states.map(|states| encoding::tensor(states, device)).transpose()?))
            });
            Ok(base.prompts.encode_known(known.collect::<Result<Vec<_>>>()?))
        };
        let times: Vec<f32> = timesteps.iter().map(|&timestep| timestep as f32).collect();
        Ok(Self {
            noisy: schedule.add_noise(clean.clone(), noise.clone(), &timesteps)?,
            target: schedule.target(clean, noise, &timesteps)?,
            timesteps: Tensor::from_floats(times.as_slice(), device),
            semantic: texts(|sample| &sample.semantic, 0)?,
            restoration: texts(|sample| &sample.restoration, 1)?,
            weights: min_snr_gamma.map(|gamma| {
                let all = schedule.min_snr_weights(gamma);
                let weights: Vec<f32> = timesteps.iter().map(|&timestep| all[timestep]).collect();
                Tensor::from_data(TensorData::new(weights, [batch.len(), 1, 1, 1]), device)
            }),
            degraded: pictures::to_unit_tensor(batch.iter().map(|sample| &sample.degraded), device),
        })
    }

    /// The loss: the mean squared error of the prediction, weighted if the batch has weights, `[1]`.
    pub fn loss(self, unet: &UNet, control: &Control) -> Tensor<1> {
        let inputs = DenoiserInputs {
            sample: self.noisy,
            timestep: self.timesteps,
            semantic: self.semantic,
            restoration: self.restoration,
            embedded: control.embed(self.degraded),
        };
        let predicted = predict(unet, control, inputs);
        let errors = (predicted - self.target).square();
        match self.weights {
            Some(weights) => (errors * weights).mean(),
            None => errors.mean(),
        }
    }
}
