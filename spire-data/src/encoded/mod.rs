//! Latents and text states that were computed before training: a folder that `spire data encode` writes and training
//! reads.
//!
//! - `encoded.json`: the [`Manifest`]: of which model and configuration they are,
//! - `encoded-00000.safetensors`, …: the pictures of the source in their order, a fixed number in each file.
//!
//! A file is written under a temporary name and renamed: it is complete or does not exist. Its tensors are `pictures` (their
//! positions in the source), `latents` (of every picture, all crops, plain and mirrored), `fingerprints` (of the clean pictures
//! that were encoded) and `text.0`, `text.1`, … (the states of the prompts that its header lists).
//!
//! Nothing here depends on tensors: arrays are bytes with a type and a shape.

mod file;
mod manifest;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use file::{Array, EncodedPictures};
pub use manifest::{EncodedData, EncodedModel, Manifest};

use crate::Picture;
use crate::order::mix;
use crate::parallel::in_order;
use crate::rng::rng;
use crate::source::Pixels;
use file::EncodedFile;
use rand::RngExt;

/// Encoded pictures can't be written or used.
#[derive(Debug, Error)]
pub enum EncodedError {
    /// The folder has no encoded pictures.
    #[error("there are no encoded pictures in {folder}: write them with spire data encode")]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// They are of another model or configuration.
    #[error(
        "the encoded pictures in {folder} are of another model or configuration:\n  {}\nEncode into another folder, or use the \
         model and the configuration that they are of",
        .differences.join("\n  ")
    )]
    Differs {
        /// The folder.
        folder: PathBuf,
        /// A line for each key that differs.
        differences: Vec<String>,
    },
    /// Some files are not written yet.
    #[error(
        "{missing} of {all} files of encoded pictures are missing, the first: {first}; run spire data encode again, with every \
         --shard: it writes what is missing"
    )]
    Incomplete {
        /// The first missing file.
        first: PathBuf,
        /// The number of missing files.
        missing: usize,
        /// The number of all files.
        all: usize,
    },
    /// A file is not as it was written.
    #[error("{path}: {reason}: remove the file and run spire data encode again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The source has another picture than when it was encoded.
    #[error(
        "{name} is not the picture that was encoded: its pixels differ. The pictures or their order have changed: encode them \
         again, into another folder"
    )]
    Changed {
        /// The sample's name.
        name: String,
    },
    /// A prompt has no states.
    #[error("the prompt \"{prompt}\" of {name} is not among the encoded ones: encode again, into another folder")]
    NoStates {
        /// The sample's name.
        name: String,
        /// The prompt.
        prompt: String,
    },
}

/// An opened folder of encoded pictures.
#[derive(Debug)]
pub struct Encoded {
    folder: PathBuf,
    manifest: Manifest,
    files: Vec<EncodedFile>,
    /// Whether every restoration prompt must be among the encoded ones too.
    all_texts: bool,
}

/// A picture as it is encoded.
#[derive(Clone, Debug)]
pub struct PictureToEncode {
    /// Its name in the source.
    pub name: String,
    /// The whole picture.
    pub picture: Pixels,
    /// Its crops, each plain and, if the configuration mirrors pictures, mirrored.
    pub variants: Vec<Picture>,
    /// The fingerprint of each.
    pub fingerprints: Vec<u64>,
    /// Its captions; none if the source accepts that.
    pub captions: Vec<String>,
    /// The restoration prompt of a pair; otherwise that of blind restoration, the only one that is known beforehand.
    pub restoration: String,
}

/// What was computed of one training sample.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedSample {
    /// The latent of the clean picture, `[channels, height / 8, width / 8]`, float32.
    pub latent: Array,
    /// The states of the semantic and the restoration prompt, `[tokens, width]`; `None` if texts were not encoded or, for
    /// the restoration prompt, this one was not.
    pub texts: [Option<Array>; 2],
}

