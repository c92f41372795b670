//! What the control branch's e(y) starts from: the VAE encoder's student.
//!
//! Through the loss of the denoiser alone, e(y) learns slowly what a latent is. Asked for the latents of degraded pictures it
//! learns it for a quarter of the operations, and once for every branch that is trained on the same frozen model.

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_core::sheet;
use spire_data::Picture;
use spire_data::rng::rng;
use spire_data::world::World;
use spire_model::control::{ConditioningEmbedding, ConditioningRange};
use spire_model::pictures;
use spire_model::vae::{Vae, VaeConfig};

use super::common::{Common, training, write_figures, write_part};
use super::fit::{FitConfig, Preview, fit};
use super::unet::UNetStage;
use crate::config::default_embedding_channels;

/// How many pictures a preview shows.
const SHOWN: usize = 12;

/// e(y) and how it is fitted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingStage {
    /// Steps, batch, learning rate.
    pub fit: FitConfig,
    /// Channels at full size, 1/2, 1/4 and 1/8, as a run's `model.embedding_channels`.
    pub channels: Vec<usize>,
    /// Held-out pictures of the figures.
    pub evaluate: usize,
}

impl Default for EmbeddingStage {
    fn default() -> Self {
        // Those that a run on the model takes by default.
        let channels = default_embedding_channels(&UNetStage::default().model);
        Self { fit: FitConfig::default(), channels, evaluate: 256 }
    }
}

pub fn run(config: &Common, stage: &EmbeddingStage, device: &Device, interrupted: &AtomicBool) -> Result<bool> {
    if config.done("embedding", stage.fit.steps) {
        return Ok(true);
    }
    let vae_folder = config.out.join("vae");
    let (vae, vae_config) = (Vae::load(&vae_folder, device)?, VaeConfig::read(&vae_folder)?);
    let world = World::new(config.world.clone());
    let pair = |first: u64, count: usize| -> Result<(Tensor<4>, Tensor<4>)> {
        let degraded: Vec<Picture> = (first..first + count as u64)
            .into_par_iter()
            .map(|n| {
                let clean = world.scene(n).draw(config.world.size);
                Ok(config.degradation.degrade(&clean, &mut rng(config.seed, "embedding", n))?.picture)
            })
            .collect::<Result<_>>()?;
        let latents = vae.encode(pictures::to_tensor(&degraded, device)).0.mul_scalar(vae_config.scaling_factor);
        Ok((pictures::to_unit_tensor(&degraded, device), latents))
    };
    let fresh = ConditioningEmbedding::fresh(&stage.channels, vae_config.latent_channels, &training(device))?;
    // Scenes beyond `count` are held out.
    let (held_out, wanted) = pair(config.world.count, stage.evaluate)?;
    let loss = |embedding: &ConditioningEmbedding| {
        (embedding.forward(held_out.clone()) - wanted.clone()).square().mean().into_scalar::<f32>()
    };
    let preview = |embedding: &ConditioningEmbedding| {
        let shown = held_out.clone().narrow(0, 0, stage.evaluate.min(SHOWN));
        let latents = wanted.clone().narrow(0, 0, stage.evaluate.min(SHOWN));
        let [clean, degraded] = [embedding.forward(shown), latents]
            .map(|latents| pictures::from_tensor(vae.decode(latents.div_scalar(vae_config.scaling_factor))));
        let cells = clean.into_iter().zip(degraded).flat_map(|(student, encoder)| {
            [(student, "e(y), decoded".to_owned()), (encoder, "the encoder's latent, decoded".to_owned())]
        });
        let sheet = sheet::grid(6, &cells.collect::<Vec<_>>());
        Ok(Preview { loss: f64::from(loss(embedding)), sheet, figures: vec![] })
    };
    let mut start = config.starting("embedding", fresh)?;
    if let Some(model) = &config.start {
        start = start.for_range(ConditioningRange::of_embedding(&model.join("embedding"))?, ConditioningRange::Unit);
    }
    let step = |embedding: &ConditioningEmbedding, part: u64, size: usize| {
        let (degraded, latents) = pair(part * size as u64 % config.world.count, size)?;
        Ok((embedding.forward(degraded) - latents).square().mean())
    };
    let Some(embedding) = fit(&stage.fit, &config.training("embedding"), interrupted, start, step, preview)? else {
        return Ok(false);
    };
    let unexplained = loss(&embedding) / wanted.clone().var(0).mean().into_scalar::<f32>();
    let figures = json!({
        "steps": stage.fit.steps,
        "held_out_pictures": stage.evaluate,
        "explained_variance": 1.0 - unexplained,
    });
    let class = ("_class_name", "ControlNetConditioningEmbedding");
    let sizes = json!({
        "conditioning_embedding_out_channels": stage.channels,
        "conditioning_range": ConditioningRange::Unit,
    });
    let folder = config.out.join("embedding");
    write_part(&folder, &sizes, class, "diffusion_pytorch_model.safetensors", &embedding)?;
    write_figures(&config.out, "embedding", &figures)?;
    Ok(true)
}
