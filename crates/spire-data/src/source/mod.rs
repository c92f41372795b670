//! Where clean pictures and their captions come from: the drawn world, a folder, or MS-COCO.

mod coco;
mod folder;
mod world;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use coco::CocoSource;
pub use folder::{FolderSource, caption_of, list_pictures};
pub use world::WorldSource;

use crate::{Picture, PictureError};

/// A clean picture and what it shows.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What people call it: a path relative to its folder, or `world/{index}`.
    pub name: String,
    /// The picture, at its own size.
    pub picture: Picture,
    /// One caption or several that say the same in other words; never empty.
    pub captions: Vec<String>,
}

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
    /// There is no caption, or nothing but white space.
    #[error("{path}: no caption for {name}")]
    NoCaption {
        /// The sample's name.
        name: String,
        /// The file that should hold the caption.
        path: PathBuf,
    },
}

/// A fixed sequence of captioned pictures that can be read in any order, from any thread.
pub trait Source: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of sample `index`, without reading it.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    fn name(&self, index: usize) -> String;

    /// Sample `index`; the same one at every call.
    ///
    /// # Errors
    /// This sample is broken.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    fn read(&self, index: usize) -> Result<Sample, SampleError>;
}

/// The kinds of [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Scenes that the program draws.
    #[default]
    World,
    /// A folder of pictures with `.txt` captions beside them.
    Folder,
    /// MS-COCO: a folder of pictures and a `captions_*.json`.
    Coco,
}

/// The `[data.source]` section. One flat table rather than one per kind, so that `kind` can be changed from the command
/// line and every key keeps its line in an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// Which source.
    pub kind: SourceKind,
    /// `world`: which scenes are drawn.
    pub seed: u64,
    /// `world`: how many scenes there are.
    pub count: usize,
    /// `folder`: the folder, searched with everything below it.
    pub path: Option<PathBuf>,
    /// `coco`: the folder that the annotations' file names are relative to.
    pub images: Option<PathBuf>,
    /// `coco`: the `captions_*.json`.
    pub annotations: Option<PathBuf>,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self { kind: SourceKind::World, seed: 1, count: 20_000, path: None, images: None, annotations: None }
    }
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
    #[error("{path}: {source} (data.source.annotations)")]
    Io {
        /// The file.
        path: PathBuf,
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
    /// There is nothing in it.
    #[error("{place}: no pictures")]
    Empty {
        /// The folder, file or setting.
        place: String,
    },
}

/// Opens the source that `config` describes. Pictures that are drawn are drawn `size` × `size`; others keep their size.
///
/// # Errors
/// A setting is missing, a folder or file is not there or malformed, or there are no pictures.
pub fn open(config: &SourceConfig, size: usize) -> Result<Arc<dyn Source>, SourceError> {
    let needed = |value: &Option<PathBuf>, key, kind, what| value.clone().ok_or(SourceError::Unset { key, kind, what });
    Ok(match config.kind {
        SourceKind::World => Arc::new(WorldSource::new(size, config.count, config.seed)?),
        SourceKind::Folder => {
            let path = needed(&config.path, "path", "folder", "a folder of pictures with .txt captions")?;
            Arc::new(FolderSource::open(path)?)
        }
        SourceKind::Coco => {
            let images = needed(&config.images, "images", "coco", "the folder of the pictures")?;
            let annotations = needed(&config.annotations, "annotations", "coco", "a captions_*.json")?;
            Arc::new(CocoSource::open(images, annotations)?)
        }
    })
}

/// A caption on one line, without the white space around it; nothing if that is all there is.
fn tidy(caption: &str) -> Option<String> {
    let line = caption.trim_start_matches('\u{feff}').split_whitespace().collect::<Vec<_>>().join(" ");
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(config: &SourceConfig) -> String {
        open(config, 16).err().expect("should not open").to_string()
    }

    #[test]
    fn settings_that_a_kind_needs_are_named() {
        let folder = SourceConfig { kind: SourceKind::Folder, ..Default::default() };
        assert!(message(&folder).contains("data.source.path"), "{}", message(&folder));
        let coco = SourceConfig { kind: SourceKind::Coco, images: Some("x".into()), ..Default::default() };
        assert!(message(&coco).contains("data.source.annotations"), "{}", message(&coco));
    }

    #[test]
    fn an_empty_world_is_an_error() {
        assert!(message(&SourceConfig { count: 0, ..Default::default() }).contains("data.source.count"));
    }

    #[test]
    fn the_section_is_read_with_defaults_and_refuses_unknown_keys() {
        let read = |text| serde_json::from_str::<SourceConfig>(text);
        assert_eq!(read("{}").unwrap(), SourceConfig::default());
        let folder = read(r#"{"kind": "folder", "path": "photos"}"#).unwrap();
        assert_eq!((folder.kind, folder.path), (SourceKind::Folder, Some("photos".into())));
        assert!(read(r#"{"pth": "photos"}"#).unwrap_err().to_string().contains("pth"));
        assert!(read(r#"{"kind": "imagenet"}"#).unwrap_err().to_string().contains("imagenet"));
    }

    #[test]
    fn captions_are_tidied() {
        assert_eq!(tidy("\u{feff} a red\r\n circle \n").as_deref(), Some("a red circle"));
        assert_eq!(tidy(" \n\t"), None);
    }
}
