//! The sources of a text-to-image model: a folder in the Hugging Face layout, a single file, or a repository on the Hugging
//! Face Hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::clip::{self, ClipTextConfig};
use crate::locate::{self, Wanted};
use crate::scheduler::SchedulerConfig;
use crate::tokenizer::Tokenizer;
use crate::unet::UNetConfig;
use crate::vae::{self, VaeConfig};
use crate::weights::single_file::SingleFile;
use crate::weights::{Tensors, checksum, has_variant, missing_in_part};

/// An optional file beside a single-file model, with the settings that the file itself does not contain.
const SCHEDULER_FILE: &str = "scheduler_config.json";

/// The parts with weights.
const PARTS: [&str; 3] = ["unet", "vae", "text_encoder"];

/// The files to download from a model's repository.
const WANTED: [&str; 5] = ["unet/*", "vae/*", "text_encoder/*", "tokenizer/*", "scheduler/*"];

/// The parts of a text-to-image model, opened on demand.
#[derive(Clone, Debug)]
pub enum BaseSource {
    /// `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`; and the variant of the weights.
    Folder(PathBuf, Option<String>),
    /// One file in the original Stable Diffusion layout.
    File(PathBuf, SingleFile),
}

/// The configuration of the UNet in the model that [`locate`] found.
///
/// # Errors
/// The model does not exist, parts of it are missing, or it has settings that are not supported.
pub fn unet_config(path: &Path) -> Result<UNetConfig> {
    match BaseSource::open(path)? {
        BaseSource::Folder(folder, _) => UNetConfig::read(&folder.join("unet")),
        BaseSource::File(_, file) => Ok(file.unet()?.0),
    }
}

impl BaseSource {
    /// Opens what [`locate`] found.
    ///
    /// # Errors
    /// The model does not exist, or parts of it are missing.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_variant(path, None)
    }

    /// As [`Self::open`], with the weights of a variant, such as `fp16` for `diffusion_pytorch_model.fp16.safetensors`. A
    /// part that has no such weights is opened without them, with a warning.
    ///
    /// # Errors
    /// As [`Self::open`]; or no part has the variant; or the model is a single file, which has none.
    pub fn open_variant(path: &Path, variant: Option<&str>) -> Result<Self> {
        if path.is_file() {
            ensure!(variant.is_none(), "{} is a single file, which has no variants", path.display());
            return Ok(Self::File(path.to_owned(), SingleFile::new(Tensors::open(path)?)?));
        }
        ensure!(path.is_dir(), "there is no model folder or file {}", path.display());
        let missing = missing_files(path);
        ensure!(missing.is_empty(), "the model folder {} lacks {}", path.display(), missing.join(", "));
        if let Some(variant) = variant {
            let (with, without): (Vec<&str>, Vec<&str>) =
                PARTS.iter().partition(|part| has_variant(&path.join(part), variant));
            ensure!(!with.is_empty(), "the model folder {} has no variant {variant}", path.display());
            if !without.is_empty() {
                tracing::warn!("{} has no variant {variant} of {}", path.display(), without.join(", "));
            }
        }
        Ok(Self::Folder(path.to_owned(), variant.map(str::to_owned)))
    }

    /// The UNet's configuration and weights.
    ///
    /// # Errors
    /// The files are unreadable or have settings that are not supported.
    pub fn unet(&self) -> Result<(UNetConfig, Tensors)> {
        match self {
            Self::Folder(folder, variant) => {
                let part = folder.join("unet");
                Ok((UNetConfig::read(&part)?, Tensors::of_variant(&part, variant.as_deref())?))
            }
            Self::File(_, file) => file.unet(),
        }
    }

    /// The VAE's configuration and weights.
    ///
    /// # Errors
    /// The files are unreadable or have settings that are not supported.
    pub fn vae(&self) -> Result<(VaeConfig, Tensors)> {
        match self {
            Self::Folder(folder, variant) => {
                let part = folder.join("vae");
                let tensors = Tensors::of_variant(&part, variant.as_deref())?;
                Ok((VaeConfig::read(&part)?, vae::with_current_names(&tensors)))
            }
            Self::File(_, file) => file.vae(),
        }
    }

    /// The text encoder's configuration and weights.
    ///
    /// # Errors
    /// The files are unreadable or have settings that are not supported.
    pub fn text_encoder(&self) -> Result<(ClipTextConfig, Tensors)> {
        match self {
            Self::Folder(folder, variant) => {
                let part = folder.join("text_encoder");
                let tensors = Tensors::of_variant(&part, variant.as_deref())?;
                Ok((ClipTextConfig::read(&part)?, clip::text::with_full_names(&tensors)))
            }
            Self::File(_, file) => file.text_encoder(),
        }
    }

    /// The tokenizer; for a single file, CLIP's, with the padding token that the version was trained with.
    ///
    /// # Errors
    /// The tokenizer's files are unreadable.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match self {
            Self::Folder(folder, _) => Ok(Tokenizer::from_folder(folder.join("tokenizer"))?),
            Self::File(_, file) if file.is_version_2() => Ok(Tokenizer::clip().clone().with_pad_id(0)),
            Self::File(..) => Ok(Tokenizer::clip().clone()),
        }
    }

    /// The noise schedule and the prediction type. A single file does not contain them: without a `scheduler_config.json`
    /// beside it, SD 1.x is assumed to predict ε and SD 2.x, with a warning, v.
    ///
    /// # Errors
    /// The files are unreadable or have settings that are not supported.
    pub fn scheduler(&self) -> Result<SchedulerConfig> {
        let read = |path: &Path| SchedulerConfig::from_file(path).context("the scheduler's settings");
        match self {
            Self::Folder(folder, _) => read(&folder.join("scheduler")),
            Self::File(path, file) => {
                let beside = path.with_file_name(SCHEDULER_FILE);
                if beside.is_file() {
                    return read(&beside);
                }
                if file.is_version_2() {
                    tracing::warn!(
                        "{} does not contain its prediction type; v is assumed. If the UNet predicts noise, as that of \
                         stable-diffusion-2-base, put its {SCHEDULER_FILE} beside the file",
                        path.display()
                    );
                }
                Ok(file.scheduler())
            }
        }
    }
}

