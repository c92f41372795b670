//! Restoration prompts in the text tower: which degradations one names, and how strong, can be read off its states.
//!
//! Contrastively that is hardly learned from so few pictures: how blurred a picture is tells it from no other of a batch, and the
//! states of "Deblur with sigma 0.5" and "3.0" differ by 7.5 %. The control branch sees prompts through these states
//! alone. So each prompt's states have to say its numbers along directions that were drawn beforehand, and a caption's states
//! have to stay what they are.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_data::degrade::ParameterizedConfig;
use spire_data::prompt::{self, Fragment, Step, StepKind};
use spire_data::rng::{Rng, rng};
use spire_data::world::World;
use spire_model::base::PromptEncoder;
use spire_model::clip::{ClipText, ClipTextConfig};
use spire_model::tokenizer::Tokenizer;
use spire_model::weights;

use super::common::{Common, training, write_figures, write_part};
use super::fit::{FitConfig, Preview, fit};
use super::heat_map::heat_map;

/// How the text tower learns them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptsStage {
    /// Steps, batch, learning rate.
    pub fit: FitConfig,
    /// Weight of what captions' states move by, beside what prompts do not say.
    pub caption_weight: f64,
    /// Held-out prompts, and captions, of the figures.
    pub evaluate: usize,
}

impl Default for PromptsStage {
    fn default() -> Self {
        Self { fit: FitConfig::default(), caption_weight: 10.0, evaluate: 256 }
    }
}

/// What is said of one kind of degradation: whether it is named, whether its number is, and the number.
const SAID: usize = 3;

/// Captions, and as many prompts, in which every word of the world comes up.
const ALL_WORDS: u64 = 20_000;

/// Probability that a caption is dropped, as in training.
const EMPTY: f64 = 0.1;

pub fn run(config: &Common, stage: &PromptsStage, device: &Device, interrupted: &AtomicBool) -> Result<bool> {
    let own = config.out.join("text_encoder");
    if config.done("prompts", stage.fit.steps) {
        return Ok(true);
    }
    let folder = match &config.start {
        Some(model) if weights::weights_file(&own).is_err() => model.join("text_encoder"),
        _ => own.clone(),
    };
    let tower = ClipTextConfig::read(&folder).context("the stage \"prompts\" learns on from CLIP's text tower")?;
    let start = weights::load(ClipText::new(&tower, &training(device))?, &folder)?;
    let before = start.valid();
    let tokens = PromptEncoder::new(Tokenizer::clip().clone(), start.valid(), &tower, device);
    let directions = Tensor::<2>::random(
        [tower.hidden_size, SAID * StepKind::ALL.len()],
        Distribution::Normal(0.0, (tower.hidden_size as f64).powf(-0.5)),
        device,
    );
    let world = World::new(config.world.clone());
    // What the states of prompts say beside what they should, both `[prompts, SAID × kinds]`.
    let said = |text: &ClipText, mut rng: Rng, size: usize| -> Result<(Tensor<2>, Tensor<2>)> {
        let ranges = &config.degradation.parameterized;
        let prompts: Vec<String> = (0..size).map(|_| ranges.draw_prompt(&ranges.draw(&mut rng), &mut rng)).collect();
        let states = text.forward(tokens.tokenize(&prompts)).last_hidden_state;
        let mut wanted = vec![];
        for prompt in &prompts {
            wanted.extend(to_say(ranges, &prompt::parse(prompt)?));
        }
        let wanted = Tensor::<1>::from_floats(wanted.as_slice(), device).reshape([size as i32, -1]);
        Ok((states.mean_dim(1).squeeze_dim(1).matmul(directions.clone()), wanted))
    };
    // By how much the states of captions, of scenes from `first` on, have moved, squared.
    let moved = |text: &ClipText, first: u64, mut rng: Rng, size: usize| -> Tensor<1> {
        let captions: Vec<String> = (first..first + size as u64)
            .map(|n| if rng.random_bool(EMPTY) { String::new() } else { world.scene(n).caption })
            .collect();
        let ids = tokens.tokenize(&captions);
        let kept = before.forward(ids.clone()).last_hidden_state;
        (text.forward(ids).last_hidden_state - kept).square().mean()
    };
    let held_out = |text: &ClipText| said(text, rng(config.seed, "held-out prompts", 0), stage.evaluate);
    let preview = |text: &ClipText| {
        let (said, wanted) = held_out(text)?;
        let error = said - wanted;
        let loss = f64::from(error.clone().square().mean().into_scalar::<f32>());
        Ok(Preview { loss, sheet: heat_map(error.abs()), figures: vec![] })
    };
    let step = |text: &ClipText, part: u64, size: usize| {
        let (said, wanted) = said(text, rng(config.seed, "prompts", part), size)?;
        let first = part * size as u64 % config.world.count;
        let moved = moved(text, first, rng(config.seed, "captions", part), size);
        Ok((said - wanted).square().mean() + moved.mul_scalar(stage.caption_weight))
    };
    let Some(text) = fit(&stage.fit, &config.training("prompts"), interrupted, start, step, preview)? else {
        return Ok(false);
    };
    let (said, wanted) = held_out(&text)?;
    let unsaid = (said - wanted.clone()).square().mean() / wanted.var(0).mean();
    // Scenes beyond `count` are held out.
    let moved = moved(&text, config.world.count, rng(config.seed, "held-out captions", 0), stage.evaluate);
    let text = text.knowing_only(&known_words(config, &world, &tokens));
    write_part(&own, &tower, ("model_type", "clip_text_model"), "model.safetensors", &text)?;
    let figures = json!({
        "steps": stage.fit.steps,
        "held_out_prompts": stage.evaluate,
        "explained_variance": 1.0 - unsaid.into_scalar::<f32>(),
        "captions_moved": moved.into_scalar::<f32>(),
    });
    write_figures(&config.out, "prompts", &figures)?;
    Ok(true)
}

