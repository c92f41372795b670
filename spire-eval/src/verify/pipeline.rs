//! Cases of a whole pipeline: prompts and pictures in, a picture out.

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use spire_data::Picture;
use spire_model::base::Base;
use spire_model::control::{Control, ControlConfig};
use spire_model::decoupling::PromptRouting;
use spire_model::restore::{Request, SamplingConfig, restore_from};
use spire_model::weights::Precision;

use super::case::{Case, Outputs, Worst, compare, relative_maximum};
use crate::arrays::{Array, Arrays};

/// The keys of `case.toml`, named as the arguments of diffusers' pipeline.
#[derive(Deserialize)]
struct Settings {
    prompt: String,
    negative_prompt: String,
    guidance_scale: f64,
    controlnet_conditioning_scale: f64,
    control_guidance_start: f64,
    control_guidance_end: f64,
}

/// diffusers' `StableDiffusionControlNetPipeline`: `in.picture` in \[0, 1\] and the initial `in.latents` to `out.picture` in
/// \[0, 1\]. `weights` is a model folder with `controlnet/`.
pub fn controlnet_pipeline(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let settings: Settings = case.settings()?;
    let base = Base::load(&folder, Precision::F32, device)?;
    let branch = folder.join("controlnet");
    ControlConfig::read(&branch)?.check_fits(&base.unet_config)?;
    // The published ControlNet reads the same prompts as the UNet.
    let control = Control::load(&branch, device)?.with_prompts(PromptRouting::Semantic);
    let sampling = SamplingConfig {
        sampler: base.scheduler.sampler()?,
        steps: case.steps()?,
        // diffusers guides above 1 only.
        guidance_scale: settings.guidance_scale.max(1.0),
        negative: settings.negative_prompt,
        control_scale: settings.controlnet_conditioning_scale,
        control_start: settings.control_guidance_start,
        control_end: settings.control_guidance_end,
        tile: Some(0),
        ..SamplingConfig::default()
    };
    let requests: Vec<Request> = pictures(&arrays)?
        .into_iter()
        .map(|degraded| Request { degraded, semantic: settings.prompt.clone(), restoration: String::new(), seed: 0 })
        .collect();
    let latents: Tensor<4> = arrays.tensor("in.latents", device)?;
    let restored = case.timed(|| restore_from(&base, &control, &sampling, &requests, latents))?;
    let (width, height) = (restored[0].width, restored[0].height);
    let values = restored.iter().flat_map(|picture| picture.data.iter().map(|&value| value.into())).collect();
    let output = Array { shape: vec![restored.len(), 3, height, width], values };
    compare(&arrays, &Outputs::from([("out.picture".to_owned(), output)]), &[], relative_maximum)
}

/// The pictures of `in.picture`, `[batch, 3, height, width]`.
fn pictures(arrays: &Arrays) -> Result<Vec<Picture>> {
    let ([_, channels, height, width], values) = arrays.shaped::<4>("in.picture")?;
    ensure!(channels == 3, "in.picture has {channels} channels, expected 3");
    let picture = |values: &[f64]| Picture { width, height, data: values.iter().map(|&value| value as f32).collect() };
    Ok(values.chunks_exact(3 * height * width).map(picture).collect())
}
