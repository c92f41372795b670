//! Models of other authors that restore pictures by Stable Diffusion, from their published files: DiffBIR and StableSR.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spire_core::Picture;

use crate::diffbir::{self, DiffBir, Version};
use crate::feedforward::NetworkKind;
use crate::restore::ClipGuidanceConfig;
use crate::stablesr::{self, StableSr};
use crate::task::Task;
use crate::weights::published_file;

/// The models.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum GenerativeKind {
    /// DiffBIR, version 1, for general pictures.
    #[serde(rename = "diffbir")]
    DiffBir,
    /// DiffBIR, version 2, for super-resolution.
    #[serde(rename = "diffbir-v2")]
    DiffBirV2,
    /// DiffBIR, version 2, for denoising.
    #[serde(rename = "diffbir-v2-denoising")]
    DiffBirV2Denoising,
    /// DiffBIR, version 2.1.
    #[serde(rename = "diffbir-v2.1")]
    DiffBirV2_1,
    /// StableSR, 512 pixels.
    #[serde(rename = "stablesr")]
    StableSr,
}

/// A published checkpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PublishedCheckpoint {
    /// The file's name.
    pub file: &'static str,
    /// Where it is published.
    pub url: &'static str,
}

const fn checkpoint(file: &'static str, url: &'static str) -> PublishedCheckpoint {
    PublishedCheckpoint { file, url }
}

const DIFFBIR: &str = "https://huggingface.co/lxq007/DiffBIR-v2";
const STABLESR: &str = "https://huggingface.co/Iceclear/StableSR";
const KAIR: &str = "https://github.com/cszn/KAIR/releases/tag/v1.0";
const SD21: PublishedCheckpoint =
    checkpoint("v2-1_512-ema-pruned.ckpt", "https://huggingface.co/stabilityai/stable-diffusion-2-1-base");

impl GenerativeKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::DiffBir, Self::DiffBirV2, Self::DiffBirV2Denoising, Self::DiffBirV2_1, Self::StableSr];

    /// The published files of which the model consists: the text-to-image model, the control branch and the first stage of
    /// DiffBIR; the model and the decoder of StableSR.
    pub fn checkpoints(self) -> Vec<PublishedCheckpoint> {
        match self {
            Self::DiffBir => vec![
                SD21,
                checkpoint("v1_general.pth", DIFFBIR),
                checkpoint("general_swinir_v1.ckpt", "https://huggingface.co/lxq007/DiffBIR"),
            ],
            Self::DiffBirV2 => vec![SD21, checkpoint("v2.pth", DIFFBIR), checkpoint("BSRNet.pth", KAIR)],
            Self::DiffBirV2Denoising => {
                vec![SD21, checkpoint("v2.pth", DIFFBIR), checkpoint("scunet_color_real_psnr.pth", KAIR)]
            }
            Self::DiffBirV2_1 => vec![
                checkpoint("sd2.1-base-zsnr-laionaes5.ckpt", DIFFBIR),
                checkpoint("DiffBIR_v2.1.pt", DIFFBIR),
                checkpoint("realesrgan_s4_swinir_100k.pth", DIFFBIR),
            ],
            Self::StableSr => {
                vec![checkpoint("stablesr_000117.ckpt", STABLESR), checkpoint("vqgan_cfw_00011.ckpt", STABLESR)]
            }
        }
    }

    /// The files of [`Self::checkpoints`] in `folder`, in their order, under their own names or with the ending of another
    /// format.
    ///
    /// # Errors
    /// One error that names every missing file and its address.
    pub fn files_in(self, folder: &Path) -> Result<Vec<PathBuf>> {
        let (mut files, mut missing) = (vec![], vec![]);
        for PublishedCheckpoint { file, url } in self.checkpoints() {
            match published_file(folder, file) {
                Some(path) => files.push(path),
                None => missing.push(format!("{file} ({url})")),
            }
        }
        let folder = folder.display();
        ensure!(
            missing.is_empty(),
            "{self} lacks checkpoints; download into the folder {folder}: {}",
            missing.join(", ")
        );
        Ok(files)
    }

    /// The published settings, with the values of `keys`.
    ///
    /// # Errors
    /// A key is unknown, or a value is of the wrong type or out of range.
    pub fn settings(self, keys: &toml::Table) -> Result<GenerativeSettings> {
        let settings = match self.version() {
            Some(version) => GenerativeSettings::DiffBir(with_keys(&diffbir::Settings::published(version), keys)?),
            None => GenerativeSettings::StableSr(with_keys(&stablesr::Settings::default(), keys)?),
        };
        match &settings {
            GenerativeSettings::DiffBir(settings) => settings.validate()?,
            GenerativeSettings::StableSr(settings) => settings.validate()?,
        }
        Ok(settings)
    }

    /// Whether the model reads a prompt that says what the picture shows.
    pub fn reads_prompts(self) -> bool {
        self.version().is_some()
    }

    /// The version of DiffBIR.
    fn version(self) -> Option<Version> {
        match self {
            Self::DiffBir => Some(Version::V1),
            Self::DiffBirV2 | Self::DiffBirV2Denoising => Some(Version::V2),
            Self::DiffBirV2_1 => Some(Version::V2_1),
            Self::StableSr => None,
        }
    }

    /// The network of DiffBIR's first stage.
    fn first_stage(self) -> NetworkKind {
        match self {
            Self::DiffBirV2 => NetworkKind::BsrNet,
            Self::DiffBirV2Denoising => NetworkKind::ScuNet,
            _ => NetworkKind::SwinIr,
        }
    }
}