/// The token ids of captions and prompts.
fn known_words(config: &Common, world: &World, tokens: &PromptEncoder) -> Vec<i64> {
    let ranges = &config.degradation.parameterized;
    let texts: Vec<String> = (0..ALL_WORDS)
        .flat_map(|n| {
            let mut rng = rng(config.seed, "known words", n);
            [world.scene(n).caption, ranges.draw_prompt(&ranges.draw(&mut rng), &mut rng)]
        })
        .collect();
    tokens.tokenize(&texts).into_data().iter().collect()
}

/// What a prompt's states have to say, [`SAID`] values for each kind: 1 or -1 for what is there or not, and the number from -2
/// to 2 over its range.
fn to_say(ranges: &ParameterizedConfig, fragments: &[Fragment]) -> Vec<f32> {
    StepKind::ALL
        .into_iter()
        .flat_map(|kind| {
            let found = fragments.iter().find_map(|fragment| match *fragment {
                Fragment::Numbered(step) => (step.kind() == kind).then_some(Some(step)),
                Fragment::Bare(bare) => (bare == kind).then_some(None),
            });
            match found {
                None => [-1.0, -1.0, 0.0],
                Some(None) => [1.0, -1.0, 0.0],
                Some(Some(step)) => [1.0, 1.0, 4.0 * (place(ranges, step) - 0.5)],
            }
        })
        .collect()
}

/// Where in its range a step's number lies, from 0 to 1.
fn place(ranges: &ParameterizedConfig, step: Step) -> f32 {
    let [low, high] = ranges.range(step.kind());
    if high > low { (step.number() - low as f32) / (high - low) as f32 } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_asked_for_what_the_prompt_says() {
        let ranges = ParameterizedConfig { blur_sigma: [1.0, 3.0], ..ParameterizedConfig::default() };
        let fragments = prompt::parse("Deblur with sigma 3.0; Dejpeg").unwrap();
        assert_eq!(to_say(&ranges, &fragments), [1.0, 1.0, 2.0, -1.0, -1.0, 0.0, -1.0, -1.0, 0.0, 1.0, -1.0, 0.0]);
        assert_eq!(place(&ranges, Step::Blur { sigma: 1.0 }), 0.0);
        assert_eq!(place(&ranges, Step::Blur { sigma: 2.0 }), 0.5);
    }
}
