//! Test sets on disk: clean pictures, degraded ones, prompts and checksums, made from a recipe.
//!
//! A benchmark is a folder:
//!
//! - `clean/ID.png`, what a restoration is compared with (not of real photographs, which have none),
//! - `degraded/ID.png`, what is restored, of the same size; and `small/ID.png` where the degradation left it smaller,
//! - `prompts.jsonl`, a line for each picture: see [`Entry`],
//! - `benchmark.json`, the recipe and what came of it,
//! - `SHA256SUMS` of all of these, as `sha256sum --check` reads it.

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

/// One picture of a benchmark: a line of `prompts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What its files are called, without the folder and `.png`.
    pub id: String,
    /// Its name in the source.
    pub picture: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// What it shows; empty where the source has no captions.
    pub semantic: String,
    /// The restoration prompt, with every number that is known.
    pub restoration: String,
    /// The degradations that the prompt can name, with their numbers.
    pub steps: Vec<Step>,
    /// All that was done to it, in order.
    pub operations: Vec<Operation>,
}

/// Names in a benchmark's folder.
pub(crate) const CLEAN: &str = "clean";
pub(crate) const DEGRADED: &str = "degraded";
pub(crate) const SMALL: &str = "small";
pub(crate) const PROMPTS: &str = "prompts.jsonl";
pub(crate) const DESCRIPTION: &str = "benchmark.json";
pub(crate) const SUMS: &str = "SHA256SUMS";

/// Why a benchmark can't be made or checked.
#[derive(Debug, Error)]
pub enum TestSetError {
    /// A setting of the recipe makes no sense.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The source does not open.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The folder is taken.
    #[error("{path} is there already: check it, or remove it to make it again")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// There are not enough sound pictures.
    #[error("the source has {good} sound pictures of {tried} tried, and the recipe wants {wanted}; {first}")]
    TooFew {
        /// How many could be read.
        good: usize,
        /// How many were tried.
        tried: usize,
        /// The recipe's count.
        wanted: usize,
        /// The first that is broken.
        first: String,
    },
    /// A picture can't be degraded.
    #[error("{picture} could not be degraded: {source}")]
    Degrade {
        /// Its name in the source.
        picture: String,
        /// What is wrong.
        source: DegradeError,
    },
    /// A picture can't be written as PNG.
    #[error("{path}: {source}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        source: png::EncodingError,
    },
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A benchmark is not what was made.
    #[error("{path} is not the benchmark that was made: {first} (spire benchmark check lists all)")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the first file.
        first: String,
    },
    /// A line of the list of pictures is malformed.
    #[error("{path}:{line}: {source}")]
    Entry {
        /// The list.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line of the list of checksums is none.
    #[error(
        "{path}:{line}: not a line of checksums: 64 hexadecimal digits, two spaces, the name of a file of the folder"
    )]
    Sums {
        /// The list.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}
