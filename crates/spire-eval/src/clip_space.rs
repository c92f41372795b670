//! CLIP's joint space of pictures and texts.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use spire_data::Picture;
use spire_data::degrade::{Filter, resize};
use spire_model::clip::{ClipText, ClipTextConfig, ClipVision, ClipVisionConfig};
use spire_model::pictures;
use spire_model::tokenizer::Tokenizer;

/// CLIP's image tower as a space of features.
#[derive(Debug)]
pub struct ImageSpace {
    tower: ClipVision,
    config: ClipVisionConfig,
    device: Device,
}

impl ImageSpace {
    /// From a folder with `config.json` and weights.
    ///
    /// # Errors
    /// Unreadable, or weights that do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let tower = ClipVision::load(folder, device).context("CLIP's image tower")?;
        Ok(Self { tower, config: ClipVisionConfig::read(folder)?, device: device.clone() })
    }

    /// How many features a picture has.
    pub fn dimensions(&self) -> usize {
        self.config.projection_dim
    }

    /// What is done to a picture first, for a protocol.
    pub fn preprocessing(&self) -> String {
        let side = self.config.image_size;
        format!("scaled to {side}×{side} by area where it has another size, values in [-1, 1]")
    }

    /// The embedding, of unit length.
    pub fn features(&self, picture: &Picture) -> Vec<f32> {
        let side = self.config.image_size;
        let input = if (picture.width, picture.height) == (side, side) {
            pictures::to_tensor([picture], &self.device)
        } else {
            pictures::to_tensor([&resize(picture, side, side, Filter::Area)], &self.device)
        };
        unit_length(self.tower.forward(input))
    }
}

/// CLIP's text tower in the same space.
#[derive(Debug)]
pub struct TextSpace {
    tower: ClipText,
    tokenizer: Tokenizer,
    context_length: usize,
    device: Device,
}

impl TextSpace {
    /// From a folder with `text_encoder/` and `tokenizer/`.
    ///
    /// # Errors
    /// Unreadable, weights that do not fit the configuration, or a tower without a projection into the space of pictures.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let encoder = folder.join("text_encoder");
        let config = ClipTextConfig::read(&encoder)?;
        let projected = config.architectures.iter().any(|name| name.ends_with("WithProjection"));
        ensure!(
            projected,
            "{}: its texts have no place in CLIP's space: CLIPTextModelWithProjection is needed",
            encoder.display()
        );
        Ok(Self {
            tower: ClipText::load(&encoder, device).context("CLIP's text tower")?,
            tokenizer: Tokenizer::from_folder(folder.join("tokenizer"))?,
            context_length: config.max_position_embeddings,
            device: device.clone(),
        })
    }

    /// The embedding, of unit length.
    ///
    /// # Errors
    /// The tower has no projection.
    pub fn features(&self, text: &str) -> Result<Vec<f32>> {
        let ids = self.tokenizer.encode_padded(text, self.context_length, self.tokenizer.pad_id());
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, self.context_length]), &self.device);
        Ok(unit_length(self.tower.forward(ids).text_embeds.context("CLIP's text tower has no projection")?))
    }
}

fn unit_length(embedding: Tensor<2>) -> Vec<f32> {
    let norm = embedding.clone().square().sum().sqrt();
    (embedding / norm.unsqueeze()).into_data().iter::<f32>().collect()
}

/// The cosine of the angle between two features of unit length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
