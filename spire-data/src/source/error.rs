//! What can be wrong with a source, or with one sample of it.

use std::path::PathBuf;

use thiserror::Error;

use crate::PictureError;

/// What is wrong with one sample; the others may be fine.
#[derive(Debug, Error)]
pub enum SampleError {
    /// The picture's file is missing, unreadable or no picture.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The caption's file is missing or unreadable.
    #[error("{path}: no caption: {source}")]
    CaptionFile {
        /// The caption's file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caption is not text.
    #[error("{path}: the caption is not UTF-8 (byte {offset})")]
    CaptionEncoding {
        /// The caption's file.
        path: PathBuf,
        /// How many bytes before the first that is wrong.
        offset: usize,
    },
    /// What holds the sample can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The shard.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file ends before the sample does.
    #[error("{path}: the file is cut short: it should go on to byte {end}")]
    CutShort {
        /// The shard and the name in it.
        path: PathBuf,
        /// Where the sample ends.
        end: u64,
    },
    /// A caption or a picture is so large that it can't be one.
    #[error("{path}: {bytes} bytes are too many for a picture or a caption: the most are {most}")]
    TooLarge {
        /// The shard and the name in it.
        path: PathBuf,
        /// How many bytes.
        bytes: u64,
        /// How many are read.
        most: u64,
    },
    /// A caption, or a name, but no picture.
    #[error("{path}: no picture: {wanted}")]
    NoPicture {
        /// The sample.
        path: PathBuf,
        /// What is looked for.
        wanted: String,
    },
    /// Metadata that should hold the caption are not JSON.
    #[error("{path}: not JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// A list of pictures names a file elsewhere.
    #[error("{path}: {name} lies outside the folder of the pictures")]
    Outside {
        /// The list.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// A group of rows that a Parquet file holds can't be decoded.
    #[error("{path}: row group {group}: {message}")]
    RowGroup {
        /// The file.
        path: PathBuf,
        /// Which, from 0.
        group: usize,
        /// What is wrong.
        message: String,
    },
    /// There is no caption, or nothing but white space.
    #[error("{path}: no caption for {name}")]
    NoCaption {
        /// The sample's name.
        name: String,
        /// The file that should hold the caption.
        path: PathBuf,
    },
}

/// Why a source could not be opened at all.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A setting that this kind needs is missing.
    #[error("data.source.{key} is not set: kind = \"{kind}\" needs {what}")]
    Unset {
        /// The missing key of `[data.source]`.
        key: &'static str,
        /// The kind that needs it.
        kind: &'static str,
        /// What it should be.
        what: &'static str,
    },
    /// A folder is not there, or is a file.
    #[error("{path}: no such folder (data.source.{key})")]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// The key of `[data.source]` that names it.
        key: &'static str,
    },
    /// A folder can't be listed.
    #[error("{path}: the folder can't be searched: {source}")]
    List {
        /// The folder, or one below it.
        path: PathBuf,
        /// What the system said.
        source: walkdir::Error,
    },
    /// A file can't be read.
    #[error("{path}: {source} (data.source.{key})")]
    Io {
        /// The file.
        path: PathBuf,
        /// The key of `[data.source]` that names it.
        key: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what MS-COCO's captions look like.
    #[error("{path}: not MS-COCO captions (data.source.annotations should be a captions_*.json): {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// A pattern that stands for no list of files.
    #[error("data.source.shards = \"{pattern}\": {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Files that the pattern lists are not there.
    #[error("{first}: no such shard ({missing} of the {listed} that data.source.shards lists are missing)")]
    MissingShards {
        /// The first of them.
        first: PathBuf,
        /// How many are missing.
        missing: usize,
        /// How many are listed.
        listed: usize,
    },
    /// None of the shards can be read.
    #[error("none of the {shards} shards can be read (data.source.shards), the first: {first}")]
    NoShard {
        /// How many there are.
        shards: usize,
        /// What is wrong with the first.
        first: String,
    },
    /// A line of a list of pictures is not as it should be.
    #[error("{path}:{line}: {message}")]
    Line {
        /// The list.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong, and what it should be.
        message: String,
    },
    /// A weight of a mixture that is none.
    #[error("data.source.sources[{index}].weight = {weight}: {reason}")]
    Weight {
        /// Which source of the mixture, from 0.
        index: usize,
        /// Its weight.
        weight: f64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// One source of a mixture does not open.
    #[error("data.source.sources[{index}]: {source}")]
    Part {
        /// Which source of the mixture, from 0.
        index: usize,
        /// What is wrong with it.
        source: Box<SourceError>,
    },
    /// There is nothing in it.
    #[error("{place}: no pictures")]
    Empty {
        /// The folder, file or setting.
        place: String,
    },
}
