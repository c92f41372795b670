//! Why a checkpoint could not be written or read.

use std::io;
use std::path::{Path, PathBuf};

use spire_core::atomic_write::WriteError;
use thiserror::Error;

use super::saved::MANIFEST;

/// Why a checkpoint could not be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// An operating system error.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A name that can't be a file of a checkpoint.
    #[error("{name:?} can't name a file of a checkpoint: use a plain file name other than {MANIFEST}")]
    Name {
        /// The name.
        name: String,
    },
    /// The checkpoint has no such file.
    #[error("the checkpoint {dir} holds no {name}; it holds {}", .held.join(", "))]
    Missing {
        /// The checkpoint.
        dir: PathBuf,
        /// The requested file.
        name: String,
        /// The files that exist.
        held: Vec<String>,
    },
    /// The run has no checkpoint of this step.
    #[error("there is no checkpoint of step {step} in {dir}; there are {}", listed(.held))]
    NoStep {
        /// The directory of checkpoints.
        dir: PathBuf,
        /// The requested step.
        step: u64,
        /// The steps that exist.
        held: Vec<u64>,
    },
    /// The checkpoint is incomplete or corrupt.
    #[error("the checkpoint {dir} is damaged: {reason}")]
    Damaged {
        /// The checkpoint.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// All checkpoints are damaged.
    #[error("every checkpoint in {dir} is damaged; restore one from a backup, or remove the run and start again:{}",
        .reasons.iter().map(|reason| format!("\n  {reason}")).collect::<String>())]
    AllDamaged {
        /// The directory of checkpoints.
        dir: PathBuf,
        /// What is wrong with each, newest first.
        reasons: Vec<String>,
    },
}

impl CheckpointError {
    /// An error of the operating system at `path`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl From<WriteError> for CheckpointError {
    fn from(WriteError { path, source }: WriteError) -> Self {
        Self::Io { path, source }
    }
}

fn listed(steps: &[u64]) -> String {
    match steps {
        [] => "none".to_owned(),
        steps => steps.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    }
}
