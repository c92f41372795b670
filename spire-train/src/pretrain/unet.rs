//! The text-to-image denoiser, on the latents of captioned scenes.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor};
use image::RgbImage;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_core::atomic_write::write_atomic;
use spire_core::sheet;
use spire_data::Picture;
use spire_data::rng::{Rng, rng};
use spire_data::world::{Kind, Scene, World};
use spire_eval::judge::{KindJudge, identity};
use spire_model::base::{Base, PromptEncoder};
use spire_model::nn::{PerBlock, repeat_batch};
use spire_model::pictures;
use spire_model::restore::{SamplingConfig, Start, initial_noise, noise, sample};
use spire_model::scheduler::{NoiseSchedule, PredictionType, SchedulerConfig};
use spire_model::unet::{UNet, UNetConfig};
use spire_model::vae::{Vae, VaeConfig};

use super::common::{Common, create, training, write_figures, write_part};
use super::fit::{FitConfig, Preview, fit};
use super::latents::{Encoded, Encoder, Window, WindowConfig};

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
    /// How scenes are encoded and used again.
    pub window: WindowConfig,
    /// γ of min-SNR loss weighting; unset, all timesteps weigh the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_snr_gamma: Option<f32>,
    /// Probability that the caption is dropped.
    pub prompt_dropout: f64,
    /// How the grid of samples is made.
    pub sampling: SamplingConfig,
    /// Held-out scenes of the loss, 512 at most.
    pub evaluate: u64,
    /// Held-out captions from which pictures are drawn for the judge.
    pub judged: u64,
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
            window: WindowConfig::default(),
            min_snr_gamma: None,
            prompt_dropout: 0.1,
            sampling: SamplingConfig { guidance_scale: 4.0, ..SamplingConfig::default() },
            evaluate: 512,
            judged: 512,
        }
    }
}

/// How many held-out scenes the loss is measured on, at a random timestep each.
const HELD_OUT: u64 = 512;

/// How many pictures the judge sees on the way.
const PREVIEWED: usize = 64;

/// The prompts of the sample grid: kinds of every group, among them the paper's examples.
const PROMPTS: [&str; 24] = [
    "a lion on a meadow",
    "a tiger in the snow",
    "a bear in front of a grey wall",
    "a panda by the bamboo",
    "a polar bear by the water",
    "a koala in front of wooden planks",
    "a zebra on the sand",
    "a horse on a meadow",
    "a giraffe under an evening sky",
    "an elephant on an autumn meadow",
    "a fox in the snow",
    "a wolf under a night sky",
    "an owl in front of dark planks",
    "a penguin in the snow",
    "an apple in front of a blue wall",
    "a tomato in front of a white wall",
    "a strawberry in front of a pink wall",
    "an suv on the sand",
    "a taxi in front of a red wall",
    "a sunflower under a blue sky",
    "a basketball in front of a green wall",
    "a church on a meadow",
    "a sailboat by the water",
    "a dog left of a cat",
];

