//! Errors of a source and of a single sample.

use std::path::PathBuf;

use thiserror::Error;

use crate::PictureError;

/// One sample is broken.
#[derive(Debug, Error)]
pub enum SampleError {
    /// The picture's file is missing, unreadable or not a picture.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The caption's file is missing or unreadable.
    #[error("{path}: no caption: {source}")]
    CaptionFile {
        /// The caption's file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The caption is not text.
    #[error("{path}: the caption is not UTF-8 (byte {offset})")]
    CaptionEncoding {
        /// The caption's file.
        path: PathBuf,
        /// Offset of the first invalid byte.
        offset: usize,
    },
    /// The shard can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The shard.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is truncated.
    #[error("{path}: the file is cut short: it should go on to byte {end}")]
    CutShort {
        /// The shard and the name in it.
        path: PathBuf,
        /// The byte at which the sample should end.
        end: u64,
    },
    /// A member is larger than the limit.
    #[error("{path}: {bytes} bytes are too many for a picture or a caption: the most are {most}")]
    TooLarge {
        /// The shard and the name in it.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        most: u64,
    },
    /// The sample has no picture.
    #[error("{path}: no picture: {wanted}")]
    NoPicture {
        /// The sample.
        path: PathBuf,
        /// The formats that were looked for.
        wanted: String,
    },
    /// The halves of a pair do not fit.
    #[error(
        "{name}: the clean picture has {}×{} pixels, the degraded one {}×{}: it must have the same size, or be smaller by a whole \
         factor in both directions", .clean.0, .clean.1, .degraded.0, .degraded.1
    )]
    PairSizes {
        /// The sample.
        name: String,
        /// Width and height of the clean picture.
        clean: (usize, usize),
        /// Width and height of the degraded one.
        degraded: (usize, usize),
    },
    /// The metadata with the caption is not valid JSON.
    #[error("{path}: not JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error, with line and column.
        source: serde_json::Error,
    },
    /// A list of pictures names a file outside its folder.
    #[error("{path}: {name} lies outside the folder of the pictures")]
    Outside {
        /// The list.
        path: PathBuf,
        /// The name in the list.
        name: String,
    },
    /// A row group of a Parquet file can't be decoded.
    #[error("{path}: row group {group}: {message}")]
    RowGroup {
        /// The file.
        path: PathBuf,
        /// Its number, from 0.
        group: usize,
        /// The cause.
        message: String,
    },
    /// The caption is missing or empty.
    #[error("{path}: no caption for {name}")]
    NoCaption {
        /// The sample's name.
        name: String,
        /// The file in which the caption was expected.
        path: PathBuf,
    },
}

impl SampleError {
    /// Whether the only fault is that there is no caption.
    pub(crate) fn is_missing_caption(&self) -> bool {
        match self {
            Self::CaptionFile { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            error => matches!(error, Self::NoCaption { .. }),
        }
    }
}

/// A source could not be opened.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A setting that this kind of source needs is missing.
    #[error("data.source.{key} is not set: kind = \"{kind}\" needs {what}")]
    Unset {
        /// The missing key of `[data.source]`.
        key: &'static str,
        /// The kind that needs it.
        kind: &'static str,
        /// What the setting means.
        what: &'static str,
    },
    /// The illustrated world is drawn, but a setting names data.
    #[error(
        "data.source.{key} is set, but kind = \"world\" draws its own scenes: set data.source.kind = \"{kind}\", or remove \
         {key}"
    )]
    Unread {
        /// The key of `[data.source]` that would be ignored.
        key: &'static str,
        /// The kind that reads it.
        kind: &'static str,
    },
    /// Scenes of the illustrated world can't be out of focus so much.
    #[error("data.source.soft = {pixels}: it must be from 0 to {most} pixels")]
    Soft {
        /// The setting.
        pixels: f32,
        /// The most that it can be.
        most: f32,
    },
    /// A kind of source that has no pairs.
    #[error(
        "data.source.degraded is set, but kind = \"{kind}\" has no degraded pictures: pairs come from folder, webdataset or \
         parquet{}", if *.kind == "mixture" { "; set it in each of data.source.sources" } else { "" }
    )]
    NoPairs {
        /// The kind.
        kind: &'static str,
    },
    /// Restoration prompts are named, but no degraded pictures.
    #[error(
        "data.source.restoration is set without data.source.degraded: it is for pairs, and others get their prompts from \
             [degradation]"
    )]
    PromptsWithoutPairs,
    /// The folder does not exist, or is a file.
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
        /// The system's error.
        source: walkdir::Error,
    },
    /// A file can't be read.
    #[error("{path}: {source} (data.source.{key})")]
    Io {
        /// The file.
        path: PathBuf,
        /// The key of `[data.source]` that names it.
        key: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file does not have the form of MS-COCO's captions.
    #[error("{path}: not MS-COCO captions (data.source.annotations should be a captions_*.json): {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error, with line and column.
        source: serde_json::Error,
    },
    /// The pattern is invalid.
    #[error("data.source.shards = \"{pattern}\": {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The cause.
        reason: String,
    },
    /// Shards in a store, and a program that can't read them.
    #[error(
        "data.source.shards = \"{pattern}\": this build can't read from object stores and web servers: build one that can with \
         `cargo build --release --features object-store`, or copy the shards to a disk"
    )]
    NoStores {
        /// The pattern.
        pattern: String,
    },
    /// A key for tar shards in a store, and other shards.
    #[error(
        "data.source.{key} is set, but it is for tar shards in a store (s3://, gs://, az://, https://): remove {key}"
    )]
    StoreOnly {
        /// The key of `[data.source]`.
        key: &'static str,
    },
    /// A store, or a list of sizes beside the shards, does not give what is needed to open them.
    #[error("{address}: {message} (data.source.shards)")]
    Store {
        /// The object or the list.
        address: String,
        /// The cause.
        message: String,
    },
    /// Files that the pattern lists are missing.
    #[error("{first}: no such shard ({missing} of the {listed} that data.source.shards lists are missing)")]
    MissingShards {
        /// The first of them.
        first: PathBuf,
        /// Number of missing files.
        missing: usize,
        /// Number of listed files.
        listed: usize,
    },
    /// None of the shards can be read.
    #[error("none of the {shards} shards can be read (data.source.shards), the first: {first}")]
    NoShard {
        /// Their number.
        shards: usize,
        /// The cause for the first.
        first: String,
    },
    /// A line of a list of pictures is malformed.
    #[error("{path}:{line}: {message}")]
    Line {
        /// The list.
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
        /// The cause and the expected form.
        message: String,
    },
    /// A weight of a mixture is invalid.
    #[error("data.source.sources[{index}].weight = {weight}: {reason}")]
    Weight {
        /// Index of the source in the mixture, from 0.
        index: usize,
        /// Its weight.
        weight: f64,
        /// The cause.
        reason: &'static str,
    },
    /// A source of a mixture could not be opened.
    #[error("data.source.sources[{index}]: {source}")]
    Part {
        /// Index of the source in the mixture, from 0.
        index: usize,
        /// The cause.
        source: Box<SourceError>,
    },
    /// The source is empty.
    #[error("{place}: no pictures")]
    Empty {
        /// The folder, file or setting.
        place: String,
    },
}
