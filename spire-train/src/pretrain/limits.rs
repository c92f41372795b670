//! What the numbers of a pretraining may be, checked before anything is allocated.

use anyhow::{Result, ensure};

use super::fit::FitConfig;
use super::{PretrainConfig, Stage};

/// The most samples of a step.
const MOST_IN_A_BATCH: usize = 1 << 16;

/// The most pixels of the pictures that are in memory at once: 12 GiB of float32.
const MOST_PIXELS: usize = 1 << 30;

/// The most threads.
const MOST_THREADS: usize = 1024;

/// The sides of the illustrated world's pictures: smaller, objects can't be recognised.
const SIDES: std::ops::RangeInclusive<usize> = 64..=4096;

/// The most scenes of a window, whose latents are in memory.
const MOST_IN_A_WINDOW: u64 = 1 << 24;

/// Checks the numbers that `stages` read.
///
/// # Errors
/// A number is out of range; the error names its key.
pub fn check(config: &PretrainConfig, stages: &[Stage]) -> Result<()> {
    let world = &config.world;
    ensure!(
        SIDES.contains(&world.size),
        "world.size = {} must be from {} to {}",
        world.size,
        SIDES.start(),
        SIDES.end()
    );
    ensure!(world.count > 0, "world.count must be at least 1");
    config.degradation.validate()?;
    for stage in stages {
        check_stage(config, *stage)?;
    }
    Ok(())
}

fn check_stage(config: &PretrainConfig, stage: Stage) -> Result<()> {
    let PretrainConfig { clip, prompts, vae, unet, embedding, judge, .. } = config;
    let (fit, held_out) = match stage {
        Stage::Clip => {
            ensure!(clip.fit.parts == 1, "clip.fit.parts must be 1: the contrastive loss can't be split");
            share("clip.degraded_share", clip.degraded_share)?;
            (&clip.fit, clip.evaluate)
        }
        Stage::Prompts => {
            not_negative("prompts.caption_weight", prompts.caption_weight)?;
            (&prompts.fit, prompts.evaluate)
        }
        Stage::Vae => {
            not_negative("vae.kl_weight", vae.kl_weight)?;
            (&vae.fit, vae.evaluate)
        }
        Stage::Judge => (&judge.fit, judge.evaluate),
        Stage::UNet => {
            share("unet.prompt_dropout", unet.prompt_dropout)?;
            if let Some(gamma) = unet.min_snr_gamma {
                positive("unet.min_snr_gamma", f64::from(gamma))?;
            }
            let window = unet.window;
            for (key, value) in [("chunk", window.chunk), ("chunks", window.chunks), ("uses", window.uses)] {
                ensure!(value > 0, "unet.window.{key} must be at least 1");
            }
            let scenes = window.chunk.saturating_mul(window.chunks);
            ensure!(
                scenes <= MOST_IN_A_WINDOW && window.uses <= MOST_IN_A_WINDOW,
                "unet.window has {scenes} scenes, each used {} times: the most are {MOST_IN_A_WINDOW}",
                window.uses
            );
            in_memory(config, "unet.judged", unet.judged as usize)?;
            unet.sampling.validate().map_err(|error| error.context("[unet.sampling]"))?;
            (&unet.fit, unet.evaluate as usize)
        }
        Stage::Embedding => (&embedding.fit, embedding.evaluate),
    };
    let name = stage.name();
    ensure!(held_out > 0, "{name}.evaluate must be at least 1");
    in_memory(config, &format!("{name}.evaluate"), held_out)?;
    in_memory(config, &format!("{name}.fit.batch_size"), fit.batch_size)?;
    check_fit(fit, &format!("{name}.fit"))
}

