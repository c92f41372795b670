//! Cases of noise schedules and samplers.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use spire_model::scheduler::{NoiseSchedule, SchedulerConfig};

use super::case::{Case, Outputs, Worst, compare, relative_maximum};
use crate::arrays::Array;

/// `in.noise`, the initial latent (already scaled), and `in.model_output.{i}` to `out.timesteps`, `out.model_input.{i}`
/// and `out.latent.{i}`. A stochastic sampler also reads `in.step_noise.{i}`, standard normal.
pub fn sampler(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let config = SchedulerConfig::from_file(case.weights()?)?;
    let mut sampler = config.sampler()?.build(&config, case.steps()?)?;
    let timesteps = sampler.timesteps().to_vec();

    let mut latent: Tensor<4> = arrays.tensor("in.noise", device)?;
    let mut outputs = Outputs::new();
    for i in 0..timesteps.len() {
        let name = format!("in.model_output.{i}");
        let model_output = arrays.tensor(&name, device)?;
        ensure!(model_output.dims() == latent.dims(), "{name} differs in shape from in.noise");
        let model_input = sampler.scale_model_input(latent.clone(), i);
        outputs.insert(format!("out.model_input.{i}"), model_input.into());
        latent = sampler.step(model_output, i, latent);
        let scale = sampler.noise_scale(i);
        if scale > 0.0 {
            latent = latent + arrays.tensor(&format!("in.step_noise.{i}"), device)? * scale;
        }
        outputs.insert(format!("out.latent.{i}"), latent.clone().into());
    }
    let values = timesteps.iter().map(|&timestep| timestep.into()).collect();
    outputs.insert("out.timesteps".to_owned(), Array { shape: vec![timesteps.len()], values });
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `in.sample`, `in.noise` and `in.timestep` to `out.noisy` and `out.velocity`.
pub fn add_noise(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let schedule = NoiseSchedule::new(&SchedulerConfig::from_file(case.weights()?)?)?;
    let sample: Tensor<4> = arrays.tensor("in.sample", device)?;
    let noise: Tensor<4> = arrays.tensor("in.noise", device)?;
    ensure!(sample.dims() == noise.dims(), "in.sample and in.noise differ in shape");
    let (_, timesteps) = arrays.shaped::<1>("in.timestep")?;
    let timesteps = timesteps.iter().map(|&value| index(value)).collect::<Result<Vec<_>>>().context("in.timestep")?;
    let noisy = schedule.add_noise(sample.clone(), noise.clone(), &timesteps)?;
    let velocity = schedule.velocity(sample, noise, &timesteps)?;
    let outputs = Outputs::from([("out.noisy".to_owned(), noisy.into()), ("out.velocity".to_owned(), velocity.into())]);
    compare(&arrays, &outputs, &[], relative_maximum)
}

fn index(value: f64) -> Result<usize> {
    ensure!(value >= 0.0 && value.fract() == 0.0, "{value} is no timestep");
    Ok(value as usize)
}
