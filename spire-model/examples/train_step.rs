//! Trains a control branch for a few steps on one picture, with a model that the library carries:
//! `cargo run --release -p spire-model --example train_step`.

use anyhow::Result;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use spire_core::Picture;
use spire_model::base::{Base, locate};
use spire_model::control::{Control, ControlConfig};
use spire_model::fusion::Fusion;
use spire_model::pictures;
use spire_model::restore::initial_noise;
use spire_model::scheduler::NoiseSchedule;
use spire_model::spire::{DenoiserInputs, predict};
use spire_model::weights::Precision;

fn main() -> Result<()> {
    // The frozen model lives on the plain device, the branch on the one with autodiff.
    let device = Device::flex();
    let base = Base::load(&locate("tiny".as_ref())?, Precision::F32, &device)?;
    let config = ControlConfig::for_unet(&base.unet_config, Fusion::ModulateSkip, vec![8, 16, 32, 64]);
    let mut control = Control::from_unet(&config, &base.unet, &device.clone().autodiff())?;
    let mut adamw = AdamWConfig::new().init();

    // One sample: the clean picture, the degraded one and both prompts.
    let clean = pictures::to_tensor([&Picture::filled(64, 64, [0.8, 0.2, 0.1])], &device);
    let degraded = pictures::to_unit_tensor([&Picture::filled(64, 64, [0.6, 0.3, 0.2])], &device);
    let semantic = base.prompts.encode(&["a red square"]);
    let restoration = base.prompts.encode(&["Deblur with sigma 2.0"]);

    // Equation 1: predict the noise (or v) of a noisy latent at a timestep.
    let (schedule, timestep) = (NoiseSchedule::new(&base.scheduler)?, 400);
    let latent = base.encode_pictures(clean);
    let [_, channels, height, width] = latent.dims();
    let noise = initial_noise(0, [channels, height, width], &device);
    let noisy = schedule.add_noise(latent.clone(), noise.clone(), &[timestep])?;
    let target = schedule.target(latent, noise, &[timestep])?;
    let time = Tensor::<1>::from_floats([timestep as f32], &device);

    for step in 0..5 {
        let inputs = DenoiserInputs {
            sample: noisy.clone(),
            timestep: time.clone(),
            semantic: semantic.clone(),
            restoration: restoration.clone(),
            embedded: control.embed(degraded.clone()),
        };
        let predicted = predict(&base.unet, &control, inputs);
        let loss = (predicted - target.clone()).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &control);
        println!("step {step}: loss {:.5}", loss.into_scalar::<f32>());
        control = adamw.step(1e-3, control, gradients);
    }
    Ok(())
}
