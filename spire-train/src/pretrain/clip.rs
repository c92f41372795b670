//! CLIP, contrastively (Radford et al. 2021): of a batch of pictures and captions, which belong together?

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor};
use rand::RngExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_data::Picture;
use spire_data::rng::{Rng, rng};
use spire_data::world::{Kind, Scene, Wording, World};
use spire_model::base::PromptEncoder;
use spire_model::clip::{ClipText, ClipTextConfig, ClipVision, ClipVisionConfig};
use spire_model::pictures;
use spire_model::tokenizer::Tokenizer;

use super::common::{Common, training, write_figures, write_part};
use super::fit::{FitConfig, Preview, fit};
use super::heat_map::heat_map;

/// The text and image towers and how they are fitted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipStage {
    /// Steps, batch, learning rate.
    pub fit: FitConfig,
    /// The text tower's sizes.
    pub text: ClipTextConfig,
    /// The image tower's sizes.
    pub vision: ClipVisionConfig,
    /// Share of pictures that are degraded, with the degradation named in their caption. Photographs on the web come
    /// with such words too, and the control branch's prompts are made of them.
    pub degraded_share: f64,
    /// Held-out pairs of the retrieval figures.
    pub evaluate: usize,
}

impl Default for ClipStage {
    fn default() -> Self {
        Self {
            fit: FitConfig { batch_size: 128, ..FitConfig::default() },
            text: ClipTextConfig {
                hidden_size: 64,
                intermediate_size: 256,
                num_hidden_layers: 3,
                num_attention_heads: 4,
                max_position_embeddings: 64,
                projection_dim: 64,
                architectures: vec!["CLIPTextModelWithProjection".into()],
                ..ClipTextConfig::default()
            },
            vision: ClipVisionConfig {
                hidden_size: 64,
                intermediate_size: 256,
                num_hidden_layers: 4,
                num_attention_heads: 4,
                image_size: 64,
                patch_size: 8,
                projection_dim: 64,
                ..ClipVisionConfig::default()
            },
            degraded_share: 0.25,
            evaluate: 256,
        }
    }
}

/// Both towers and the logarithm of the inverse temperature.
#[derive(Module, Debug)]
struct Contrastive {
    text: ClipText,
    vision: ClipVision,
    logit_scale: Param<Tensor<1>>,
}

/// The temperature never falls below 1/100, as in CLIP.
const MAX_LOGIT_SCALE: f64 = 4.605;

impl Contrastive {
    /// Cosine similarities `[pictures, texts]`.
    fn similarities(&self, pixels: Tensor<4>, ids: Tensor<2, Int>) -> Result<Tensor<2>> {
        let text = self.text.forward(ids).text_embeds;
        let text = unit(text.ok_or_else(|| anyhow::anyhow!("clip.text.architectures names no projection"))?);
        Ok(unit(self.vision.forward(pixels)).matmul(text.transpose()))
    }

    /// Symmetric cross-entropy of the matching pairs.
    fn loss(&self, pixels: Tensor<4>, ids: Tensor<2, Int>) -> Result<Tensor<1>> {
        let scale = self.logit_scale.val().clamp_max(MAX_LOGIT_SCALE).exp();
        let logits = self.similarities(pixels, ids)? * scale.unsqueeze::<2>();
        let [batch, _] = logits.dims();
        let diagonal = Tensor::<2>::eye(batch, &logits.device().inner());
        let rows = (log_softmax(logits.clone(), 1) * diagonal.clone()).sum();
        let columns = (log_softmax(logits, 0) * diagonal).sum();
        Ok((rows + columns).div_scalar(-2.0 * batch as f64))
    }
}

fn unit(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).add_scalar(1e-12).sqrt();
    x / norm
}

