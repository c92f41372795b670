//! The model card of a trained branch: `control/README.md`, with the front matter that the Hugging Face Hub reads.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use spire_core::atomic_write::write_atomic;
use spire_data::degrade::ParameterizedConfig;
use spire_model::base::portable_name;
use spire_model::control::ControlConfig;
use spire_model::fusion::Fusion;

use super::quality::Quality;
use super::state::TrainingState;
use crate::config::RunConfig;
use crate::run_folder::RunFolder;

/// Writes the card beside the branch's weights. `restored` are the figures of the evaluation at the end, if there was one.
///
/// # Errors
/// The file can't be written.
pub(super) fn write(
    state: &TrainingState,
    config: &RunConfig,
    folder: &RunFolder,
    restored: Option<&Quality>,
) -> Result<()> {
    let samples = state.ranks.count() * config.train.samples_per_step();
    let text = text(config, &state.control_config, samples, restored)?;
    Ok(write_atomic(&folder.control().join("README.md"), text.as_bytes())?)
}

/// The card of a branch that was trained on `samples` samples a step.
fn text(config: &RunConfig, branch: &ControlConfig, samples: usize, restored: Option<&Quality>) -> Result<String> {
    let name = config.run.dir.file_name().unwrap_or_default().to_string_lossy();
    let base = portable_name(&config.model.base);
    let shown = base.display();
    let published = published(&base);
    let base_line = match &published {
        Some(name) => format!("base_model: {name}\nbase_model_relation: adapter"),
        None => "# base_model: owner/name of the text-to-image model, if it is on the Hub".to_owned(),
    };
    let fusion = branch.fusion();
    let (tag, class) = match fusion {
        Fusion::Add => {
            ("\n- controlnet", " The branch is a ControlNet: diffusers' `ControlNetModel.from_pretrained` opens it.")
        }
        _ => ("", ""),
    };
    let (train, sampling) = (&config.train, &config.evaluate.sampling);
    let prompts = named(&branch.prompts)?;
    let trained_on = degradations(&config.degradation.parameterized, config.degradation.parameterized_share);
    let figures = match restored {
        None => String::new(),
        Some(restored) => {
            let rows = restored.figures().map(|(name, value)| format!("| {name} | {value:.4} |"));
            let rows: Vec<String> = rows.collect();
            format!("\n## Figures on held-out pictures\n\n| | restored |\n|---|---|\n{}\n", rows.join("\n"))
        }
    };
    let base_argument = if published.is_some() { "" } else { ", base=\"THE BASE MODEL\"" };
    Ok(format!(
        "---
library_name: diffusers
pipeline_tag: image-to-image
{base_line}
tags:
- spire
- image-restoration
- stable-diffusion{tag}
# license: choose one before you publish the branch
---

# {name}

A control branch for text-driven image restoration (SPIRE, <https://arxiv.org/abs/2312.11595>), trained with spire {version}.
A semantic prompt says what the picture shows, a restoration prompt what to undo: \"Deblur with sigma 3.0; Dejpeg with
quality 40\".{class}

| | |
|---|---|
| text-to-image model | {shown} |
| fusion | {fusion} |
| prompts | {prompts} |
| training | {steps} steps of {samples} samples, {size}×{size} pixels, learning rate {rate:e} |
| degradations | {trained_on} |
| sampling | {sampler}, {sampling_steps} steps, guidance {guidance} |

## Use

```python
from PIL import Image
from spire_diffusers import SpirePipeline  # one file, of the project that trained the branch

pipe = SpirePipeline.from_pretrained(\"OWNER/NAME\"{base_argument})
restored = pipe(Image.open(\"degraded.png\"), \"Deblur with sigma 3.0\", prompt=\"a panda\").images[0]
```
{figures}",
        version = env!("CARGO_PKG_VERSION"),
        steps = train.steps,
        size = config.data.size,
        rate = train.learning_rate,
        sampler = sampling.sampler,
        sampling_steps = sampling.steps,
        guidance = sampling.guidance_scale,
    ))
}

/// `owner/name` of a base model on the Hub.
fn published(base: &Path) -> Option<String> {
    Some(base.to_str()?.split_once('@')?.0.to_owned()).filter(|_| base.is_relative())
}

/// The name of a value in a configuration.
fn named(value: &impl Serialize) -> Result<String> {
    Ok(toml::Value::try_from(value)?.as_str().unwrap_or_default().to_owned())
}

fn degradations(ranges: &ParameterizedConfig, share: f64) -> String {
    let ParameterizedConfig { blur_sigma, downsample_factor, noise_sigma, jpeg_quality, .. } = ranges;
    format!(
        "{:.0} % parameterised: blur sigma {} to {}, downsampling {} to {}, noise sigma {} to {}, JPEG quality {} to {}; \
         the others as Real-ESRGAN",
        100.0 * share,
        blur_sigma[0],
        blur_sigma[1],
        downsample_factor[0],
        downsample_factor[1],
        noise_sigma[0],
        noise_sigma[1],
        jpeg_quality[0],
        jpeg_quality[1]
    )
}

#[cfg(test)]
mod tests {
    use spire_model::unet::UNetConfig;

    use super::*;

    #[test]
    fn the_front_matter_is_that_of_the_hub() {
        let mut config = RunConfig::default();
        config.run.dir = "runs/photos".into();
        config.model.base = "/cache/models--owner--sd/snapshots/0123abc".into();
        let branch = ControlConfig::for_unet(&UNetConfig::default(), Fusion::Add, vec![16, 32]);
        let restored = Quality { psnr: 21.5, ssim: 0.75, clip_frechet: None };
        let card = text(&config, &branch, 16, Some(&restored)).unwrap();
        let (front, body) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
        for line in ["library_name: diffusers", "base_model: owner/sd", "pipeline_tag: image-to-image", "- controlnet"]
        {
            assert!(front.lines().any(|found| found == line), "{line} in {front}");
        }
        assert!(!front.lines().any(|line| line.starts_with("license")), "the user chooses it");
        for part in ["# photos", "| fusion | add |", "| prompts | decoupled |", "| psnr | 21.5000 |", "ControlNetModel"]
        {
            assert!(body.contains(part), "{part} in {body}");
        }
        config.model.base = "/models/sd".into();
        let card = text(&config, &branch, 16, None).unwrap();
        assert!(card.contains("# base_model:") && card.contains("base=") && !card.contains("Figures"));
    }
}
