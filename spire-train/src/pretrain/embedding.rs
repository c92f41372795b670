//! What the control branch's e(y) starts from: the VAE encoder's student.
//!
//! Through the loss of the denoiser alone, e(y) learns slowly what a latent is. Asked for the latents of degraded pictures it
//! learns it for a quarter of the operations, and once for every branch that is trained on the same frozen model.

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_data::Picture;
use spire_data::rng::rng;
use spire_data::world::World;
use spire_model::control::ConditioningEmbedding;
use spire_model::pictures;
use spire_model::vae::{Vae, VaeConfig};

use super::fit::{FitConfig, fit};
use super::{PretrainConfig, done, training, write_figures, write_part};

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
        Self { fit: FitConfig::default(), channels: vec![16, 32, 96, 256], evaluate: 256 }
    }
}

pub fn run(config: &PretrainConfig, device: &Device) -> Result<()> {
    let folder = config.out.join("embedding");
    if done(&folder) {
        tracing::info!("e(y): already in {}", config.out.display());
        return Ok(());
    }
    let stage = &config.embedding;
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
        let degraded = pictures::to_tensor(&degraded, device);
        let latents = vae.encode(degraded.clone()).0.mul_scalar(vae_config.scaling_factor);
        Ok((degraded, latents))
    };
    let fresh = ConditioningEmbedding::fresh(&stage.channels, vae_config.latent_channels, &training(device))?;
    let embedding = fit(&stage.fit, config.starting("embedding", fresh)?, |embedding, part, size| {
        let (degraded, latents) = pair(part * size as u64 % config.world.count, size)?;
        Ok((embedding.forward(degraded) - latents).square().mean())
    })?;
    // Scenes beyond `count` are held out.
    let (degraded, latents) = pair(config.world.count, stage.evaluate)?;
    let unexplained = (embedding.forward(degraded) - latents.clone()).square().mean() / latents.var(0).mean();
    let figures = json!({
        "steps": stage.fit.steps,
        "held_out_pictures": stage.evaluate,
        "explained_variance": 1.0 - unexplained.into_scalar::<f32>(),
    });
    write_figures(&config.out, "embedding", &figures)?;
    let class = ("_class_name", "ControlNetConditioningEmbedding");
    let sizes = json!({ "conditioning_embedding_out_channels": stage.channels });
    write_part(&folder, &sizes, class, "diffusion_pytorch_model.safetensors", &embedding)
}