/// Resolves `base` to a folder or file: an existing path; `tiny` or `small`, the built-in models; or `owner/name` or
/// `owner/name@revision` on the Hugging Face Hub, from the local cache or downloaded into it.
///
/// # Errors
/// It is neither; the message says what is missing and how to get it.
pub fn locate(base: &Path) -> Result<PathBuf> {
    locate_variant(base, None)
}

/// As [`locate`]; of a repository on the Hub, the weights of `variant` are downloaded where it has them.
///
/// # Errors
/// As [`locate`].
pub fn locate_variant(base: &Path, variant: Option<&str>) -> Result<PathBuf> {
    let missing = |folder: &Path| {
        let mut missing = missing_files(folder);
        // Another variant may be in the cache alone.
        if let Some(variant) =
            variant.filter(|variant| !PARTS.iter().any(|part| has_variant(&folder.join(part), variant)))
        {
            missing.push(format!("unet/diffusion_pytorch_model.{variant}.safetensors"));
        }
        missing
    };
    let wanted = Wanted { files: &WANTED, variant };
    locate::locate(base, "model folder or file", &wanted, missing)
}

/// SHA-256 over everything that [`Base::load`](super::Base::load) reads from what [`locate`] found.
///
/// # Errors
/// A file can't be read.
pub fn checksum(path: &Path) -> Result<String> {
    if path.is_file() {
        let scheduler = Some(path.with_file_name(SCHEDULER_FILE)).filter(|file| file.is_file());
        return checksum::checksum_of([path.to_owned()].into_iter().chain(scheduler));
    }
    checksum::checksum(path, &["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
}

/// As [`checksum()`] of some of the `parts`, as in `["vae"]`, with the weights of `variant`. A single file has one checksum for all
/// of them.
///
/// # Errors
/// A file can't be read.
pub fn checksum_of_parts(path: &Path, parts: &[&str], variant: Option<&str>) -> Result<String> {
    match path.is_file() {
        true => checksum::checksum_of([path.to_owned()]),
        false => checksum::checksum_of_variant(path, parts, variant),
    }
}

/// The files that a model folder lacks, as paths in it.
pub fn missing_files(folder: &Path) -> Vec<String> {
    let mut missing = vec![];
    for part in PARTS {
        let stem = if part == "text_encoder" { "model" } else { "diffusion_pytorch_model" };
        missing.extend(missing_in_part(&folder.join(part), stem).map(|file| format!("{part}/{file}")));
    }
    let files = ["tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"];
    missing.extend(files.iter().filter(|file| !folder.join(file).is_file()).map(ToString::to_string));
    missing
}