pub fn run(config: &Common, stage: &UNetStage, device: &Device, interrupted: &AtomicBool) -> Result<bool> {
    if config.done("unet", stage.fit.steps) {
        return Ok(true);
    }
    let scheduler = SchedulerConfig::stable_diffusion(stage.prediction_type);
    let schedule = NoiseSchedule::new(&scheduler)?;
    let weights = match stage.min_snr_gamma {
        Some(gamma) => schedule.min_snr_weights(gamma),
        None => vec![1.0; schedule.num_train_timesteps()],
    };
    let prompts = PromptEncoder::load(&config.out, device)?;
    let vae_folder = config.out.join("vae");
    let (vae, vae_config) = (Vae::load(&vae_folder, device)?, VaeConfig::read(&vae_folder)?);
    let world = World::new(config.world.clone());
    let encoder = || Encoder { world: &world, vae: &vae, scaling_factor: vae_config.scaling_factor, device };
    let loss = |unet: &UNet, scenes: Encoded, mut rng: Rng| -> Result<Tensor<1>> {
        let [size, channels, height, width] = scenes.latents.dims();
        let timesteps: Vec<usize> = (0..size).map(|_| rng.random_range(0..schedule.num_train_timesteps())).collect();
        let texts: Vec<&str> = scenes
            .captions
            .iter()
            .map(|caption| if rng.random_bool(stage.prompt_dropout) { "" } else { caption.as_str() })
            .collect();
        let noise = noise(&mut rng, [size * channels, height, width], device).reshape(scenes.latents.dims());
        let noisy = schedule.add_noise(scenes.latents.clone(), noise.clone(), &timesteps)?;
        let target = schedule.target(scenes.latents, noise, &timesteps)?;
        let time: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
        let weight: Vec<f32> = timesteps.iter().map(|&t| weights[t]).collect();
        let weight = Tensor::<1>::from_floats(weight.as_slice(), device).reshape([size as i32, 1, 1, 1]);
        let predicted = unet.forward(noisy, Tensor::from_floats(time.as_slice(), device), prompts.encode(&texts));
        Ok(((predicted - target).square() * weight).mean())
    };
    // Scenes beyond `count` are held out.
    let held_out = encoder().encode(config.world.count, HELD_OUT.min(stage.evaluate));
    let held_out_loss = |unet: &UNet| -> Result<f64> {
        let value = loss(unet, held_out.clone(), rng(config.seed, "held-out unet", 0))?;
        Ok(f64::from(value.into_scalar::<f32>()))
    };
    let painter = |unet: &UNet| -> Result<Painter> {
        let base = Base {
            prompts: PromptEncoder::load(&config.out, device)?,
            vae: Some(vae.clone()),
            vae_config: vae_config.clone(),
            unet: unet.clone(),
            unet_config: stage.model.clone(),
            scheduler: scheduler.clone(),
            clip: None,
            origin: None,
        };
        Ok(Painter { base, sampling: &stage.sampling, seed: config.seed, device })
    };
    let judge = KindJudge::load(&config.out.join("judge"), device).context("the stage \"unet\" needs \"judge\"")?;
    let asked: Vec<Scene> = (0..stage.judged).map(|n| world.scene(config.world.count + n)).collect();
    let preview = |unet: &UNet| {
        let painter = painter(unet)?;
        let identity = painter.identity(&judge, &asked[..asked.len().min(PREVIEWED)])?;
        tracing::info!("kinds found in {PREVIEWED} pictures drawn from captions: {:.1} %", 100.0 * identity);
        Ok(Preview { loss: held_out_loss(unet)?, sheet: painter.sheet()?, figures: vec![("identity", identity)] })
    };
    let window = Window::new(stage.window, encoder());
    let start = config.starting("unet", UNet::new(&stage.model, &training(device))?)?;
    let step = |unet: &UNet, part: u64, size: usize| {
        let mut rng = rng(config.seed, "unet", part);
        let scenes = window.draw(part * size as u64, size, &mut rng);
        loss(unet, scenes, rng)
    };
    let fitted = fit(&stage.fit, &config.training("unet"), interrupted, start, step, preview)?;
    let Some(unet) = fitted else { return Ok(false) };
    create(&config.out.join("scheduler"))?;
    let text = serde_json::to_string_pretty(&scheduler)?;
    write_atomic(&config.out.join("scheduler/scheduler_config.json"), text.as_bytes())?;
    let class = ("_class_name", "UNet2DConditionModel");
    write_part(&config.out.join("unet"), &stage.model, class, "diffusion_pytorch_model.safetensors", &unet)?;
    let painter = painter(&unet)?;
    let figures = json!({
        "steps": stage.fit.steps,
        "pictures": stage.fit.steps * stage.fit.batch_size as u64,
        "held_out_scenes": HELD_OUT.min(stage.evaluate),
        "held_out_loss": held_out_loss(&unet)?,
        "judged_captions": asked.len(),
        "kinds_found": painter.identity(&judge, &asked)?,
    });
    sheet::save_png(&painter.sheet()?, &config.out.join("figures/text-to-image.png"))?;
    write_figures(&config.out, "unet", &figures)?;
    Ok(true)
}

/// The model with the denoiser as it is now, to draw pictures from prompts.
struct Painter<'a> {
    base: Base,
    sampling: &'a SamplingConfig,
    seed: u64,
    device: &'a Device,
}

/// How many pictures are drawn at a time.
const BATCH: usize = 32;

impl Painter<'_> {
    /// A picture for each of `prompts`, the n-th from noise number n.
    fn draw(&self, prompts: &[String]) -> Result<Vec<Picture>> {
        let side = self.base.unet_config.sample_size.unwrap_or(8);
        let shape = [self.base.unet_config.in_channels, side, side];
        let mut drawn = Vec::new();
        for (n, prompts) in prompts.chunks(BATCH).enumerate() {
            let first = self.seed + (n * BATCH) as u64;
            let seeds: Vec<u64> = (first..).take(prompts.len()).collect();
            let noise = seeds.iter().map(|&seed| initial_noise(seed, shape, self.device)).collect();
            let start = Start { noise: Tensor::cat(noise, 0), clean: None, seeds };
            let latents = sample(&self.base, self.sampling, prompts, start, |sample, time, states, _| {
                let passes = states.dims()[0] / sample.dims()[0];
                self.base.unet.forward(repeat_batch(sample, passes), repeat_batch(time, passes), states)
            })?;
            drawn.extend(pictures::from_tensor(self.base.decode_latents(latents)));
        }
        Ok(drawn)
    }

    /// What [`PROMPTS`] become.
    fn sheet(&self) -> Result<RgbImage> {
        let prompts = PROMPTS.map(str::to_owned);
        let cells: Vec<_> = self.draw(&prompts)?.into_iter().zip(prompts).collect();
        Ok(sheet::grid(6, &cells))
    }

    /// The share of the kinds that the captions of `scenes` ask for and that `judge` finds in the pictures drawn from them.
    fn identity(&self, judge: &KindJudge, scenes: &[Scene]) -> Result<f64> {
        let captions: Vec<String> = scenes.iter().map(|scene| scene.caption.clone()).collect();
        let asked: Vec<Vec<Kind>> = scenes.iter().map(|scene| scene.kinds().collect()).collect();
        let counts: Vec<usize> = asked.iter().map(Vec::len).collect();
        let found = judge.kinds(&self.draw(&captions)?, &counts);
        let shares: f64 = asked.iter().zip(&found).map(|(asked, found)| identity(asked, found)).sum();
        Ok(shares / scenes.len().max(1) as f64)
    }
}