fn check_fit(fit: &FitConfig, section: &str) -> Result<()> {
    let key = |name: &str| format!("{section}.{name}");
    for (name, value, most) in [("batch_size", fit.batch_size, MOST_IN_A_BATCH), ("parts", fit.parts, MOST_THREADS)] {
        ensure!((1..=most).contains(&value), "{} = {value} must be from 1 to {most}", key(name));
    }
    ensure!(
        fit.batch_size.is_multiple_of(fit.parts),
        "{} = {} can't be split into {} = {}",
        key("batch_size"),
        fit.batch_size,
        key("parts"),
        fit.parts
    );
    // Numbers of samples are counted in 64 bits.
    ensure!(
        fit.steps <= u64::MAX >> 20,
        "{} = {} is too much: the most are {}",
        key("steps"),
        fit.steps,
        u64::MAX >> 20
    );
    for (name, value) in [("checkpoint_every", fit.checkpoint_every), ("preview_every", fit.preview_every)] {
        ensure!(value > 0, "{} must be at least 1", key(name));
    }
    positive(&key("learning_rate"), fit.learning_rate)?;
    positive(&key("max_grad_norm"), fit.max_grad_norm)?;
    not_negative(&key("weight_decay"), fit.weight_decay)?;
    share(&key("ema_decay"), fit.ema_decay)
}

/// Checks that so many pictures fit into memory.
fn in_memory(config: &PretrainConfig, key: &str, pictures: usize) -> Result<()> {
    let side = config.world.size;
    let pixels = pictures.saturating_mul(side).saturating_mul(side);
    ensure!(
        pixels <= MOST_PIXELS,
        "{key} = {pictures} pictures with world.size = {side} have more than {MOST_PIXELS} pixels: lower one of the two"
    );
    Ok(())
}

fn positive(key: &str, value: f64) -> Result<()> {
    ensure!(value.is_finite() && value > 0.0, "{key} must be a number above 0");
    Ok(())
}

fn not_negative(key: &str, value: f64) -> Result<()> {
    ensure!(value.is_finite() && value >= 0.0, "{key} must be a number that is not negative");
    Ok(())
}

fn share(key: &str, value: f64) -> Result<()> {
    ensure!((0.0..=1.0).contains(&value), "{key} must be between 0 and 1");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_name_their_key() {
        check(&PretrainConfig::default(), &Stage::ALL).unwrap();
        let refused = |change: fn(&mut PretrainConfig), key: &str| {
            let mut config = PretrainConfig::default();
            change(&mut config);
            let error = check(&config, &Stage::ALL).unwrap_err().to_string();
            assert!(error.contains(key), "{error} for {key}");
        };
        refused(|config| config.world.size = 1 << 40, "world.size");
        refused(|config| config.world.count = 0, "world.count");
        refused(|config| config.judge.fit.batch_size = 100_000_000_000_000, "judge.fit.batch_size");
        refused(|config| config.judge.fit.batch_size = 0, "judge.fit.batch_size");
        refused(|config| config.vae.fit.parts = 3, "vae.fit.batch_size = 16 can't be split into vae.fit.parts = 3");
        refused(|config| config.clip.fit.parts = 2, "clip.fit.parts");
        refused(|config| config.vae.fit.learning_rate = f64::NAN, "vae.fit.learning_rate");
        refused(|config| config.unet.fit.learning_rate = 0.0, "unet.fit.learning_rate");
        refused(|config| config.unet.fit.steps = u64::MAX, "unet.fit.steps");
        refused(|config| config.unet.fit.max_grad_norm = -1.0, "unet.fit.max_grad_norm");
        refused(|config| config.prompts.fit.weight_decay = f64::INFINITY, "prompts.fit.weight_decay");
        refused(|config| config.prompts.fit.ema_decay = 1.5, "prompts.fit.ema_decay");
        refused(|config| config.embedding.fit.checkpoint_every = 0, "embedding.fit.checkpoint_every");
        refused(|config| config.embedding.evaluate = 0, "embedding.evaluate");
        refused(|config| config.judge.evaluate = usize::MAX, "judge.evaluate");
        refused(|config| config.unet.prompt_dropout = 1.5, "unet.prompt_dropout");
        refused(|config| config.unet.window.chunk = 0, "unet.window.chunk");
        refused(|config| config.unet.window.chunks = u64::MAX, "unet.window");
        refused(|config| config.clip.degraded_share = f64::NAN, "clip.degraded_share");
        // A stage that does not run is not checked.
        let mut config = PretrainConfig::default();
        config.judge.fit.batch_size = 0;
        check(&config, &[Stage::Vae]).unwrap();
    }
}
