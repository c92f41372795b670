//! Captions: from text files, and from JSON.

use std::path::{Path, PathBuf};

use serde_json::Value;
use spire_core::bounded_read;

use super::SampleError;

/// Keys of captions in datasets, tried in this order if the configuration names none.
pub(super) const CAPTION_KEYS: [&str; 5] = ["caption", "text", "captions", "txt", "prompt"];

/// The most bytes of one caption, and of all captions of a sample. A text encoder reads less than a kilobyte.
const MOST_BYTES: usize = 1 << 16;

/// The caption beside a picture: `a/b.txt` of `a/b.png`.
///
/// # Errors
/// The file is missing, empty, larger than 64 KiB, not UTF-8, or not a regular file.
pub fn caption_of(picture: &Path) -> Result<String, SampleError> {
    let path = picture.with_extension("txt");
    let bytes = match bounded_read::read(&path, MOST_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(source) => return Err(SampleError::CaptionFile { path, source }),
    };
    from_text(&bytes, &picture.display().to_string(), &path)
}

/// The caption of sample `name` from the bytes of a text file; `path` names the file in errors.
pub(super) fn from_text(bytes: &[u8], name: &str, path: &Path) -> Result<String, SampleError> {
    check_length(bytes.len(), path)?;
    match str::from_utf8(bytes) {
        Ok(text) => tidy(text).ok_or_else(|| missing(name, path)),
        Err(error) => Err(SampleError::CaptionEncoding { path: path.to_owned(), offset: error.valid_up_to() }),
    }
}

/// The captions of sample `name` from the bytes of a JSON object.
pub(super) fn from_json(bytes: &[u8], key: Option<&str>, name: &str, path: &Path) -> Result<Vec<String>, SampleError> {
    if let Err(error) = str::from_utf8(bytes) {
        return Err(SampleError::CaptionEncoding { path: path.to_owned(), offset: error.valid_up_to() });
    }
    let value: Value =
        serde_json::from_slice(bytes).map_err(|source| SampleError::Json { path: path.to_owned(), source })?;
    let captions = in_object(&value, key);
    check_length(captions.iter().map(String::len).sum(), path)?;
    if captions.is_empty() { Err(missing(name, path)) } else { Ok(captions) }
}

/// The captions in a JSON object: a string or a list of strings under `key`, or under the first of [`CAPTION_KEYS`]
/// that exists if no key is given.
pub(super) fn in_object(object: &Value, key: Option<&str>) -> Vec<String> {
    let found = match key {
        Some(key) => object.get(key),
        None => CAPTION_KEYS.iter().find_map(|key| object.get(key)),
    };
    match found {
        Some(Value::String(caption)) => tidy(caption).into_iter().collect(),
        Some(Value::Array(captions)) => captions.iter().filter_map(Value::as_str).filter_map(tidy).collect(),
        _ => Vec::new(),
    }
}

/// Checks the number of bytes of the captions of one sample; `path` names it in the error.
pub(super) fn check_length(bytes: usize, path: &Path) -> Result<(), SampleError> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(SampleError::TooLarge { path: path.to_owned(), bytes: bytes as u64, most: MOST_BYTES as u64 })
}

pub(super) fn missing(name: &str, path: &Path) -> SampleError {
    SampleError::NoCaption { name: name.to_owned(), path: PathBuf::from(path) }
}

/// The caption on one line, trimmed; `None` if it is empty.
pub(crate) fn tidy(caption: &str) -> Option<String> {
    let line = caption.trim_start_matches('\u{feff}').split_whitespace().collect::<Vec<_>>().join(" ");
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_tidied() {
        assert_eq!(tidy("\u{feff} a red\r\n circle \n").as_deref(), Some("a red circle"));
        assert_eq!(tidy(" \n\t"), None);
    }

    #[test]
    fn a_text_of_any_length_is_no_caption() {
        let text = |length| from_text(&vec![b'a'; length], "a", Path::new("a.txt"));
        assert_eq!(text(MOST_BYTES).unwrap().len(), MOST_BYTES);
        assert!(matches!(text(MOST_BYTES + 1), Err(SampleError::TooLarge { .. })));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), vec![b'a'; MOST_BYTES + 1]).unwrap();
        let error = caption_of(&dir.path().join("a.png")).unwrap_err().to_string();
        assert!(error.contains("a.txt") && error.contains("the most are 65536"), "{error}");
    }

    #[test]
    fn json_has_one_caption_or_several() {
        let captions = |json: &str, key| from_json(json.as_bytes(), key, "a", Path::new("a.json"));
        assert_eq!(captions(r#"{"caption": " a  cat ", "text": "no"}"#, None).unwrap(), ["a cat"]);
        assert_eq!(captions(r#"{"caption": "a cat", "text": "yes"}"#, Some("text")).unwrap(), ["yes"]);
        assert_eq!(captions(r#"{"captions": ["one", "", 3, "two"]}"#, None).unwrap(), ["one", "two"]);
        for empty in [r#"{"caption": ""}"#, r#"{"caption": null}"#, r#"{"url": "x"}"#, "[]", "3"] {
            assert!(matches!(captions(empty, None), Err(SampleError::NoCaption { .. })), "{empty}");
        }
        let long = format!(r#"{{"captions": ["a", "{}"]}}"#, "long ".repeat(MOST_BYTES));
        assert!(matches!(captions(&long, None), Err(SampleError::TooLarge { .. })));
        assert!(matches!(captions("{", None), Err(SampleError::Json { .. })));
        let latin = from_json(b"{\"caption\": \"caf\xe9\"}", None, "a", Path::new("a.json"));
        assert!(matches!(latin, Err(SampleError::CaptionEncoding { offset: 16, .. })));
    }
}
