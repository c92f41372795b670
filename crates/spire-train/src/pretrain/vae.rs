//! The autoencoder: reconstruction, with the latent held lightly to a standard normal.

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_data::Picture;
use spire_data::rng::rng;
use spire_data::world::World;
use spire_eval::psnr::psnr;
use spire_model::pictures;
use spire_model::restore::noise;
use spire_model::vae::{Vae, VaeConfig};

use super::fit::{FitConfig, fit};
use super::{PretrainConfig, done, training, write_figures, write_part};
use crate::sheet;

/// Log-variance of the latents at the start of training: little noise.
const INITIAL_LOGVAR: f32 = -8.0;

/// The autoencoder and how it is fitted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeStage {
    /// Steps, batch, learning rate.
    pub fit: FitConfig,
    /// Its sizes. The scaling factor is measured, not set.
    pub model: VaeConfig,
    /// Weight of the Kullback-Leibler divergence, per latent value, beside the mean squared error per picture value.
    pub kl_weight: f64,
    /// Held-out pictures of the figures.
    pub evaluate: usize,
}

impl Default for VaeStage {
    fn default() -> Self {
        Self {
            fit: FitConfig::default(),
            model: VaeConfig {
                block_out_channels: vec![16, 32, 64, 64],
                layers_per_block: 1,
                norm_num_groups: 8,
                ..VaeConfig::default()
            },
            kl_weight: 1e-5,
            evaluate: 256,
        }
    }
}

pub fn run(config: &PretrainConfig, device: &Device) -> Result<()> {
    let folder = config.out.join("vae");
    if done(&folder) {
        tracing::info!("VAE: already in {}", config.out.display());
        return Ok(());
    }
    let stage = &config.vae;
    let world = World::new(config.world.clone());
    let draw = |first: u64, count: usize| -> Vec<Picture> {
        (first..first + count as u64).into_par_iter().map(|n| world.scene(n).draw(config.world.size)).collect()
    };
    let fresh = Vae::new(&stage.model, &training(device))?.with_initial_logvar(INITIAL_LOGVAR);
    let vae = fit(&stage.fit, fresh, |vae, part, size| {
        let pictures = pictures::to_tensor(&draw(part * size as u64 % config.world.count, size), device);
        let (mean, logvar) = vae.encode(pictures.clone());
        let [batch, channels, height, width] = mean.dims();
        let noise = noise(&mut rng(config.seed, "vae", part), [batch * channels, height, width], device);
        Ok(loss(vae, pictures, mean, logvar, noise, stage.kl_weight))
    })?;
    // Scenes beyond `count` are held out.
    let held_out = draw(config.world.count, stage.evaluate);
    let (mut ratios, mut rebuilt, mut latents) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in held_out.chunks(stage.fit.batch_size) {
        let (mean, _) = vae.encode(pictures::to_tensor(chunk, device));
        let decoded = pictures::from_tensor(vae.decode(mean.clone()));
        for (clean, decoded) in chunk.iter().zip(&decoded) {
            ratios.push(psnr(clean, decoded)?);
        }
        rebuilt.extend(decoded);
        latents.extend(mean.into_data().iter::<f32>().map(f64::from));
    }
    let scaling_factor = 1.0 / standard_deviation(&latents);
    let figures = json!({
        "steps": stage.fit.steps,
        "held_out_pictures": stage.evaluate,
        "psnr_db": ratios.iter().sum::<f64>() / ratios.len() as f64,
        "worst_psnr_db": ratios.iter().copied().fold(f64::INFINITY, f64::min),
        "scaling_factor": scaling_factor,
    });
    write_figures(&config.out, "vae", &figures)?;
    let cells: Vec<_> = held_out
        .iter()
        .zip(rebuilt)
        .zip(&ratios)
        .take(12)
        .flat_map(|((clean, rebuilt), ratio)| {
            [(clean.clone(), "scene".to_owned()), (rebuilt, format!("decoded, {ratio:.1} dB"))]
        })
        .collect();
    sheet::save_png(&sheet::grid(6, &cells), &config.out.join("figures/vae.png"))?;
    let levels = stage.model.block_out_channels.len();
    let mut model = serde_json::to_value(VaeConfig { scaling_factor, ..stage.model.clone() })?;
    // diffusers opens no autoencoder without them.
    model["down_block_types"] = vec!["DownEncoderBlock2D"; levels].into();
    model["up_block_types"] = vec!["UpDecoderBlock2D"; levels].into();
    write_part(&folder, &model, ("_class_name", "AutoencoderKL"), "diffusion_pytorch_model.safetensors", &vae)
}

/// Mean squared error and weighted divergence, `[1]`, of `pictures` `[batch, 3, height, width]` in \[-1, 1\] whose
/// latents are drawn with `noise`.
fn loss(
    vae: &Vae,
    pictures: Tensor<4>,
    mean: Tensor<4>,
    logvar: Tensor<4>,
    noise: Tensor<4>,
    kl_weight: f64,
) -> Tensor<1> {
    let latent = mean.clone() + logvar.clone().div_scalar(2.0).exp() * noise.reshape(mean.dims());
    let reconstruction = (vae.decode(latent) - pictures).square().mean();
    let divergence = (mean.square() + logvar.clone().exp() - logvar - 1.0).mean().div_scalar(2.0);
    reconstruction + divergence.mul_scalar(kl_weight)
}

fn standard_deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}
