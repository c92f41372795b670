//! CLIP as a guide: the direction in which a latent's picture comes closer to a prompt in CLIP's joint space.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::module::{adaptive_avg_pool2d, interpolate};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{ClipFolder, ClipText, ClipVision};
use crate::tokenizer::Tokenizer;

/// Settings of CLIP guidance.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClipGuidanceConfig {
    /// The folder of a CLIP, as transformers publishes it.
    pub clip: PathBuf,
    /// Length of the move of the predicted clean latent, in units of the noise level `√(1 − ᾱ_t)`.
    pub scale: f64,
}

/// Both towers of a CLIP.
#[derive(Debug)]
pub struct ClipGuide {
    vision: ClipVision,
    text: ClipText,
    tokenizer: Tokenizer,
    context_length: usize,
    /// Side of the image tower's input in pixels.
    side: usize,
    mean: [f64; 3],
    std: [f64; 3],
    device: Device,
}

impl ClipGuide {
    /// Loads both towers.
    ///
    /// # Errors
    /// The folder is missing or does not hold a CLIP.
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

    /// The prompts' embeddings, `[batch, features]` of unit length.
    pub(crate) fn prompts(&self, prompts: &[String]) -> Result<Tensor<2>> {
        let pad = self.tokenizer.pad_id();
        let ids = prompts.iter().flat_map(|prompt| self.tokenizer.encode_padded(prompt, self.context_length, pad));
        let ids = TensorData::new(ids.collect::<Vec<i64>>(), [prompts.len(), self.context_length]);
        let output = self.text.forward(Tensor::<2, Int>::from_data(ids, &self.device));
        Ok(unit_length(output.text_embeds.context("CLIP's text encoder has no projection")?))
    }

    /// The gradient of the cosine between the decoded latents and the prompts, `[batch, channels, height, width]`, scaled to unit
    /// root mean square per sample; 0 where the gradient is 0. `decode` maps latents to pictures in \[-1, 1\].
    pub(crate) fn direction(
        &self,
        decode: impl Fn(Tensor<4>) -> Tensor<4>,
        latents: Tensor<4>,
        prompts: Tensor<2>,
    ) -> Result<Tensor<4>> {
        let latents = latents.autodiff().require_grad();
        let pictures = decode(latents.clone());
        let features = unit_length(self.vision.forward(self.pixels(pictures)));
        let gradients = (features * prompts).sum().backward();
        let gradient = latents.grad(&gradients).context("the VAE's decoder has no gradient")?;
        let [batch, ..] = gradient.dims();
        let size = gradient.clone().square().reshape([batch as i64, -1]).mean_dim(1).sqrt();
        Ok(gradient / size.clamp_min(f32::MIN_POSITIVE).reshape([batch, 1, 1, 1]))
    }

    /// The image tower's input from pictures in \[-1, 1\]: the central square, reduced by area averaging or enlarged bilinearly.
    /// Pillow's resizing, which CLIP's own preprocessing uses, has no gradient here.
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

/// Each row scaled to unit length.
fn unit_length(embeddings: Tensor<2>) -> Tensor<2> {
    let length = embeddings.clone().square().sum_dim(1).sqrt();
    embeddings / length
}
