//! One checkpoint: its manifest, its files and their checksums.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use spire_core::checksum::sha256;

use super::error::CheckpointError;

/// The version of the layout of a checkpoint directory.
pub const FORMAT: u32 = 1;
/// The file that describes the others.
pub const MANIFEST: &str = "manifest.json";

type Result<T, E = CheckpointError> = std::result::Result<T, E>;

/// A checkpoint that was intact when it was opened.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Optimiser steps done.
    pub step: u64,
    /// The directory that holds its files.
    pub dir: PathBuf,
    /// What the steps after it showed, when it was opened.
    pub standing: Standing,
    files: BTreeMap<String, FileRecord>,
}

/// What the steps after a checkpoint showed about it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing yet.
    #[default]
    New,
    /// They were finite.
    Good,
    /// They were not finite, and the run ended because of it.
    Bad,
}

/// `manifest.json`
#[derive(Deserialize, Serialize)]
pub struct Manifest {
    pub format: u32,
    /// Optimiser steps done.
    pub step: u64,
    /// The validation score; higher is better.
    pub score: Option<f64>,
    #[serde(default)]
    pub standing: Standing,
    pub files: BTreeMap<String, FileRecord>,
}

/// What the manifest says of a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FileRecord {
    bytes: u64,
    sha256: String,
}

impl FileRecord {
    /// Of a file with this content.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: sha256(bytes) }
    }
}

impl Manifest {
    /// The manifest of the checkpoint in `dir`; its files are not read.
    ///
    /// # Errors
    /// It is missing or unreadable, or of another format.
    pub fn read(dir: &Path) -> Result<Self> {
        let damaged = |reason: String| CheckpointError::Damaged { dir: dir.to_owned(), reason };
        let bytes = fs::read(dir.join(MANIFEST)).map_err(|error| damaged(format!("{MANIFEST}: {error}")))?;
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("{MANIFEST}: {error}")))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("its format is {}, and only {FORMAT} is understood", manifest.format)));
        }
        Ok(manifest)
    }

    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest is plain data")
    }
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and verifies the checksum of every file.
    ///
    /// # Errors
    /// The manifest is missing or unreadable, or a file is missing, truncated or changed.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let manifest = Manifest::read(&dir)?;
        let damaged = |reason: String| CheckpointError::Damaged { dir: dir.clone(), reason };
        if step_of(&dir).is_some_and(|step| step != manifest.step) {
            return Err(damaged(format!("{MANIFEST} is of step {}", manifest.step)));
        }
        if let Some(name) = manifest.files.keys().find(|name| !is_plain_name(name)) {
            return Err(damaged(format!("{MANIFEST} names a file outside: {name:?}")));
        }
        let checkpoint = Self { step: manifest.step, standing: manifest.standing, files: manifest.files, dir };
        for name in checkpoint.files.keys() {
            checkpoint.read(name)?;
        }
        Ok(checkpoint)
    }

    /// The content of a file; its checksum is verified again.
    ///
    /// # Errors
    /// The checkpoint has no such file, or the file has been changed or removed.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let record = self.files.get(name).ok_or_else(|| CheckpointError::Missing {
            dir: self.dir.clone(),
            name: name.to_owned(),
            held: self.files.keys().cloned().collect(),
        })?;
        let damaged = |reason: String| CheckpointError::Damaged { dir: self.dir.clone(), reason };
        let bytes = fs::read(self.dir.join(name)).map_err(|error| damaged(format!("{name}: {error}")))?;
        if bytes.len() as u64 != record.bytes {
            return Err(damaged(format!("{name} has {} bytes of {}", bytes.len(), record.bytes)));
        }
        if sha256(&bytes) != record.sha256 {
            return Err(damaged(format!("{name} does not match its checksum")));
        }
        Ok(bytes)
    }
}

/// The name of the directory of the checkpoint of `step`.
pub fn directory_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of the checkpoint in `dir`, from its name.
pub fn step_of(dir: &Path) -> Option<u64> {
    dir.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// Whether a checkpoint may have a file of this name.
pub fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    name != MANIFEST && matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}
