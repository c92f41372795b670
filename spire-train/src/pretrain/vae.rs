//! The autoencoder: reconstruction, with the latent held lightly to a standard normal (Kingma & Welling 2014).

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_core::sheet;
use spire_data::Picture;
use spire_data::rng::rng;
use spire_data::world::World;
use spire_eval::psnr::psnr;
use spire_model::pictures;
use spire_model::restore::noise;
use spire_model::vae::{Vae, VaeConfig};

use super::common::{Common, training, write_figures, write_part};
use super::fit::{FitConfig, Preview, fit};

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
    /// Whether the encoder stays as it is and only the decoder learns, so that a UNet that was trained on the latents keeps
    /// its meaning.
    pub decoder_only: bool,
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
            decoder_only: false,
            evaluate: 256,
        }
    }
}

pub fn run(config: &Common, stage: &VaeStage, device: &Device, interrupted: &AtomicBool) -> Result<bool> {
    if config.done("vae", stage.fit.steps) {
        return Ok(true);
    }
    let world = World::new(config.world.clone());
    let draw = |first: u64, count: usize| -> Vec<Picture> {
        (first..first + count as u64).into_par_iter().map(|n| world.scene(n).draw(config.world.size)).collect()
    };
    let fresh = Vae::new(&stage.model, &training(device))?.with_initial_logvar(INITIAL_LOGVAR);
    // Scenes beyond `count` are held out.
    let held_out = draw(config.world.count, stage.evaluate);
    let preview = |vae: &Vae| {
        let shown = Rebuilt::new(vae, &held_out[..stage.evaluate.min(SHOWN)], device)?;
        Ok(Preview { loss: shown.loss, sheet: shown.sheet(), figures: vec![("psnr", mean(&shown.ratios))] })
    };
    let start = config.starting("vae", fresh)?;
    let vae = fit(
        &stage.fit,
        &config.training("vae"),
        interrupted,
        start,
        |vae, part, size| {
            let pictures = pictures::to_tensor(&draw(part * size as u64 % config.world.count, size), device);
            let (mean, logvar) = vae.encode(pictures.clone());
            let [batch, channels, height, width] = mean.dims();
            let noise = noise(&mut rng(config.seed, "vae", part), [batch * channels, height, width], device);
            let noise = noise.reshape(mean.dims());
            Ok(match stage.decoder_only {
                true => reconstruction(vae, pictures, mean.detach() + logvar.detach().div_scalar(2.0).exp() * noise),
                false => {
                    let latent = mean.clone() + logvar.clone().div_scalar(2.0).exp() * noise;
                    reconstruction(vae, pictures, latent) + divergence(mean, logvar).mul_scalar(stage.kl_weight)
                }
            })
        },
        preview,
    )?;
    let Some(vae) = vae else { return Ok(false) };
    let rebuilt = Rebuilt::new(&vae, &held_out, device)?;
    let scaling_factor = match &config.start {
        // The denoiser knows the latents by the factor that they were measured with.
        Some(model) if stage.decoder_only => VaeConfig::read(&model.join("vae"))?.scaling_factor,
        _ => 1.0 / standard_deviation(&rebuilt.latents),
    };
    let figures = json!({
        "steps": stage.fit.steps,
        "pictures": stage.fit.steps * stage.fit.batch_size as u64,
        "held_out_pictures": stage.evaluate,
        "psnr_db": mean(&rebuilt.ratios),
        "scaling_factor": scaling_factor,
    });
    sheet::save_png(&rebuilt.sheet(), &config.out.join("figures/vae.png"))?;
    let levels = stage.model.block_out_channels.len();
    let mut model = serde_json::to_value(VaeConfig { scaling_factor, ..stage.model.clone() })?;
    // diffusers opens no autoencoder without them.
    model["down_block_types"] = vec!["DownEncoderBlock2D"; levels].into();
    model["up_block_types"] = vec!["UpDecoderBlock2D"; levels].into();
    let class = ("_class_name", "AutoencoderKL");
    write_part(&config.out.join("vae"), &model, class, "diffusion_pytorch_model.safetensors", &vae)?;
    write_figures(&config.out, "vae", &figures)?;
    Ok(true)
}

/// Mean squared error of what is decoded from `latent`, `[1]`; `pictures` `[batch, 3, height, width]` in \[-1, 1\].
fn reconstruction(vae: &Vae, pictures: Tensor<4>, latent: Tensor<4>) -> Tensor<1> {
    (vae.decode(latent) - pictures).square().mean()
}

/// The Kullback-Leibler divergence from a standard normal, per latent value, `[1]`.
fn divergence(mean: Tensor<4>, logvar: Tensor<4>) -> Tensor<1> {
    (mean.square() + logvar.clone().exp() - logvar - 1.0).mean().div_scalar(2.0)
}

/// How many pictures a preview rebuilds.
const SHOWN: usize = 64;
/// How many are encoded at a time.
const BATCH: usize = 16;

/// Held-out pictures, encoded and decoded.
struct Rebuilt<'a> {
    clean: &'a [Picture],
    rebuilt: Vec<Picture>,
    /// PSNR of each, in dB.
    ratios: Vec<f64>,
    /// Every value of the latents' means.
    latents: Vec<f64>,
    /// Mean squared error of pictures in \[-1, 1\].
    loss: f64,
}

impl<'a> Rebuilt<'a> {
    fn new(vae: &Vae, clean: &'a [Picture], device: &Device) -> Result<Self> {
        let (mut rebuilt, mut latents, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in clean.chunks(BATCH) {
            let pictures = pictures::to_tensor(chunk, device);
            let (mean, _) = vae.encode(pictures.clone());
            let decoded = vae.decode(mean.clone());
            losses.push(f64::from((decoded.clone() - pictures).square().mean().into_scalar::<f32>()));
            rebuilt.extend(pictures::from_tensor(decoded));
            latents.extend(mean.into_data().iter::<f32>().map(f64::from));
        }
        let ratios = clean.iter().zip(&rebuilt).map(|(clean, rebuilt)| psnr(clean, rebuilt));
        Ok(Self { clean, ratios: ratios.collect::<Result<_, _>>()?, rebuilt, latents, loss: mean(&losses) })
    }

    /// The first twelve beside what they became.
    fn sheet(&self) -> RgbImage {
        let pairs = self.clean.iter().zip(&self.rebuilt).zip(&self.ratios).take(12);
        let cells: Vec<_> = pairs
            .flat_map(|((clean, rebuilt), ratio)| {
                [(clean.clone(), "scene".to_owned()), (rebuilt.clone(), format!("decoded, {ratio:.1} dB"))]
            })
            .collect();
        sheet::grid(6, &cells)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn standard_deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}
