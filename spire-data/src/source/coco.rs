//! MS-COCO's captions: `captions_*.json` beside a folder of pictures.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;

use spire_core::bounded_read;

use super::caption::{self, tidy};
use super::metadata::{MOST_LIST_BYTES, inside};
use super::{Pixels, Sample, SampleError, Source, SourceError};
use crate::picture::open_rgb8;

/// The pictures of a `captions_*.json` in the order of the file, each with all its captions in the order of their ids.
#[derive(Debug)]
pub struct CocoSource {
    images: PathBuf,
    annotations: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    file_name: String,
    captions: Vec<String>,
}

#[derive(Deserialize)]
struct CaptionsFile {
    images: Vec<ImageRecord>,
    annotations: Vec<CaptionRecord>,
}

#[derive(Deserialize)]
struct ImageRecord {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct CaptionRecord {
    id: u64,
    image_id: u64,
    caption: String,
}

impl CocoSource {
    /// Reads the annotations; pictures are read on demand.
    ///
    /// # Errors
    /// The folder does not exist, or the file can't be read, is malformed or lists no pictures.
    pub fn open(images: impl Into<PathBuf>, annotations: impl Into<PathBuf>) -> Result<Self, SourceError> {
        let (images, annotations) = (images.into(), annotations.into());
        if !images.is_dir() {
            return Err(SourceError::NoFolder { path: images, key: "images" });
        }
        let text = match bounded_read::read(&annotations, MOST_LIST_BYTES) {
            Ok(text) => text,
            Err(source) => return Err(SourceError::Io { path: annotations, key: "annotations", source }),
        };
        let entries = match serde_json::from_slice(&text) {
            Ok(file) => entries(file),
            Err(source) => return Err(SourceError::Json { path: annotations, source }),
        };
        if entries.is_empty() {
            return Err(SourceError::Empty { place: format!("{} (data.source.annotations)", annotations.display()) });
        }
        Ok(Self { images, annotations, entries })
    }
}

fn entries(mut file: CaptionsFile) -> Vec<Entry> {
    file.annotations.sort_by_key(|record| record.id);
    let mut captions: HashMap<u64, Vec<String>> = HashMap::new();
    for record in file.annotations {
        captions.entry(record.image_id).or_default().extend(tidy(&record.caption));
    }
    file.images
        .into_iter()
        .map(|image| Entry { file_name: image.file_name, captions: captions.remove(&image.id).unwrap_or_default() })
        .collect()
}

impl Source for CocoSource {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn name(&self, index: usize) -> String {
        self.entries[index].file_name.clone()
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        let Entry { file_name, captions } = &self.entries[index];
        if captions.is_empty() {
            return Err(SampleError::NoCaption { name: file_name.clone(), path: self.annotations.clone() });
        }
        caption::check_length(captions.iter().map(String::len).sum(), &self.annotations)?;
        let picture = Pixels::Bytes(open_rgb8(&inside(&self.images, file_name, &self.annotations)?)?);
        Ok(Sample { name: file_name.clone(), picture, captions: captions.clone(), pair: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Picture;
    use proptest::prelude::*;
    use std::path::Path;

    const CAPTIONS: &str = r#"{
        "info": {"year": 2017}, "licenses": [],
        "images": [
            {"id": 9, "file_name": "nine.png", "width": 4, "height": 4},
            {"id": 4, "file_name": "four.png"},
            {"id": 5, "file_name": "five.png"}
        ],
        "annotations": [
            {"image_id": 4, "id": 31, "caption": "Second of four.\n"},
            {"image_id": 9, "id": 12, "caption": "A nine."},
            {"image_id": 4, "id": 30, "caption": " First of four."},
            {"image_id": 9, "id": 13, "caption": "  "},
            {"image_id": 77, "id": 14, "caption": "Of no picture."}
        ]
    }"#;

    fn open(dir: &Path, json: &str) -> Result<CocoSource, SourceError> {
        let annotations = dir.join("captions_val.json");
        std::fs::write(&annotations, json).unwrap();
        CocoSource::open(dir, annotations)
    }

    #[test]
    fn every_picture_has_its_captions_in_order_of_id() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["nine.png", "four.png"] {
            Picture::filled(4, 4, [0.0; 3]).save_png(dir.path().join(name)).unwrap();
        }
        let source = open(dir.path(), CAPTIONS).unwrap();
        assert_eq!((0..source.len()).map(|i| source.name(i)).collect::<Vec<_>>(), ["nine.png", "four.png", "five.png"]);
        assert_eq!(source.read(0).unwrap().captions, ["A nine."]);
        assert_eq!(source.read(1).unwrap().captions, ["First of four.", "Second of four."]);
        let error = source.read(2).unwrap_err();
        assert!(matches!(&error, SampleError::NoCaption { name, .. } if name == "five.png"));
        assert!(error.to_string().contains("captions_val.json"), "{error}");
    }

    #[test]
    fn a_missing_picture_is_a_broken_sample() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path(), CAPTIONS).unwrap().read(0).unwrap_err();
        assert!(matches!(error, SampleError::Picture(_)) && error.to_string().contains("nine.png"));
    }

    #[test]
    fn malformed_files_are_named_with_a_position() {
        let dir = tempfile::tempdir().unwrap();
        let message = |json: &str| open(dir.path(), json).unwrap_err().to_string();
        let torn = message(&CAPTIONS[..CAPTIONS.len() / 2]);
        assert!(torn.contains("captions_val.json") && torn.contains("line"), "{torn}");
        let instances = r#"{"images": [], "annotations": [{"id": 1, "image_id": 2, "bbox": [0, 0, 1, 1]}]}"#;
        assert!(message(instances).contains("missing field `caption`"), "{}", message(instances));
        assert!(message(r#"{"images": [], "annotations": []}"#).contains("no pictures"));
    }

    #[test]
    fn missing_paths_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let no_images = CocoSource::open(dir.path().join("train2017"), "captions.json").unwrap_err().to_string();
        assert!(no_images.contains("train2017") && no_images.contains("data.source.images"), "{no_images}");
        let no_file = CocoSource::open(dir.path(), dir.path().join("captions.json")).unwrap_err().to_string();
        assert!(no_file.contains("captions.json") && no_file.contains("data.source.annotations"), "{no_file}");
    }

    proptest! {
        #[test]
        fn a_file_cut_or_changed_anywhere_is_an_error_or_a_source(at in 0..CAPTIONS.len(), byte in any::<u8>()) {
            let dir = tempfile::tempdir().unwrap();
            let annotations = dir.path().join("captions.json");
            let mut bytes = CAPTIONS.as_bytes().to_vec();
            std::fs::write(&annotations, &bytes[..at]).unwrap();
            prop_assert!(CocoSource::open(dir.path(), &annotations).is_err());
            bytes[at] = byte;
            std::fs::write(&annotations, &bytes).unwrap();
            if let Ok(source) = CocoSource::open(dir.path(), &annotations) {
                prop_assert!((0..source.len()).all(|index| source.read(index).is_err()));
            }
        }
    }
}