impl Encoded {
    /// Opens the folder of a training that expects `expected`: its pictures and its model. What the folder alone decides
    /// (how many crops, which captions, whether there are texts) is taken from it.
    ///
    /// # Errors
    /// There is nothing, it is of another model or configuration, incomplete or damaged.
    pub fn open(folder: &Path, expected: &Manifest) -> Result<Self, EncodedError> {
        let manifest = Manifest::read(folder)?;
        manifest.check(&expected.clone().with_choices_of(&manifest), folder)?;
        let count = manifest.file_count();
        let names: Vec<PathBuf> = (0..count).map(|number| file::path(folder, number)).collect();
        let missing: Vec<&PathBuf> = names.iter().filter(|path| !path.is_file()).collect();
        if let Some(&first) = missing.first() {
            return Err(EncodedError::Incomplete { first: first.clone(), missing: missing.len(), all: count });
        }
        let files = in_order(count, crate::parallel::available(), |number| {
            EncodedFile::open(&names[number], number, &manifest)
        })?;
        Ok(Self { folder: folder.to_owned(), manifest, files, all_texts: false })
    }

    /// With `all`, a restoration prompt that was not encoded is an error: nothing else could encode it.
    pub fn requiring_texts(self, all: bool) -> Self {
        Self { all_texts: all, ..self }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Of which model and configuration it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether picture `index` of the source was encoded; a broken one was not.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.file(index).is_some_and(|file| file.has(index))
    }

    /// The chosen caption of picture `index`, counted from 0, if the captions were ranked.
    pub(crate) fn caption(&self, index: usize) -> Option<usize> {
        self.file(index)?.caption(index)
    }

    /// What was computed of picture `index`: the latent of `variant`, whose clean picture is `clean`, and the states of
    /// `prompts`, the semantic and the restoration prompt.
    ///
    /// # Errors
    /// The clean picture is not the one that was encoded, a prompt that is needed was not encoded, or a file can't be read.
    pub(crate) fn sample(
        &self,
        index: usize,
        variant: usize,
        name: &str,
        clean: &Picture,
        prompts: [&str; 2],
    ) -> Result<EncodedSample, EncodedError> {
        let changed = || EncodedError::Changed { name: name.to_owned() };
        let file = self.file(index).ok_or_else(changed)?;
        if file.fingerprint(index, variant) != Some(fingerprint(clean)) {
            return Err(changed());
        }
        let latent = file.latent(index, variant)?;
        if self.manifest.model.text.is_none() {
            return Ok(EncodedSample { latent, texts: [None, None] });
        }
        let texts =
            [(prompts[0], true), (prompts[1], self.all_texts)].map(|(prompt, needed)| match file.text(prompt)? {
                None if needed => Err(EncodedError::NoStates { name: name.to_owned(), prompt: prompt.to_owned() }),
                states => Ok(states),
            });
        let [semantic, restoration] = texts;
        Ok(EncodedSample { latent, texts: [semantic?, restoration?] })
    }

    fn file(&self, index: usize) -> Option<&EncodedFile> {
        self.files.get(index / self.manifest.pictures_per_file)
    }
}

/// The number of an encoded variant of a picture: which of its crops, and whether it is mirrored.
pub(crate) fn variant(crop: usize, mirrored: bool, data: &EncodedData) -> usize {
    if data.horizontal_flip { 2 * crop + usize::from(mirrored) } else { crop }
}

/// The draws of one of the crops of a picture. They depend on nothing but the folder's seed, the picture and the crop.
pub(crate) fn crop_rng(data: &EncodedData, index: usize, crop: usize) -> crate::rng::Rng {
    rng(data.seed, "encoded crop", index as u64 * data.crops as u64 + crop as u64)
}

/// The crop that the n-th sample of a training uses, if a picture has several.
pub(crate) fn drawn_crop(data: &EncodedData, seed: u64, n: u64) -> usize {
    rng(seed, "encoded variant", n).random_range(0..data.crops)
}

/// A number that another picture has with a probability of 2⁻⁶⁴.
pub(crate) fn fingerprint(picture: &Picture) -> u64 {
    let start = mix((picture.width as u64) << 32 | picture.height as u64);
    picture.data.iter().fold(start, |hash, value| mix(hash ^ u64::from(value.to_bits())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_other_pixel_is_another_picture() {
        let picture = Picture::filled(5, 4, [0.25, 0.5, 0.75]);
        assert_eq!(fingerprint(&picture), fingerprint(&picture.clone()));
        for i in 0..picture.data.len() {
            let mut other = picture.clone();
            other.data[i] = other.data[i].next_up();
            assert_ne!(fingerprint(&other), fingerprint(&picture));
        }
        assert_ne!(fingerprint(&Picture::filled(4, 5, [0.5; 3])), fingerprint(&Picture::filled(5, 4, [0.5; 3])));
    }
}
