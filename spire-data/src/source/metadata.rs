//! `metadata.jsonl`: one JSON object per picture of a folder, the format of Hugging Face's `imagefolder`.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use spire_core::bounded_read;

use super::{SampleError, SourceError, caption};

/// The pictures that a `metadata.jsonl` lists, and their captions.
#[derive(Debug)]
pub(super) struct Metadata {
    path: PathBuf,
    pub entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// The path, relative to the list's folder.
    pub file_name: String,
    pub captions: Vec<String>,
}

/// The most bytes of a list of pictures, this one or MS-COCO's.
pub(super) const MOST_LIST_BYTES: u64 = 1 << 32;

/// The list's path.
pub(super) const METADATA: &str = "metadata.jsonl";

impl Metadata {
    /// Reads a list; `caption` is the key of the captions, `None` tries the usual ones.
    pub fn read(path: PathBuf, caption: Option<&str>) -> Result<Self, SourceError> {
        let bytes = match bounded_read::read(&path, MOST_LIST_BYTES) {
            Ok(bytes) => bytes,
            Err(source) => return Err(SourceError::Io { path, key: "path", source }),
        };
        let mut entries = vec![];
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let wrong = |message: String| SourceError::Line { path: path.clone(), line: number + 1, message };
            let value: Value = match serde_json::from_slice(line) {
                Ok(value) => value,
                // An invalid encoding breaks the captions of one line, not the whole list.
                Err(_) if str::from_utf8(line).is_err() => serde_json::from_str(&String::from_utf8_lossy(line))
                    .map_err(|error| wrong(format!("not JSON: {error}")))?,
                Err(error) => return Err(wrong(format!("not JSON: {error}"))),
            };
            let Some(file_name) = value.get("file_name").and_then(Value::as_str) else {
                return Err(wrong(
                    "\"file_name\" is missing: each line needs the picture's, relative to this file".into(),
                ));
            };
            let captions = if str::from_utf8(line).is_ok() { caption::in_object(&value, caption) } else { vec![] };
            entries.push(Entry { file_name: file_name.to_owned(), captions });
        }
        Ok(Self { path, entries })
    }

    /// The picture of entry `index` in the folder `root`.
    pub fn picture(&self, root: &Path, index: usize) -> Result<PathBuf, SampleError> {
        inside(root, &self.entries[index].file_name, &self.path)
    }

    /// The captions of entry `index`.
    pub fn captions(&self, index: usize) -> Result<Vec<String>, SampleError> {
        let Entry { file_name, captions } = &self.entries[index];
        caption::check_length(captions.iter().map(String::len).sum(), &self.path)?;
        if captions.is_empty() { Err(caption::missing(file_name, &self.path)) } else { Ok(captions.clone()) }
    }
}

/// The path of `name` in the folder `root`; an error if `list` names a file outside that folder.
pub(super) fn inside(root: &Path, name: &str, list: &Path) -> Result<PathBuf, SampleError> {
    let stays = Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if stays { Ok(root.join(name)) } else { Err(SampleError::Outside { path: list.to_owned(), name: name.to_owned() }) }
}
