//! The judge: a classifier of kinds, fitted on clean scenes alone.

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_core::sheet;
use spire_data::Picture;
use spire_data::world::{Kind, World};
use spire_eval::judge::{Judge, JudgeConfig, KindJudge, identity};
use spire_model::pictures;

use super::common::{Common, training, write_figures, write_part};
use super::fit::{FitConfig, Preview, fit};

/// The judge and how it is fitted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeStage {
    /// Steps, batch, learning rate.
    pub fit: FitConfig,
    /// Channels of its convolutions.
    pub channels: Vec<usize>,
    /// Held-out scenes of the figures.
    pub evaluate: usize,
}

impl Default for JudgeStage {
    fn default() -> Self {
        Self {
            fit: FitConfig { batch_size: 64, ..FitConfig::default() },
            channels: JudgeConfig::default().channels,
            evaluate: 1024,
        }
    }
}

/// How many held-out scenes a preview judges.
const SHOWN: usize = 256;

pub fn run(config: &Common, stage: &JudgeStage, device: &Device, interrupted: &AtomicBool) -> Result<bool> {
    if config.done("judge", stage.fit.steps) {
        return Ok(true);
    }
    let sizes =
        JudgeConfig { image_size: config.world.size, channels: stage.channels.clone(), ..JudgeConfig::default() };
    let world = World::new(config.world.clone());
    let draw = |first: u64, count: usize| -> Vec<(Picture, Vec<Kind>)> {
        let scenes = (first..first + count as u64).into_par_iter().map(|n| world.scene(n));
        scenes.map(|scene| (scene.draw(config.world.size), scene.kinds().collect())).collect()
    };
    // Scenes beyond `count` are held out.
    let held_out = draw(config.world.count, stage.evaluate);
    let preview = |judge: &Judge| {
        let judged = Judged::new(judge, &sizes, &held_out[..stage.evaluate.min(SHOWN)], device)?;
        tracing::info!("kinds found: {:.2} %", 100.0 * judged.found());
        Ok(Preview { loss: 1.0 - judged.found(), sheet: judged.sheet(), figures: vec![("identity", judged.found())] })
    };
    let start = config.starting("judge", Judge::new(&sizes, &training(device))?)?;
    let step = |judge: &Judge, part: u64, size: usize| {
        let scenes = draw(part * size as u64 % config.world.count, size);
        let logits = judge.forward(pictures::to_tensor(scenes.iter().map(|(picture, _)| picture), device));
        Ok((log_softmax(logits, 1) * shares(&scenes, device)).sum().div_scalar(-(size as f64)))
    };
    let Some(judge) = fit(&stage.fit, &config.training("judge"), interrupted, start, step, preview)? else {
        return Ok(false);
    };
    let judged = Judged::new(&judge, &sizes, &held_out, device)?;
    let figures = json!({
        "steps": stage.fit.steps,
        "pictures": stage.fit.steps * stage.fit.batch_size as u64,
        "held_out_scenes": stage.evaluate,
        "kinds_found": judged.found(),
        "kinds_found_of_single_objects": judged.found_of_single_objects(),
    });
    sheet::save_png(&judged.sheet(), &config.out.join("figures/judge.png"))?;
    write_part(&config.out.join("judge"), &sizes, ("model_type", "kind_judge"), "model.safetensors", &judge)?;
    write_figures(&config.out, "judge", &figures)?;
    Ok(true)
}

/// The probabilities `[scenes, kinds]` that are aimed at: even over the kinds that a scene shows.
fn shares(scenes: &[(Picture, Vec<Kind>)], device: &Device) -> Tensor<2> {
    let row = |(_, kinds): &(Picture, Vec<Kind>)| {
        let share = 1.0 / kinds.len().max(1) as f32;
        Kind::ALL.map(|kind| if kinds.contains(&kind) { share } else { 0.0 })
    };
    let values: Vec<f32> = scenes.iter().flat_map(row).collect();
    Tensor::<1>::from_floats(values.as_slice(), device).reshape([scenes.len(), Kind::ALL.len()])
}

/// What the judge finds in scenes whose kinds are known.
struct Judged<'a> {
    scenes: &'a [(Picture, Vec<Kind>)],
    found: Vec<Vec<Kind>>,
}

impl<'a> Judged<'a> {
    fn new(judge: &Judge, sizes: &JudgeConfig, scenes: &'a [(Picture, Vec<Kind>)], device: &Device) -> Result<Self> {
        let judge = KindJudge::new(judge.clone(), sizes, device)?;
        let found = scenes.chunks(64).flat_map(|chunk| {
            let counts: Vec<usize> = chunk.iter().map(|(_, kinds)| kinds.len()).collect();
            judge.kinds(chunk.iter().map(|(picture, _)| picture), &counts)
        });
        Ok(Self { scenes, found: found.collect() })
    }

    /// Of each scene, the share of its kinds that were found.
    fn shares(&self) -> impl Iterator<Item = (usize, f64)> {
        self.scenes.iter().zip(&self.found).map(|((_, kinds), found)| (kinds.len(), identity(kinds, found)))
    }

    fn found(&self) -> f64 {
        mean(self.shares().map(|(_, share)| share))
    }

    fn found_of_single_objects(&self) -> f64 {
        mean(self.shares().filter(|(count, _)| *count == 1).map(|(_, share)| share))
    }

    /// The scenes that it got wrong, or the first ones.
    fn sheet(&self) -> image::RgbImage {
        let all = || self.scenes.iter().zip(&self.found);
        let wrong: Vec<_> = all().filter(|((_, kinds), found)| identity(kinds, found) < 1.0).take(24).collect();
        let shown = if wrong.is_empty() { all().take(24).collect() } else { wrong };
        let names = |kinds: &[Kind]| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
        let cell = |((picture, kinds), found): (&(Picture, Vec<Kind>), &Vec<Kind>)| {
            (picture.clone(), format!("{}: judged {}", names(kinds), names(found)))
        };
        sheet::grid(6, &shown.into_iter().map(cell).collect::<Vec<_>>())
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_objects_share_the_probability() {
        let picture = || Picture::filled(1, 1, [0.0; 3]);
        let scenes = [(picture(), vec![Kind::Lion]), (picture(), vec![Kind::Tree, Kind::Tiger])];
        let values: Vec<f32> = shares(&scenes, &Device::flex()).into_data().iter::<f32>().collect();
        let (first, second) = values.split_at(Kind::ALL.len());
        assert_eq!((first[Kind::Lion.number()], first.iter().sum::<f32>()), (1.0, 1.0));
        assert_eq!(
            (second[Kind::Tree.number()], second[Kind::Tiger.number()], second.iter().sum::<f32>()),
            (0.5, 0.5, 1.0)
        );
    }
}