pub fn run(config: &Common, stage: &ClipStage, device: &Device, interrupted: &AtomicBool) -> Result<bool> {
    let (text_folder, vision_folder) = (config.out.join("text_encoder"), config.out.join("image_encoder"));
    if config.done("clip", stage.fit.steps) {
        return Ok(true);
    }
    let world = World::new(config.world.clone());
    let training = training(device);
    let text = config.starting("text_encoder", ClipText::new(&stage.text, &training)?)?;
    // Only its tokenizer is used here: the tower itself is still learning.
    let tokens = PromptEncoder::new(Tokenizer::clip().clone(), text.valid(), &stage.text, device);
    let towers = Contrastive {
        text,
        vision: config.starting("image_encoder", ClipVision::new(&stage.vision, &training)?)?,
        logit_scale: Param::from_tensor(Tensor::full([1], (1.0_f64 / 0.07).ln(), &training)),
    };
    let tensors = |pairs: Vec<(Picture, String)>| {
        let captions: Vec<_> = pairs.iter().map(|(_, caption)| caption).collect();
        let pixels = pictures::to_tensor(pairs.iter().map(|(picture, _)| picture), device);
        (pixels, tokens.tokenize(&captions))
    };
    // Scenes beyond `count` are held out. Their captions say all that a caption can: shorter ones fit several scenes.
    let held_out = config.world.count..config.world.count + stage.evaluate as u64;
    let similarities = |towers: &Contrastive, scenes: Vec<Scene>| {
        let draw = |scene: Scene| (scene.draw(stage.vision.image_size), scene.describe(Wording::FULL));
        let (pixels, ids) = tensors(scenes.into_par_iter().map(draw).collect());
        towers.similarities(pixels, ids)
    };
    let scenes: Vec<Scene> = held_out.clone().map(|n| world.scene(n)).collect();
    let preview = |towers: &Contrastive| {
        let similarities = similarities(towers, scenes.clone())?;
        let found = retrieval(similarities.clone(), 1);
        tracing::info!("caption of a picture found first: {:.1} %", 100.0 * found);
        Ok(Preview { loss: 1.0 - found, sheet: heat_map(similarities), figures: vec![("retrieval", found)] })
    };
    let towers = fit(
        &stage.fit,
        &config.training("clip"),
        interrupted,
        towers,
        |towers, part, size| {
            let first = part * size as u64 % config.world.count;
            let pairs = (first..first + size as u64).into_par_iter().map(|n| pair(config, stage, &world, n));
            let (pixels, ids) = tensors(pairs.collect::<Result<_>>()?);
            towers.loss(pixels, ids)
        },
        preview,
    )?;
    let Some(towers) = towers else { return Ok(false) };
    let twins = held_out.clone().flat_map(|n| {
        let scene = world.scene(n);
        let twin = twin(&scene, &mut rng(config.seed, "twin", n));
        [scene, twin]
    });
    let told_from_twin = told_from_twin(similarities(&towers, twins.collect())?);
    let similarities = similarities(&towers, scenes)?;
    let figures = json!({
        "steps": stage.fit.steps,
        "pairs": stage.fit.steps * stage.fit.batch_size as u64,
        "held_out_pairs": stage.evaluate,
        "caption_of_picture_top1": retrieval(similarities.clone(), 1),
        "caption_of_picture_top5": retrieval(similarities.clone(), 5),
        "picture_of_caption_top1": retrieval(similarities.clone().transpose(), 1),
        "picture_of_caption_top5": retrieval(similarities.transpose(), 5),
        "told_from_another_kind": told_from_twin,
    });
    let vision = ("model_type", "clip_vision_model");
    write_part(&vision_folder, &stage.vision, vision, "model.safetensors", &towers.vision)?;
    write_part(&text_folder, &stage.text, ("model_type", "clip_text_model"), "model.safetensors", &towers.text)?;
    write_figures(&config.out, "clip", &figures)?;
    Ok(true)
}

fn pair(config: &Common, stage: &ClipStage, world: &World, n: u64) -> Result<(Picture, String)> {
    let scene = world.scene(n);
    let picture = scene.draw(stage.vision.image_size);
    let mut rng = rng(config.seed, "clip", n);
    if !rng.random_bool(stage.degraded_share) {
        return Ok((picture, scene.caption));
    }
    let degraded = config.degradation.degrade(&picture, &mut rng)?;
    Ok((degraded.picture, format!("{}; {}", scene.caption, degraded.prompt)))
}

/// The scene with another kind of first object.
fn twin(scene: &Scene, rng: &mut Rng) -> Scene {
    let own = scene.objects[0].kind;
    let others: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| *kind != own).collect();
    scene.with_kind(others[rng.random_range(0..others.len())])
}

/// Share of pictures that are closer to their own caption than to their twin's, of `similarities` `[pictures, texts]` in which
/// twins follow each other.
fn told_from_twin(similarities: Tensor<2>) -> f64 {
    let [rows, _] = similarities.dims();
    let values: Vec<f32> = similarities.into_data().iter::<f32>().collect();
    let told = values.chunks_exact(rows).enumerate().filter(|(i, row)| row[*i] > row[i ^ 1]).count();
    told as f64 / rows as f64
}

/// Share of rows whose own column is among the `k` largest.
fn retrieval(similarities: Tensor<2>, k: usize) -> f64 {
    let [rows, _] = similarities.dims();
    let values: Vec<f32> = similarities.into_data().iter::<f32>().collect();
    let found = values
        .chunks_exact(rows)
        .enumerate()
        .filter(|(i, row)| row.iter().filter(|value| **value > row[*i]).count() < k)
        .count();
    found as f64 / rows as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use spire_data::world::WorldConfig;

    #[test]
    fn a_picture_is_told_from_its_twin_by_its_own_caption() {
        let similarities = Tensor::from_floats(
            [[0.9, 0.1, 0.0, 0.0], [0.8, 0.7, 0.9, 0.9], [0.0, 0.9, 0.2, 0.1], [0.9, 0.9, 0.4, 0.5]],
            &Device::flex(),
        );
        assert_eq!(told_from_twin(similarities), 0.75);
    }

    #[test]
    fn twins_differ_in_the_kind_of_the_first_object_alone() {
        let world = World::new(WorldConfig::default());
        for n in 0..50 {
            let scene = world.scene(n);
            let twin = twin(&scene, &mut rng(0, "twin", n));
            assert_ne!(twin.objects[0].kind, scene.objects[0].kind);
            assert_eq!(twin.with_kind(scene.objects[0].kind).caption, scene.caption);
        }
    }
}
