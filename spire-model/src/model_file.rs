//! `model.toml`: what a control branch was trained for. It lies beside the branch's folder, so that restoring needs no run
//! configuration.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::base::LongPrompts;
use crate::restore::SamplingConfig;
use crate::weights::Precision;

/// The file's name.
pub const FILE_NAME: &str = "model.toml";

/// The content of `model.toml`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// The frozen model: a path, `tiny`, or a repository on the Hugging Face Hub. A relative path is looked up in the file's
    /// folder, then in the working directory.
    pub base: PathBuf,
    /// Variant of the frozen model's weights; see [`BaseSource::open_variant`](crate::base::BaseSource::open_variant).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Float type of the frozen model.
    #[serde(default)]
    pub precision: Precision,
    /// Float type in which the control branch computes; its weights are stored in f32.
    #[serde(default)]
    pub control_precision: Precision,
    /// How prompts are encoded that are longer than the text encoder reads.
    #[serde(default)]
    pub long_prompts: LongPrompts,
    /// Sampling settings to restore with, unless the user sets others.
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// The ranges of the degradations that the branch was trained on, as the trainer writes them. This crate does not read
    /// them.
    #[serde(default)]
    pub trained: toml::Table,
}

impl ModelFile {
    /// Reads `model.toml` in the folder `control` or beside it. `None` if neither file exists. The result's `base` is
    /// resolved against the file's folder.
    ///
    /// # Errors
    /// The file is unreadable, or a key is unknown, missing or out of range; the message names the file.
    pub fn of(control: &Path) -> Result<Option<Self>> {
        let beside = control.parent().map(|parent| parent.join(FILE_NAME));
        let candidates = [Some(control.join(FILE_NAME)), beside];
        let Some(file) = candidates.into_iter().flatten().find(|file| file.is_file()) else { return Ok(None) };
        let read = || -> Result<Self> {
            let mut model: Self = toml::from_str(&fs::read_to_string(&file)?)?;
            model.sampling.validate().context("[sampling]")?;
            let in_folder = file.parent().unwrap_or(Path::new("")).join(&model.base);
            if in_folder.exists() {
                model.base = in_folder;
            }
            Ok(model)
        };
        read().with_context(|| file.display().to_string()).map(Some)
    }

    /// The file's text. Write it atomically, as `model.toml` beside the folder of the branch.
    ///
    /// # Errors
    /// A number in `trained` is not representable in TOML.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_from_either_place() {
        let run = tempfile::tempdir().unwrap();
        let control = run.path().join("control");
        fs::create_dir(&control).unwrap();
        assert_eq!(ModelFile::of(&control).unwrap(), None);
        let model = ModelFile {
            base: "owner/name".into(),
            variant: Some("fp16".into()),
            precision: Precision::Bf16,
            control_precision: Precision::F32,
            long_prompts: LongPrompts::Chunk,
            sampling: SamplingConfig { steps: 20, ..SamplingConfig::default() },
            trained: toml::from_str("blur_sigma = [0.5, 3.0]").unwrap(),
        };
        for folder in [run.path(), &control] {
            fs::write(folder.join(FILE_NAME), model.to_toml().unwrap()).unwrap();
            assert_eq!(ModelFile::of(&control).unwrap().as_ref(), Some(&model));
        }
    }

    #[test]
    fn the_base_is_looked_up_beside_the_file() {
        let run = tempfile::tempdir().unwrap();
        let control = run.path().join("control");
        fs::create_dir_all(run.path().join("base")).unwrap();
        fs::write(run.path().join(FILE_NAME), "base = \"base\"").unwrap();
        assert_eq!(ModelFile::of(&control).unwrap().unwrap().base, run.path().join("base"));
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        let run = tempfile::tempdir().unwrap();
        for (text, expected) in [("base = 1", "base"), ("base = \"x\"\nextra = 1", "extra"), ("", "base")] {
            fs::write(run.path().join(FILE_NAME), text).unwrap();
            let message = format!("{:#}", ModelFile::of(&run.path().join("control")).unwrap_err());
            assert!(message.contains(FILE_NAME) && message.contains(expected), "{message}");
        }
    }
}
