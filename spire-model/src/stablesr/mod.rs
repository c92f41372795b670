//! StableSR (Wang et al. 2023, <https://arxiv.org/abs/2305.07015>): Stable Diffusion 2.1, whose residual blocks are modulated
//! by maps of the degraded picture, and whose decoder sees that picture too.

mod decoder;
mod networks;
mod structure;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use spire_core::Picture;
use spire_core::rng::rng;

pub use decoder::Decoder;
pub use networks::Networks;
pub use structure::StructureEncoder;

use crate::aggregation::check_shortest_side;
use crate::base::Prior;
use crate::finite::{is_finite, not_finite};
use crate::pictures;
use crate::restore::{ColourFix, noise};
use crate::scheduler::spaced::LAST;
use crate::task::Task;
use crate::weights::Tensors;

/// What starts the names of the structure encoder in the checkpoint.
const STRUCTURE: &str = "structcond_stage_model.";

/// Settings of sampling.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Steps of the spaced sampler.
    pub steps: usize,
    /// Weight of the degraded picture's features in the decoder (`dec_w` in the original code): 0 for the VAE alone, higher
    /// values stay closer to the degraded picture.
    pub decoder_weight: f64,
    /// Colour correction towards the degraded picture.
    pub colour_fix: ColourFix,
    /// Side of the tiles of larger pictures in pixels, a multiple of 64; they overlap by half. 0 for no tiles.
    pub tile: usize,
    /// Pictures whose shorter side is below this are enlarged to it: the model was trained on pictures of 512 pixels.
    pub shortest_side: usize,
}

impl Default for Settings {
    /// The published ones.
    fn default() -> Self {
        Self { steps: 200, decoder_weight: 0.5, colour_fix: ColourFix::Adain, tile: 512, shortest_side: 512 }
    }
}

impl Settings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The message names the setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        ensure!((1..=LAST + 1).contains(&self.steps), "steps must be from 1 to {}", LAST + 1);
        ensure!(self.decoder_weight.is_finite(), "decoder_weight must be a number");
        ensure!(self.tile.is_multiple_of(64), "tile must be a multiple of 64, or 0 for no tiles");
        check_shortest_side(self.shortest_side)
    }
}

/// A StableSR that is ready to restore.
#[derive(Debug)]
pub struct StableSr {
    prior: Prior,
    structure: StructureEncoder,
    decoder: Decoder,
    /// The states of the empty prompt, the only one.
    context: Tensor<3>,
    device: Device,
}

impl StableSr {
    /// Loads the published checkpoints of the model and of its decoder.
    ///
    /// # Errors
    /// A file can't be read, or does not hold what it should.
    pub fn load(model: &Path, decoder: &Path, device: &Device) -> Result<Self> {
        let prior = Prior::load(model, device)?;
        let structure = structure_encoder(model, device)?;
        let decoder = Decoder::from_tensors(&Tensors::at(decoder)?, device)?;
        let context = prior.prompts.encode(&[""]);
        Ok(Self { prior, structure, decoder, context, device: device.clone() })
    }

    /// The restored picture. The task's prompt is not used.
    ///
    /// # Errors
    /// A setting is out of range, or a network computes NaN or infinity.
    pub fn restore(&self, task: Task, settings: &Settings) -> Result<Picture> {
        let Task { degraded, size: (width, height), seed, .. } = task;
        let Prior { vae, scaling_factor, unet, .. } = &self.prior;
        let networks = Networks::new(unet, vae, *scaling_factor, &self.structure, &self.decoder);
        let mut random = rng(seed, "initial noise", 0);
        let mut draw =
            |[_, channels, height, width]: [usize; 4]| noise(&mut random, [channels, height, width], &self.device);
        let image = pictures::to_unit_tensor([degraded], &self.device);
        let restored = networks.restore(image, [height, width], &self.context, settings, &mut draw)?;
        ensure!(is_finite(&restored), not_finite("the restored picture", restored.dtype()));
        Ok(pictures::from_unit_tensor(restored).swap_remove(0))
    }
}

/// The structure encoder in the checkpoint of the whole model, a file or a folder with weights.
///
/// # Errors
/// The file can't be read, or has no such part.
pub fn structure_encoder(model: &Path, device: &Device) -> Result<StructureEncoder> {
    let part = Tensors::at(model)?.renamed(|name| name.strip_prefix(STRUCTURE).map(Into::into));
    StructureEncoder::from_tensors(&part, device).context("the structure encoder")
}
