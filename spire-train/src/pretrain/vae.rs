//! The autoencoder: reconstruction, with the latent held lightly to a standard normal.
//!
//! The mean squared error alone would paint over grain, which no small latent holds; so that the decoder draws grain of the
//! same strength instead, the contrast of small blocks is held to the picture's too.

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
use spire_core::sheet;

/// Log-variance of the latents at the start of training: little noise.
const INITIAL_LOGVAR: f32 = -8.0;

/// Side of the blocks whose contrast is compared, in pixels.
const BLOCK: usize = 4;
/// Added to the variance of a block, of pictures in \[-1, 1\]: the root has a slope everywhere, and flat blocks don't count.
const FLAT: f64 = 1e-4;

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
    /// Weight of the mean difference in contrast between blocks of the picture and of its reconstruction.
    pub contrast_weight: f64,
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
            contrast_weight: 0.0,
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
    let vae = fit(&stage.fit, config.starting("vae", fresh)?, |vae, part, size| {
        let pictures = pictures::to_tensor(&draw(part * size as u64 % config.world.count, size), device);
        let (mean, logvar) = vae.encode(pictures.clone());
        let [batch, channels, height, width] = mean.dims();
        let noise = noise(&mut rng(config.seed, "vae", part), [batch * channels, height, width], device);
        Ok(loss(vae, pictures, mean, logvar, noise, stage))
    })?;
    // Scenes beyond `count` are held out.
    let held_out = draw(config.world.count, stage.evaluate);
    let grains: Vec<_> = (0..stage.evaluate as u64).map(|n| world.scene(config.world.count + n).lens.grain).collect();
    let (mut ratios, mut contrasts, mut rebuilt, mut latents) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for chunk in held_out.chunks(stage.fit.batch_size) {
        let pictures = pictures::to_tensor(chunk, device);
        let (mean, _) = vae.encode(pictures.clone());
        let decoded = vae.decode(mean.clone());
        let [contrast, kept] = [pictures, decoded.clone()].map(|x| contrast(x).mean_dims(&[1, 2]).into_data());
        contrasts.extend(kept.iter::<f64>().zip(contrast.iter::<f64>()).map(|(kept, contrast)| kept / contrast));
        let decoded = pictures::from_tensor(decoded);
        for (clean, decoded) in chunk.iter().zip(&decoded) {
            ratios.push(psnr(clean, decoded)?);
        }
        rebuilt.extend(decoded);
        latents.extend(mean.into_data().iter::<f32>().map(f64::from));
    }
    let scaling_factor = 1.0 / standard_deviation(&latents);
    // Grain is drawn anew, and no pixel of it is the picture's own.
    let of = |values: &[f64], grainy: bool| {
        mean(values.iter().zip(&grains).filter(|(_, grain)| (**grain > 0.0) == grainy).map(|(value, _)| *value))
    };
    let figures = json!({
        "steps": stage.fit.steps,
        "held_out_pictures": stage.evaluate,
        "psnr_db": of(&ratios, false),
        "psnr_db_of_grainy_pictures": of(&ratios, true),
        "contrast_kept": of(&contrasts, false),
        "contrast_kept_of_grainy_pictures": of(&contrasts, true),
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

/// Mean squared error, weighted divergence and weighted difference in contrast, `[1]`, of `pictures`
/// `[batch, 3, height, width]` in \[-1, 1\] whose latents are drawn with `noise`.
fn loss(
    vae: &Vae,
    pictures: Tensor<4>,
    mean: Tensor<4>,
    logvar: Tensor<4>,
    noise: Tensor<4>,
    stage: &VaeStage,
) -> Tensor<1> {
    let latent = mean.clone() + logvar.clone().div_scalar(2.0).exp() * noise.reshape(mean.dims());
    let decoded = vae.decode(latent);
    let divergence = (mean.square() + logvar.clone().exp() - logvar - 1.0).mean().div_scalar(2.0);
    let reconstruction = (decoded.clone() - pictures.clone()).square().mean();
    let loss = reconstruction + divergence.mul_scalar(stage.kl_weight);
    if stage.contrast_weight == 0.0 {
        return loss;
    }
    loss + (contrast(decoded) - contrast(pictures)).abs().mean().mul_scalar(stage.contrast_weight)
}

/// Standard deviation within every block of every channel, `[batch, 3 · height / 4, width / 4]`, of `pictures`
/// `[batch, 3, height, width]` whose sides are multiples of 4.
fn contrast(pictures: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = pictures.dims();
    let (rows, columns) = (channels * height / BLOCK, width / BLOCK);
    let blocks: Tensor<5> = pictures.reshape([batch, rows, BLOCK, columns, BLOCK]);
    let mean = |blocks: Tensor<5>| blocks.mean_dim(4).mean_dim(2);
    let variance = mean((blocks.clone() - mean(blocks)).square());
    variance.add_scalar(FLAT).sqrt().reshape([batch, rows, columns])
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}

fn standard_deviation(values: &[f64]) -> f64 {
    let mean = mean(values.iter().copied());
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contrast_is_the_standard_deviation_within_blocks() {
        let device = Device::flex();
        // Blocks of one picture: flat, and half −0.5, half 0.5.
        let values: Vec<f32> = (0..3 * 4 * 8)
            .map(|i| match i % 8 {
                0..4 => 0.3,
                column => (column / 6) as f32 - 0.5,
            })
            .collect();
        let pictures = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([1, 3, 4, 8]);
        let contrast = contrast(pictures);
        assert_eq!(contrast.dims(), [1, 3, 2]);
        for (i, value) in contrast.into_data().iter::<f32>().enumerate() {
            let want = if i % 2 == 0 { 0.01 } else { 0.2501_f32.sqrt() };
            assert!((value - want).abs() < 1e-6, "{i}: {value}");
        }
    }
}
