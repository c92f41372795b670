//! Where CLIP's two towers lie.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use serde::Deserialize;

use super::preprocessor::PreprocessorConfig;
use super::text::{ClipText, ClipTextConfig, tensors_in_folder};
use super::vision::{ClipVision, ClipVisionConfig};
use crate::weights::{self, Precision, Tensors, weights_file};

const PREPROCESSOR: &str = "preprocessor_config.json";

/// A folder with both towers: transformers' `CLIPModel` as it is published (`openai/clip-vit-base-patch32`), or a folder for
/// each, `image_encoder` and `text_encoder`.
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
    /// Looks what is there; reads no weights.
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

    /// The folder that was opened; its tokenizer is in it, or below in `tokenizer`.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether it is one model, as transformers publishes it.
    pub fn is_joint(&self) -> bool {
        self.joint.is_some()
    }

    /// The files with the weights, the image tower's first.
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

    /// The image tower.
    ///
    /// # Errors
    /// Unreadable, or weights that do not fit the configuration.
    pub fn vision(&self, device: &Device) -> Result<(ClipVision, ClipVisionConfig)> {
        let Some(joint) = &self.joint else {
            let folder = self.folder.join("image_encoder");
            return Ok((ClipVision::load(&folder, device)?, ClipVisionConfig::read(&folder)?));
        };
        let config = ClipVisionConfig { projection_dim: joint.projection_dim, ..joint.vision_config.clone() };
        let tensors = self.tensors(&["vision_model.", "visual_projection."])?;
        Ok((weights::fill(ClipVision::new(&config, device)?, tensors, Precision::F32)?, config))
    }

    /// The text tower, with its projection.
    ///
    /// # Errors
    /// Unreadable, weights that do not fit the configuration, or a tower without a projection into the space of pictures.
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
            "{}: its texts have no place in CLIP's space: CLIPTextModelWithProjection is needed",
            self.folder.display()
        );
        Ok((weights::fill(ClipText::new(&config, device)?, tensors, Precision::F32)?, config))
    }

    /// What is done to pictures before the image tower, which takes them with `side` pixels: what `preprocessor_config.json`
    /// says, or in one model without that file what CLIPs are trained with. `None` for towers in folders of their own without
    /// it: the small CLIP's, which takes whole pictures in \[-1, 1\].
    ///
    /// # Errors
    /// The file can't be read, or asks for what is not done here.
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
