//! The text-to-image denoiser, on the latents of captioned scenes.

use std::ops::Range;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_data::Picture;
use spire_data::rng::{Rng, rng};
use spire_data::world::World;
use spire_model::base::{Base, PromptEncoder};
use spire_model::nn::{PerBlock, repeat_batch};
use spire_model::pictures;
use spire_model::restore::{SamplingConfig, initial_noise, noise, sample};
use spire_model::scheduler::{NoiseSchedule, PredictionType, SchedulerConfig};
use spire_model::unet::{UNet, UNetConfig};
use spire_model::vae::{Vae, VaeConfig};

use super::fit::{FitConfig, fit};
use super::{PretrainConfig, create, done, training, write_figures, write_part};
use spire_core::atomic_write::write_atomic;
use spire_core::sheet;

/// The denoiser and how it is fitted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetStage {
    /// Steps, batch, learning rate.
    pub fit: FitConfig,
    /// Its sizes.
    pub model: UNetConfig,
    /// What it predicts.
    pub prediction_type: PredictionType,
    /// How many scenes are encoded beforehand and learned from, over and over.
    pub scenes: u64,
    /// Probability that the caption is dropped.
    pub prompt_dropout: f64,
    /// How the grid of samples is made.
    pub sampling: SamplingConfig,
}

impl Default for UNetStage {
    fn default() -> Self {
        Self {
            fit: FitConfig { batch_size: 64, parts: 2, ..FitConfig::default() },
            model: UNetConfig {
                block_out_channels: vec![64, 96],
                layers_per_block: PerBlock::All(1),
                down_block_types: vec!["CrossAttnDownBlock2D".into(); 2],
                up_block_types: vec!["CrossAttnUpBlock2D".into(); 2],
                attention_head_dim: PerBlock::All(4),
                cross_attention_dim: PerBlock::All(48),
                norm_num_groups: 16,
                sample_size: Some(8),
                ..UNetConfig::default()
            },
            prediction_type: PredictionType::VPrediction,
            scenes: 30_000,
            prompt_dropout: 0.1,
            sampling: SamplingConfig { guidance_scale: 4.0, ..SamplingConfig::default() },
        }
    }
}

/// How many held-out scenes the loss is measured on, at a random timestep each.
const HELD_OUT: usize = 512;

/// The prompts of the sample grid: every object kind, colours, textures and relations that captions use.
const PROMPTS: [&str; 16] = [
    "a red disc",
    "a blue star",
    "a green striped square",
    "a yellow ring on a grey background",
    "a purple triangle",
    "an orange heart",
    "a white checked hexagon",
    "a black cross",
    "a red pentagon",
    "a blue crescent",
    "a green dotted disc",
    "a yellow arrow",
    "a red star to the left of a blue square",
    "a green disc above a purple triangle",
    "a blue letter h",
    "a red letter e",
];

