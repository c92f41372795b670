//! Reads reference bundles for the tests of schedulers and samplers.

use std::{fs, path::PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;

use super::SchedulerConfig;

pub(super) struct Case {
    pub(super) config: SchedulerConfig,
    bytes: Vec<u8>,
}

impl Case {
    pub(super) fn open(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(name);
        let case: toml::Table = fs::read_to_string(folder.join("case.toml")).unwrap().parse().unwrap();
        let config = SchedulerConfig::from_file(folder.join(case["weights"].as_str().unwrap())).unwrap();
        Self { config, bytes: fs::read(folder.join("tensors.safetensors")).unwrap() }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let data = tensors.tensor(name).unwrap().data();
        data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    pub(super) fn integers(&self, name: &str) -> Vec<i64> {
        let tensors = self.tensors();
        let data = tensors.tensor(name).unwrap().data();
        data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
    }

    pub(super) fn tensor(&self, name: &str) -> Tensor<4> {
        let shape = self.tensors().tensor(name).unwrap().shape().to_vec();
        Tensor::from_data(TensorData::new(self.floats(name), shape), &Device::default())
    }
}

/// `max|got - want| / max|want|`.
pub(super) fn error(got: Tensor<4>, want: Tensor<4>) -> f32 {
    let largest: f32 = want.clone().abs().max().into_scalar();
    let difference: f32 = (got - want).abs().max().into_scalar();
    difference / largest
}

/// Runs the case's sampler on its model outputs; returns the largest error of all latents, model inputs and timesteps.
pub(super) fn sampler_error(name: &str) -> f32 {
    let case = Case::open(name);
    let timesteps = case.floats("out.timesteps");
    let mut sampler = case.config.sampler().unwrap().build(&case.config, timesteps.len()).unwrap();
    let mut worst = timesteps
        .iter()
        .zip(sampler.timesteps())
        .map(|(want, got)| (got - want).abs() / timesteps[0])
        .fold(0.0, f32::max);
    assert_eq!(timesteps.len(), sampler.timesteps().len());
    // The bundle's noise is already scaled.
    let mut latent = case.tensor("in.noise");
    for index in 0..timesteps.len() {
        let input = sampler.scale_model_input(latent.clone(), index);
        worst = worst.max(error(input, case.tensor(&format!("out.model_input.{index}"))));
        latent = sampler.step(case.tensor(&format!("in.model_output.{index}")), index, latent);
        let scale = sampler.noise_scale(index);
        if scale > 0.0 {
            latent = latent + case.tensor(&format!("in.step_noise.{index}")) * scale;
        }
        worst = worst.max(error(latent.clone(), case.tensor(&format!("out.latent.{index}"))));
    }
    worst
}
