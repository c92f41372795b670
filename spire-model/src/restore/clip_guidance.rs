//! CLIP guidance: a semantic prompt for a model that was not trained with one (paper section 4.2, "+ CLIP").
//!
//! At each step the picture that the network predicts is moved towards the prompt's place in CLIP's space, along the gradient of
//! the cosine between the two. The gradient is taken with the network's output held fixed, so that the UNet need not be
//! differentiated, and has unit root mean square, so that the scale means the same at every step.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::module::{adaptive_avg_pool2d, interpolate};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::clip::{ClipFolder, ClipText, ClipVision};
use crate::scheduler::PredictionType;
use crate::tokenizer::Tokenizer;

/// How a picture is guided.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClipGuidanceConfig {
    /// The CLIP's folder.
    pub clip: PathBuf,
    /// How far the predicted latent moves, in its own deviations, times the noise there is.
    pub scale: f64,
}

/// A CLIP that guides.
#[derive(Debug)]
pub struct ClipGuide {
    vision: ClipVision,
    text: ClipText,
    tokenizer: Tokenizer,
    context_length: usize,
    /// Pixels a side.
    side: usize,
    mean: [f64; 3],
    std: [f64; 3],
    device: Device,
}

impl ClipGuide {
    /// Loads both towers.
    ///
    /// # Errors
    /// The folder is not there, or not a CLIP's.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let clip = ClipFolder::open(folder)?;
        let (vision, config) = clip.vision(device)?;
        let (text, text_config) = clip.text(device)?;
        let (mean, std) = match clip.preprocessor(config.image_size)? {
            Some(published) => (published.image_mean, published.image_std),
            None => ([0.5; 3], [0.5; 3]),
        };
        Ok(Self {
            vision,
            text,
            tokenizer: Tokenizer::from_folder(folder)?,
            context_length: text_config.max_position_embeddings,
            side: config.image_size,
            mean,
            std,
            device: device.clone(),
        })
    }

    /// The prompts in CLIP's space, `[batch, features]` of unit length.
    pub(super) fn prompts(&self, prompts: &[String]) -> Result<Tensor<2>> {
        let pad = self.tokenizer.pad_id();
        let ids = prompts.iter().flat_map(|prompt| self.tokenizer.encode_padded(prompt, self.context_length, pad));
        let ids = TensorData::new(ids.collect::<Vec<i64>>(), [prompts.len(), self.context_length]);
        let output = self.text.forward(Tensor::<2, Int>::from_data(ids, &self.device));
        Ok(unit_length(output.text_embeds.context("CLIP's text tower has no projection")?))
    }

    /// The direction in which the latents' pictures come closer to the prompts, `[batch, channels, height, width]` of unit root
    /// mean square for each; 0 where there is none.
    fn direction(&self, base: &Base, latents: Tensor<4>, prompts: Tensor<2>) -> Result<Tensor<4>> {
        let latents = latents.autodiff().require_grad();
        let pictures = base.decode_latents(latents.clone());
        let features = unit_length(self.vision.forward(self.pixels(pictures)));
        let gradients = (features * prompts).sum().backward();
        let gradient = latents.grad(&gradients).context("the VAE's decoder has no gradient")?;
        let [batch, ..] = gradient.dims();
        let size = gradient.clone().square().reshape([batch as i64, -1]).mean_dim(1).sqrt();
        Ok(gradient / size.clamp_min(f32::MIN_POSITIVE).reshape([batch, 1, 1, 1]))
    }

    /// Pictures in \[-1, 1\] as the image tower takes them: the square in the middle, by area where it is larger and bilinear
    /// where it is smaller (which, unlike Pillow's resizing, has a gradient).
    fn pixels(&self, pictures: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = pictures.dims();
        let square = height.min(width);
        let (top, left) = ((height - square) / 2, (width - square) / 2);
        let middle = pictures.slice([0..batch, 0..channels, top..top + square, left..left + square]);
        let sized = match square.cmp(&self.side) {
            std::cmp::Ordering::Equal => middle,
            std::cmp::Ordering::Greater => adaptive_avg_pool2d(middle, [self.side, self.side]),
            std::cmp::Ordering::Less => {
                let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false);
                interpolate(middle, options.with_output_size([self.side, self.side]))
            }
        };
        let channel = |values: [f64; 3]| {
            let values = values.map(|value| value as f32);
            Tensor::<1>::from_floats(values, &self.device).reshape([1, 3, 1, 1])
        };
        (sized.add_scalar(1.0).div_scalar(2.0) - channel(self.mean)) / channel(self.std)
    }
}

/// What guides a batch.
pub(super) struct Guided<'a> {
    pub guide: &'a ClipGuide,
    pub base: &'a Base,
    pub scale: f64,
    /// `[batch, features]`, of unit length.
    pub prompts: Tensor<2>,
}

impl Guided<'_> {
    /// The network's output for `sample` at a step with `alpha` (`alphas_cumprod`), moved so that the clean latent which it stands
    /// for is `scale · √(1 - alpha)` further in the direction of the prompts.
    pub fn apply(&self, output: Tensor<4>, sample: Tensor<4>, alpha: f64) -> Result<Tensor<4>> {
        let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        ensure!(signal > 0.0, "CLIP guidance needs a predicted picture, and a step of pure noise predicts none");
        let predicts = self.base.scheduler.prediction_type;
        let clean = match predicts {
            PredictionType::Epsilon => (sample - output.clone().mul_scalar(noise)).div_scalar(signal),
            PredictionType::VPrediction => sample.mul_scalar(signal) - output.clone().mul_scalar(noise),
            PredictionType::Sample => output.clone(),
        };
        let direction = self.guide.direction(self.base, clean, self.prompts.clone())?;
        // How the output changes where the clean latent becomes larger by `noise`.
        let change = match predicts {
            PredictionType::Epsilon => -signal,
            PredictionType::VPrediction => -1.0,
            PredictionType::Sample => noise,
        };
        Ok(output + direction.mul_scalar(self.scale * change))
    }
}

fn unit_length(embeddings: Tensor<2>) -> Tensor<2> {
    let length = embeddings.clone().square().sum_dim(1).sqrt();
    embeddings / length
}
