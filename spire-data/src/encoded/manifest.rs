//! `encoded.json`: of which model and configuration encoded pictures are.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use spire_core::atomic_write::write_new;
use spire_core::bounded_read;
use spire_core::settings::differences;

use super::EncodedError;
use crate::crop::Crop;

/// The file's name.
const NAME: &str = "encoded.json";

/// The version of the format.
const FORMAT: u32 = 1;

/// The most bytes of the file.
const MOST_BYTES: u64 = 1 << 20;

/// Of which model and configuration encoded pictures are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// Pictures in a file.
    pub pictures_per_file: usize,
    /// The model.
    pub model: EncodedModel,
    /// The pictures.
    pub data: EncodedData,
}

/// The parts of a model that encode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodedModel {
    /// SHA-256 of the VAE's settings and weights.
    pub vae: String,
    /// SHA-256 of the text tower's and the tokenizer's; `None` if texts are not encoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `model.precision`
    pub precision: String,
    /// `model.long_prompts`; `None` if texts are not encoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_prompts: Option<String>,
    /// SHA-256 of the CLIP that chose each picture's caption; `None` if a sample draws one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captions_by: Option<String>,
}

/// The settings of `[data]` on which clean pictures depend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodedData {
    /// Pictures of the source, the broken ones included.
    pub pictures: usize,
    /// `data.size`
    pub size: usize,
    /// `data.crop`
    pub crop: Crop,
    /// Crops of each picture; 1 if `crop` is not random.
    pub crops: usize,
    /// `data.horizontal_flip`: every crop is encoded plain and mirrored.
    pub horizontal_flip: bool,
    /// `data.min_side`
    pub min_side: usize,
    /// `data.max_aspect`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_aspect: Option<f64>,
    /// `data.max_samples`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
    /// `run.seed`: it draws the crops, and the samples of `max_samples`.
    pub seed: u64,
}

impl Manifest {
    /// The manifest of what is about to be encoded.
    pub fn new(model: EncodedModel, data: EncodedData, pictures_per_file: usize) -> Self {
        Self { format: FORMAT, pictures_per_file, model, data }
    }

    /// Reads that of a folder.
    ///
    /// # Errors
    /// There is none, or it is malformed.
    pub fn read(folder: &Path) -> Result<Self, EncodedError> {
        let path = folder.join(NAME);
        let bytes = match bounded_read::read(&path, MOST_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(EncodedError::Missing { folder: folder.to_owned() });
            }
            Err(source) => return Err(EncodedError::Io { path, source }),
        };
        let damaged = |reason: String| EncodedError::Damaged { path: path.clone(), reason };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if manifest.format != FORMAT || manifest.pictures_per_file == 0 || manifest.data.crops == 0 {
            return Err(damaged(format!("format {}, where this program reads {FORMAT}", manifest.format)));
        }
        Ok(manifest)
    }

    /// Writes it into `folder`, which is created; if there is one already, checks that it is the same.
    ///
    /// # Errors
    /// Another one is there, or the file can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), EncodedError> {
        let path = folder.join(NAME);
        let io = |source| EncodedError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let text = serde_json::to_string_pretty(self).map_err(|error| io(error.into()))?;
        match write_new(&path, format!("{text}\n").as_bytes()) {
            // Another process may have written it.
            Err(error) if error.source.kind() == ErrorKind::AlreadyExists => Self::read(folder)?.check(self, folder),
            written => written.map_err(|error| io(error.source)),
        }
    }

    /// Checks that this is `expected`.
    ///
    /// # Errors
    /// It is not; the error lists what differs.
    pub(super) fn check(&self, expected: &Self, folder: &Path) -> Result<(), EncodedError> {
        if self == expected {
            return Ok(());
        }
        let differences = match differences(self, expected) {
            Ok(found) => found.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        Err(EncodedError::Differs { folder: folder.to_owned(), differences })
    }

    /// This manifest with what only the folder of `other` decides.
    pub(super) fn with_choices_of(mut self, other: &Self) -> Self {
        self.pictures_per_file = other.pictures_per_file;
        self.model.captions_by.clone_from(&other.model.captions_by);
        if other.model.text.is_none() {
            (self.model.text, self.model.long_prompts) = (None, None);
        }
        if self.data.crop == Crop::Random {
            self.data.crops = other.data.crops;
        }
        // Another seed draws other crops and samples of the same pictures.
        if self.data.max_samples.is_none() {
            self.data.seed = other.data.seed;
        }
        self
    }

    /// Latents of a picture.
    pub fn variants(&self) -> usize {
        self.data.crops * if self.data.horizontal_flip { 2 } else { 1 }
    }

    /// The number of files.
    pub fn file_count(&self) -> usize {
        self.data.pictures.div_ceil(self.pictures_per_file)
    }

    /// The pictures of a file, by their positions in the source.
    pub fn pictures_of(&self, file: usize) -> std::ops::Range<usize> {
        let first = file * self.pictures_per_file;
        first..self.data.pictures.min(first + self.pictures_per_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let model = EncodedModel {
            vae: "a".into(),
            text: Some("b".into()),
            precision: "f32".into(),
            long_prompts: Some("truncate".into()),
            captions_by: None,
        };
        let data = EncodedData {
            pictures: 25,
            size: 64,
            crop: Crop::Random,
            crops: 3,
            horizontal_flip: true,
            min_side: 0,
            max_aspect: None,
            max_samples: None,
            seed: 7,
        };
        Manifest::new(model, data, 10)
    }

    #[test]
    fn what_differs_is_listed_and_choices_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Manifest::read(dir.path()), Err(EncodedError::Missing { .. })));
        let stored = manifest();
        stored.write(dir.path()).unwrap();
        stored.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), stored);

        let mut other = manifest();
        (other.model.vae, other.data.size) = ("c".into(), 32);
        let error = other.write(dir.path()).unwrap_err().to_string();
        assert!(error.contains("model.vae: \"a\", now \"c\"") && error.contains("data.size: 64, now 32"), "{error}");

        let mut training = manifest();
        (training.data.crops, training.data.seed, training.pictures_per_file) = (1, 8, 128);
        assert_eq!(training.clone().with_choices_of(&stored), stored);
        training.data.max_samples = Some(5);
        assert_ne!(training.with_choices_of(&stored), stored);
    }

    #[test]
    fn files_share_the_pictures() {
        let manifest = manifest();
        assert_eq!((manifest.file_count(), manifest.variants()), (3, 6));
        let pictures: Vec<usize> = (0..3).flat_map(|file| manifest.pictures_of(file)).collect();
        assert_eq!(pictures, (0..25).collect::<Vec<_>>());
    }

    #[test]
    fn a_malformed_manifest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{", "{\"format\": 1}", "[]"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            let error = Manifest::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(NAME), "{error}");
        }
    }
}