pub fn run(config: &PretrainConfig, device: &Device) -> Result<()> {
    let folder = config.out.join("unet");
    if done(&folder) {
        tracing::info!("UNet: already in {}", config.out.display());
        return Ok(());
    }
    let stage = &config.unet;
    let scheduler = SchedulerConfig::stable_diffusion(stage.prediction_type);
    let schedule = NoiseSchedule::new(&scheduler)?;
    let prompts = PromptEncoder::load(&config.out, device)?;
    let vae_folder = config.out.join("vae");
    let (vae, vae_config) = (Vae::load(&vae_folder, device)?, VaeConfig::read(&vae_folder)?);
    let encode = |first, count| encode_scenes(config, &vae, vae_config.scaling_factor, first..first + count, device);
    let loss =
        |unet: &UNet, (latents, captions): &(Tensor<4>, Vec<String>), mut rng: Rng, size: usize| -> Result<Tensor<1>> {
            let [_, channels, height, width] = latents.dims();
            let chosen: Vec<usize> = (0..size).map(|_| rng.random_range(0..captions.len())).collect();
            let timesteps: Vec<usize> =
                (0..size).map(|_| rng.random_range(0..schedule.num_train_timesteps())).collect();
            let texts: Vec<&str> = chosen
                .iter()
                .map(|&i| if rng.random_bool(stage.prompt_dropout) { "" } else { captions[i].as_str() })
                .collect();
            let clean = Tensor::cat(chosen.iter().map(|&i| latents.clone().narrow(0, i, 1)).collect(), 0);
            let noise = noise(&mut rng, [size * channels, height, width], device).reshape(clean.dims());
            let noisy = schedule.add_noise(clean.clone(), noise.clone(), &timesteps)?;
            let target = schedule.target(clean, noise, &timesteps)?;
            let time = timesteps.iter().map(|&t| t as f32).collect::<Vec<_>>();
            let predicted = unet.forward(noisy, Tensor::from_floats(time.as_slice(), device), prompts.encode(&texts));
            Ok((predicted - target).square().mean())
        };
    let scenes = encode(0, stage.scenes.min(config.world.count));
    let start = config.starting("unet", UNet::new(&stage.model, &training(device))?)?;
    let unet = fit(&stage.fit, start, |unet, part, size| loss(unet, &scenes, rng(config.seed, "unet", part), size))?;
    // Scenes beyond `count` are held out.
    let held_out = encode(config.world.count, HELD_OUT as u64);
    let held_out_loss = loss(&unet, &held_out, rng(config.seed, "held-out unet", 0), HELD_OUT)?.into_scalar::<f32>();
    create(&config.out.join("scheduler"))?;
    let text = serde_json::to_string_pretty(&scheduler)?;
    write_atomic(&config.out.join("scheduler/scheduler_config.json"), text.as_bytes())?;
    let base = Base { prompts, vae, vae_config, unet, unet_config: stage.model.clone(), scheduler, clip: None };
    let cells = draw_prompts(&base, &stage.sampling, config.seed, device)?;
    sheet::save_png(&sheet::grid(4, &cells), &config.out.join("figures/text-to-image.png"))?;
    let figures = json!({
        "steps": stage.fit.steps,
        "scenes": stage.scenes,
        "held_out_scenes": HELD_OUT,
        "held_out_loss": held_out_loss,
    });
    write_figures(&config.out, "unet", &figures)?;
    let class = ("_class_name", "UNet2DConditionModel");
    write_part(&folder, &stage.model, class, "diffusion_pytorch_model.safetensors", &base.unet)
}

/// Latents `[scenes, channels, height / 8, width / 8]` of the scenes of these numbers, and their captions.
fn encode_scenes(
    config: &PretrainConfig,
    vae: &Vae,
    scaling_factor: f64,
    scenes: Range<u64>,
    device: &Device,
) -> (Tensor<4>, Vec<String>) {
    let world = World::new(config.world.clone());
    let indices: Vec<u64> = scenes.collect();
    let mut captions = Vec::with_capacity(indices.len());
    let mut latents = Vec::new();
    for chunk in indices.chunks(64) {
        let scenes: Vec<(Picture, String)> = chunk
            .par_iter()
            .map(|&n| {
                let scene = world.scene(n);
                (scene.draw(config.world.size), scene.caption)
            })
            .collect();
        let pictures = pictures::to_tensor(scenes.iter().map(|(picture, _)| picture), device);
        latents.push(vae.encode(pictures).0.mul_scalar(scaling_factor));
        captions.extend(scenes.into_iter().map(|(_, caption)| caption));
    }
    (Tensor::cat(latents, 0), captions)
}

fn draw_prompts(base: &Base, config: &SamplingConfig, seed: u64, device: &Device) -> Result<Vec<(Picture, String)>> {
    let prompts = PROMPTS.map(str::to_owned);
    let side = base.unet_config.sample_size.unwrap_or(8);
    let shape = [base.unet_config.in_channels, side, side];
    let noise = (0..prompts.len()).map(|i| initial_noise(seed + i as u64, shape, device)).collect();
    let latents = sample(base, config, &prompts, Tensor::cat(noise, 0).into(), |sample, time, states| {
        let halves = states.dims()[0] / sample.dims()[0];
        base.unet.forward(repeat_batch(sample, halves), repeat_batch(time, halves), states)
    })?;
    Ok(pictures::from_tensor(base.decode_latents(latents)).into_iter().zip(prompts).collect())
}
