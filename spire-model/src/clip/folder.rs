//! Finds the two encoders of a CLIP.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use serde::Deserialize;

use super::preprocessor::PreprocessorConfig;
use super::text::{ClipText, ClipTextConfig, tensors_in_folder};
use super::vision::{ClipVision, ClipVisionConfig};
use crate::weights::{self, Precision, Tensors, weights_file};

const PREPROCESSOR: &str = "preprocessor_config.json";

/// A folder with both encoders: a `CLIPModel` as transformers publishes it (`openai/clip-vit-base-patch32`), or one
/// with the folders `image_encoder` and `text_encoder`.
#[derive(Clone, Debug)]
pub struct ClipFolder {
    folder: PathBuf,
    joint: Option<JointConfig>,
}

/// transformers' `CLIPConfig`.
#[derive(Clone, Debug, Deserialize)]
struct JointConfig {
    text_config: ClipTextConfig,
    vision_config: ClipVisionConfig,
    projection_dim: usize,
}

impl ClipFolder {
    /// Detects the layout; reads no weights.
    ///
    /// # Errors
    /// The folder holds neither layout, or its `config.json` can't be read.
    pub fn open(folder: &Path) -> Result<Self> {
        ensure!(folder.is_dir(), "CLIP: there is no folder {}", folder.display());
        let joint = folder.join("config.json").is_file();
        ensure!(
            joint || folder.join("image_encoder").is_dir(),
            "CLIP: {} has neither config.json (transformers' CLIPModel) nor image_encoder and text_encoder",
            folder.display()
        );
        let joint = joint.then(|| weights::read_config(folder, "config.json")).transpose()?;
        Ok(Self { folder: folder.to_owned(), joint })
    }

    /// The folder; its tokenizer is in it or in `tokenizer` below it.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether it is a single `CLIPModel`.
    pub fn is_joint(&self) -> bool {
        self.joint.is_some()
    }

    /// The files with the weights, the image encoder's first.
    ///
    /// # Errors
    /// There are none.
    pub fn weights_files(&self) -> Result<Vec<PathBuf>> {
        let folders = match self.joint {
            Some(_) => vec![self.folder.clone()],
            None => vec![self.folder.join("image_encoder"), self.folder.join("text_encoder")],
        };
        folders.iter().map(|folder| weights_file(folder)).collect()
    }

    /// The image encoder.
    ///
    /// # Errors
    /// A file is unreadable, or the weights do not fit the configuration.
    pub fn vision(&self, device: &Device) -> Result<(ClipVision, ClipVisionConfig)> {
        let Some(joint) = &self.joint else {
            let folder = self.folder.join("image_encoder");
            return Ok((ClipVision::load(&folder, device)?, ClipVisionConfig::read(&folder)?));
        };
        let config = ClipVisionConfig { projection_dim: joint.projection_dim, ..joint.vision_config.clone() };
        let tensors = self.tensors(&["vision_model.", "visual_projection."])?;
        Ok((weights::fill(ClipVision::new(&config, device)?, tensors, Precision::F32)?, config))
    }

    /// The text encoder with its projection.
    ///
    /// # Errors
    /// A file is unreadable, the weights do not fit the configuration, or the encoder has no projection into the joint
    /// space.
    pub fn text(&self, device: &Device) -> Result<(ClipText, ClipTextConfig)> {
        let (config, tensors) = match &self.joint {
            Some(joint) => {
                let config = ClipTextConfig {
                    projection_dim: joint.projection_dim,
                    architectures: vec!["CLIPTextModelWithProjection".into()],
                    ..joint.text_config.clone()
                };
                (config, self.tensors(&["text_model.", "text_projection."])?)
            }
            None => {
                let folder = self.folder.join("text_encoder");
                (ClipTextConfig::read(&folder)?, tensors_in_folder(&folder)?)
            }
        };
        let projected = config.architectures.iter().any(|name| name.ends_with("WithProjection"));
        ensure!(
            projected,
            "{}: this text encoder has no projection into the joint space; use a CLIPTextModelWithProjection",
            self.folder.display()
        );
        Ok((weights::fill(ClipText::new(&config, device)?, tensors, Precision::F32)?, config))
    }

    /// The preprocessing for the image encoder, whose input has `side` pixels: from `preprocessor_config.json`, or
    /// CLIP's usual preprocessing for a single `CLIPModel` without that file. `None` for separate folders without the
    /// file, as in the small CLIP, which takes whole pictures in \[-1, 1\].
    ///
    /// # Errors
    /// The file can't be read, or asks for preprocessing that is not supported.
    pub fn preprocessor(&self, side: usize) -> Result<Option<PreprocessorConfig>> {
        let file = self.folder.join(PREPROCESSOR);
        if !file.is_file() {
            return Ok(self.is_joint().then(|| PreprocessorConfig::of_side(side)));
        }
        let config: PreprocessorConfig = weights::read_config(&self.folder, PREPROCESSOR)?;
        config.check().with_context(|| file.display().to_string())?;
        Ok(Some(config))
    }

    fn tensors(&self, prefixes: &[&str]) -> Result<Tensors> {
        let tensors = Tensors::in_folder(&self.folder)?;
        Ok(tensors.renamed(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)).then(|| name.to_owned())))
    }
}
