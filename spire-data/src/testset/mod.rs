//! Test sets on disk: clean pictures, degraded ones, prompts and checksums, made from a recipe.
//!
//! A test set (the command `spire benchmark` makes them) is a folder:
//!
//! - `clean/ID.png`: the clean pictures (absent for real photographs),
//! - `degraded/ID.png`: the degraded pictures, of the same size; `small/ID.png` before resizing back, if smaller,
//! - `prompts.jsonl`: one [`Entry`] per picture,
//! - `benchmark.json`: the recipe and the result,
//! - `SHA256SUMS` of all files, as `sha256sum --check` reads it.

mod check;
mod make;
mod open;
mod recipe;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use check::{Problem, check};
pub use make::{Made, make};
pub use open::TestSet;
pub use recipe::{Recipe, RecipeDegradation, RecipeKind};

use crate::degrade::{DegradeError, InvalidSetting, Operation, Step};
use crate::source::SourceError;

/// One picture of a test set: a line of `prompts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The name of its files, without folder and extension.
    pub id: String,
    /// Its name in the source.
    pub picture: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// The semantic prompt; empty if the source has no captions.
    pub semantic: String,
    /// The restoration prompt, with all known numbers.
    pub restoration: String,
    /// The degradations that a prompt can name, with their numbers.
    pub steps: Vec<Step>,
    /// All operations, in order.
    pub operations: Vec<Operation>,
}

/// File names in the folder of a test set.
pub(crate) const CLEAN: &str = "clean";
pub(crate) const DEGRADED: &str = "degraded";
pub(crate) const SMALL: &str = "small";
pub(crate) const PROMPTS: &str = "prompts.jsonl";
pub(crate) const DESCRIPTION: &str = "benchmark.json";
pub(crate) const SUMS: &str = "SHA256SUMS";

/// A test set can't be made or opened.
#[derive(Debug, Error)]
pub enum TestSetError {
    /// A setting of the recipe is out of range.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The source could not be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The folder exists already.
    #[error("{path} exists already: check it with spire benchmark check, or remove it to make it again")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The source has too few readable pictures.
    #[error("the source has {good} readable pictures of {tried} tried, but the recipe asks for {wanted}; {first}")]
    TooFew {
        /// Number of readable pictures.
        good: usize,
        /// Number of pictures tried.
        tried: usize,
        /// The recipe's count.
        wanted: usize,
        /// The first broken picture.
        first: String,
    },
    /// A picture can't be degraded.
    #[error("{picture} could not be degraded: {source}")]
    Degrade {
        /// Its name in the source.
        picture: String,
        /// The cause.
        source: DegradeError,
    },
    /// A picture can't be written as PNG.
    #[error("{path}: {source}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// The encoder's error.
        source: png::EncodingError,
    },
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The files do not match their checksums.
    #[error("{path} does not match its checksums: {first} (spire benchmark check lists all problems)")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// The first problem.
        first: String,
    },
    /// A line of the list of pictures is malformed.
    #[error("{path}:{line}: {source}")]
    Entry {
        /// The list.
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
        /// The cause.
        source: serde_json::Error,
    },
    /// A line of the list of checksums is malformed.
    #[error(
        "{path}:{line}: not a line of checksums: 64 hexadecimal digits, two spaces, the name of a file of the folder"
    )]
    Sums {
        /// The list.
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
    },
}