/// The name in a configuration.
impl fmt::Display for GenerativeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// `defaults` with the values of `keys`.
fn with_keys<T: Serialize + DeserializeOwned>(defaults: &T, keys: &toml::Table) -> Result<T> {
    let mut all = toml::Table::try_from(defaults)?;
    all.extend(keys.clone());
    all.try_into().map_err(|error: toml::de::Error| anyhow::anyhow!("{}", error.message()))
}

/// How one of the models samples.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged)]
pub enum GenerativeSettings {
    /// Of DiffBIR.
    DiffBir(diffbir::Settings),
    /// Of StableSR.
    StableSr(stablesr::Settings),
}

impl GenerativeSettings {
    /// The CLIP that guides, if one does.
    pub fn clip_guidance(&self) -> Option<&ClipGuidanceConfig> {
        match self {
            Self::DiffBir(settings) => settings.clip_guidance.as_ref(),
            Self::StableSr(_) => None,
        }
    }

    /// Whether the settings have an effect only with a prompt that says what the picture shows.
    pub fn needs_prompt(&self) -> bool {
        match self {
            Self::DiffBir(settings) => settings.strength < 1.0 || settings.clip_guidance.is_some(),
            Self::StableSr(_) => false,
        }
    }
}

/// A model that is ready to restore.
#[derive(Debug)]
pub enum GenerativeModel {
    /// A DiffBIR.
    DiffBir(Box<DiffBir>),
    /// A StableSR.
    StableSr(Box<StableSr>),
}

impl GenerativeModel {
    /// Loads the model from its published files in `folder`.
    ///
    /// # Errors
    /// A file is missing, can't be read, or does not hold what it should.
    pub fn load(kind: GenerativeKind, folder: &Path, device: &Device) -> Result<Self> {
        let files = kind.files_in(folder)?;
        let load = || -> Result<Self> {
            Ok(match (kind.version(), files.as_slice()) {
                (Some(version), [base, control, first]) => {
                    let first = (kind.first_stage(), first.as_path());
                    Self::DiffBir(Box::new(DiffBir::load(version, base, control, first, device)?))
                }
                (None, [model, decoder]) => Self::StableSr(Box::new(StableSr::load(model, decoder, device)?)),
                _ => unreachable!("as many files as the kind has"),
            })
        };
        load().with_context(|| format!("{kind} in {}", folder.display()))
    }

    /// Loads the CLIP that guides, or unloads it for `None`.
    ///
    /// # Errors
    /// The folder is missing or does not hold a CLIP.
    pub fn guide_by(&mut self, guidance: Option<&ClipGuidanceConfig>) -> Result<()> {
        match self {
            Self::DiffBir(model) => model.guide_by(guidance.map(|guidance| guidance.clip.as_path())),
            Self::StableSr(_) => Ok(()),
        }
    }

    /// The restored picture.
    ///
    /// # Errors
    /// A setting is out of range or of another model, or a network computes NaN or infinity.
    pub fn restore(&self, task: Task, settings: &GenerativeSettings) -> Result<Picture> {
        match (self, settings) {
            (Self::DiffBir(model), GenerativeSettings::DiffBir(settings)) => model.restore(task, settings),
            (Self::StableSr(model), GenerativeSettings::StableSr(settings)) => model.restore(task, settings),
            _ => bail!("these are settings of another model"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_change_the_published_settings() {
        let settings = |kind: GenerativeKind, keys: &str| kind.settings(&toml::from_str(keys).unwrap());
        let GenerativeSettings::DiffBir(two) = settings(GenerativeKind::DiffBirV2, "steps = 7").unwrap() else {
            panic!("settings of DiffBIR");
        };
        assert_eq!((two.steps, two.guidance_scale), (7, 4.0));
        assert!(settings(GenerativeKind::DiffBir, "strength = 0.5").unwrap().needs_prompt());
        assert!(!settings(GenerativeKind::DiffBir, "").unwrap().needs_prompt());
        for (kind, keys, expected) in [
            (GenerativeKind::StableSr, "guidance_scale = 2.0", "guidance_scale"),
            (GenerativeKind::DiffBir, "steps = \"many\"", "string"),
            (GenerativeKind::StableSr, "tile = 100", "tile must be a multiple of 64"),
        ] {
            let message = settings(kind, keys).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn missing_files_are_named_with_their_addresses() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("v2.safetensors"), "").unwrap();
        let message = GenerativeKind::DiffBirV2.files_in(folder.path()).unwrap_err().to_string();
        assert!(message.starts_with("diffbir-v2 lacks checkpoints"), "{message}");
        assert!(message.contains("v2-1_512-ema-pruned.ckpt (https://") && message.contains("BSRNet.pth"), "{message}");
        assert!(!message.contains("v2.pth"), "{message}");
        for kind in GenerativeKind::ALL {
            assert!(kind.files_in(folder.path()).is_err());
        }
    }
}
