//! CLIP's joint embedding space of pictures and texts.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use spire_data::Picture;
use spire_model::clip::{ClipFolder, ClipText, ClipVision, ClipVisionConfig};
use spire_model::tokenizer::Tokenizer;

use crate::clip_pixels::Preprocessing;

/// CLIP's image encoder as a feature extractor.
#[derive(Debug)]
pub struct ImageSpace {
    tower: ClipVision,
    dimensions: usize,
    preprocessing: Preprocessing,
    device: Device,
}

impl ImageSpace {
    /// Loads the image encoder of a CLIP.
    ///
    /// # Errors
    /// A file is unreadable, or the weights do not fit the configuration.
    pub fn load(clip: &ClipFolder, device: &Device) -> Result<Self> {
        let (tower, config) = clip.vision(device).context("CLIP's image tower")?;
        let preprocessing = Preprocessing::of(clip, config.image_size)?;
        let side = preprocessing.side();
        ensure!(
            side == config.image_size,
            "{}: pictures are cut to {side} pixels a side, the image tower takes {}",
            clip.path().display(),
            config.image_size
        );
        Ok(Self { tower, dimensions: config.projection_dim, preprocessing, device: device.clone() })
    }

    /// Loads the image encoder of the small CLIP from a folder with `config.json` and weights; pictures are resized by
    /// area averaging.
    ///
    /// # Errors
    /// A file is unreadable, or the weights do not fit the configuration.
    pub fn load_tower(folder: &Path, device: &Device) -> Result<Self> {
        let tower = ClipVision::load(folder, device).context("CLIP's image tower")?;
        let config = ClipVisionConfig::read(folder)?;
        let preprocessing = Preprocessing::Area { side: config.image_size };
        Ok(Self { tower, dimensions: config.projection_dim, preprocessing, device: device.clone() })
    }

    /// Number of features of a picture.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The preprocessing.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The pictures' embeddings, each of unit length.
    pub fn features(&self, pictures: &[&Picture]) -> Vec<Vec<f32>> {
        let side = self.preprocessing.side();
        let values: Vec<f32> = pictures.iter().flat_map(|picture| self.preprocessing.apply(picture)).collect();
        let input = Tensor::from_data(TensorData::new(values, [pictures.len(), 3, side, side]), &self.device);
        let embeddings = unit_length(self.tower.forward(input));
        let values: Vec<f32> = embeddings.into_data().iter::<f32>().collect();
        values.chunks_exact(self.dimensions).map(<[f32]>::to_vec).collect()
    }
}

/// CLIP's text encoder in the same space.
#[derive(Debug)]
pub struct TextSpace {
    tower: ClipText,
    dimensions: usize,
    tokenizer: Tokenizer,
    context_length: usize,
    device: Device,
}

impl TextSpace {
    /// Loads the text encoder and the tokenizer of a CLIP.
    ///
    /// # Errors
    /// A file is unreadable, the weights do not fit the configuration, or the encoder has no projection into the joint
    /// space.
    pub fn load(clip: &ClipFolder, device: &Device) -> Result<Self> {
        let (tower, config) = clip.text(device).context("CLIP's text tower")?;
        Ok(Self {
            tower,
            dimensions: config.projection_dim,
            tokenizer: Tokenizer::from_folder(clip.path())?,
            context_length: config.max_position_embeddings,
            device: device.clone(),
        })
    }

    /// Number of features of a text.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// A text's embedding, of unit length.
    ///
    /// # Errors
    /// The text encoder has no projection.
    pub fn features(&self, text: &str) -> Result<Vec<f32>> {
        let ids = self.tokenizer.encode_padded(text, self.context_length, self.tokenizer.pad_id());
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, self.context_length]), &self.device);
        let embedding = self.tower.forward(ids).text_embeds.context("CLIP's text tower has no projection")?;
        Ok(unit_length(embedding).into_data().iter::<f32>().collect())
    }
}

/// Scales each row of `[batch, features]` to unit length.
pub(crate) fn unit_length(embeddings: Tensor<2>) -> Tensor<2> {
    let length = embeddings.clone().square().sum_dim(1).sqrt();
    embeddings / length
}

/// The cosine of two feature vectors of unit length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
