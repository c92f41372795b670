//! The latents that the denoiser learns from: a window over the endless scenes, so that encoding, which costs as much as a
//! step, is shared by a few uses of each scene.

use std::collections::VecDeque;
use std::sync::Mutex;

use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use spire_core::progress::PhaseProgress;
use spire_data::Picture;
use spire_data::rng::Rng;
use spire_data::world::World;
use spire_model::pictures;
use spire_model::vae::Vae;

/// How scenes pass through the window.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WindowConfig {
    /// Scenes that are encoded together, the oldest of which leave as new ones come.
    pub chunk: u64,
    /// Chunks in the window.
    pub chunks: u64,
    /// How often a scene is used on average.
    pub uses: u64,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self { chunk: 2048, chunks: 8, uses: 4 }
    }
}

/// How many scenes are encoded at a time.
const BATCH: usize = 32;

/// Scenes as latents with their captions.
#[derive(Clone)]
pub struct Encoded {
    /// `[scenes, channels, height / 8, width / 8]`, times the scaling factor.
    pub latents: Tensor<4>,
    /// One for each.
    pub captions: Vec<String>,
}

/// What encodes scenes.
pub struct Encoder<'a> {
    pub world: &'a World,
    pub vae: &'a Vae,
    pub scaling_factor: f64,
    pub device: &'a Device,
}

impl Encoder<'_> {
    /// The `count` scenes from `first` on.
    pub fn encode(&self, first: u64, count: u64) -> Encoded {
        let (mut latents, mut captions) = (Vec::new(), Vec::new());
        let numbers: Vec<u64> = (first..first + count).collect();
        for batch in numbers.chunks(BATCH) {
            let scenes: Vec<(Picture, String)> = batch
                .par_iter()
                .map(|&n| {
                    let scene = self.world.scene(n);
                    (scene.draw(self.world.config.size), scene.caption)
                })
                .collect();
            let pictures = pictures::to_tensor(scenes.iter().map(|(picture, _)| picture), self.device);
            latents.push(self.vae.encode(pictures).0.mul_scalar(self.scaling_factor));
            captions.extend(scenes.into_iter().map(|(_, caption)| caption));
        }
        Encoded { latents: Tensor::cat(latents, 0), captions }
    }
}

/// The window. What is drawn from it for a sample depends on the sample's position alone.
pub struct Window<'a> {
    config: WindowConfig,
    encoder: Encoder<'a>,
    /// The number of the first chunk, and the chunks.
    chunks: Mutex<(u64, VecDeque<Encoded>)>,
}

impl<'a> Window<'a> {
    /// An empty window.
    pub fn new(config: WindowConfig, encoder: Encoder<'a>) -> Self {
        Self { config, encoder, chunks: Mutex::default() }
    }

    /// `size` scenes for the samples from `position` on.
    pub fn draw(&self, position: u64, size: usize, rng: &mut Rng) -> Encoded {
        let WindowConfig { chunk, chunks, uses } = self.config;
        // While `chunk · uses` samples are drawn, one chunk comes and one goes.
        let first = position / (chunk * uses).max(1);
        let mut window = self.chunks.lock().expect("encoding does not panic");
        let (start, held) = &mut *window;
        while *start < first && !held.is_empty() {
            held.pop_front();
            *start += 1;
        }
        if held.is_empty() {
            *start = first;
        }
        let missing = chunks.max(1).saturating_sub(held.len() as u64);
        // Later a chunk comes now and then; only the first filling takes minutes.
        let progress = held.is_empty().then(|| PhaseProgress::new("chunks of scenes encoded", missing));
        for _ in 0..missing {
            let number = *start + held.len() as u64;
            let scene = number * chunk % self.encoder.world.config.count;
            held.push_back(self.encoder.encode(scene, chunk));
            progress.iter().for_each(|progress| progress.advance(""));
        }
        let chosen: Vec<(usize, usize)> =
            (0..size).map(|_| (rng.random_range(0..held.len()), rng.random_range(0..chunk as usize))).collect();
        let latents = chosen.iter().map(|&(chunk, scene)| held[chunk].latents.clone().narrow(0, scene, 1));
        Encoded {
            latents: Tensor::cat(latents.collect(), 0),
            captions: chosen.iter().map(|&(chunk, scene)| held[chunk].captions[scene].clone()).collect(),
        }
    }
}
