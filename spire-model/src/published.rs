//! What is published about the files of others that the program reads: their sizes and checksums, from `published.toml`, which
//! says of each where it was read.

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::weights::checksum;

static FILES: LazyLock<Vec<PublishedFile>> = LazyLock::new(|| {
    let table: Table = toml::from_str(include_str!("published.toml")).expect("published.toml is read by a test");
    table.files
});

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    files: Vec<PublishedFile>,
}

/// A published file, such as a checkpoint.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedFile {
    /// Its name, with the folder above it where that is part of the name.
    file: String,
    /// What it unpacks to, if it is an archive.
    holds: Option<String>,
    /// Its address, if no other part of the program has it.
    pub url: Option<String>,
    /// Its size, to three digits or fewer where the source rounds it.
    pub bytes: Option<u64>,
    /// Whether `bytes` is rounded.
    #[serde(default)]
    rounded: bool,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: Option<String>,
    /// Where size and checksum were read.
    source: String,
}

impl PublishedFile {
    /// The published file that has the name of `path`, if anything is known about it.
    pub fn at(path: &Path) -> Option<&'static Self> {
        FILES.iter().find(|published| path.ends_with(&published.file))
    }

    /// The archive that unpacks to the file or folder `path`.
    pub fn archive_of(path: &Path) -> Option<&'static Self> {
        FILES.iter().find(|published| published.holds.as_ref().is_some_and(|holds| path.ends_with(holds)))
    }

    /// How the file at `path` differs from the published one, and what to do: a sentence. `None` if it does not, as far as is
    /// known. The checksum of a large file is kept, see [`checksum::of_file`].
    ///
    /// # Errors
    /// The file can't be read.
    pub fn difference(&self, path: &Path) -> Result<Option<String>> {
        let read = || format!("can't read {}", path.display());
        let bytes = path.metadata().with_context(read)?.len();
        if let Some(published) = self.bytes.filter(|&published| !self.rounded && published != bytes) {
            return Ok(Some(self.sentence(path, &format!("has {bytes} bytes"), &format!("{published} bytes"))));
        }
        let Some(published) = &self.sha256 else { return Ok(None) };
        let sha256 = checksum::of_file(path).with_context(read)?;
        let differs = sha256 != *published;
        Ok(differs.then(|| self.sentence(path, &format!("has the SHA-256 {sha256}"), published)))
    }

    fn sentence(&self, path: &Path, has: &str, published: &str) -> String {
        format!(
            "{} {has}, but the published file has {published} (source: {}): download it again, or go on at your own risk if you \
             mean another version",
            path.display(),
            self.source
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        for (i, PublishedFile { file, sha256, source, url, bytes, holds, .. }) in FILES.iter().enumerate() {
            assert!(
                sha256
                    .as_ref()
                    .is_none_or(|sum| sum.len() == 64 && sum.chars().all(|c| "0123456789abcdef".contains(c)))
            );
            assert!(!source.is_empty() && (bytes.is_some() || sha256.is_some()), "{file}");
            assert!(holds.is_none() || url.is_some(), "{file}");
            assert!(FILES[..i].iter().all(|other| other.file != *file), "{file}");
            // By PyTorch's convention a name ends with the first digits of the checksum.
            let digits = file.rsplit_once('.').unwrap().0.rsplit('-').next().unwrap();
            if digits.len() == 8 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
                assert!(sha256.as_ref().unwrap().starts_with(digits), "{file}");
            }
        }
    }

    #[test]
    fn files_are_known_by_name_and_archives_by_what_they_hold() {
        let bytes = |path: &str| PublishedFile::at(Path::new(path)).and_then(|published| published.bytes);
        assert_eq!(bytes("weights/alex.pth"), Some(6009));
        assert_eq!(bytes("weights/other-alex.pth"), None);
        assert_eq!(bytes("weights/clip-vit-base-patch32/model.safetensors"), Some(605_157_884));
        assert_eq!(bytes("weights/another-clip/model.safetensors"), None);
        let archive = PublishedFile::archive_of(Path::new("data/coco/val2017")).unwrap();
        assert_eq!(archive.file, "val2017.zip");
        assert!(PublishedFile::archive_of(Path::new("data/Set5")).is_none());
    }

    #[test]
    fn another_size_and_another_checksum_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vgg.pth");
        let published = PublishedFile::at(&path).unwrap();
        assert!(published.difference(&path).unwrap_err().to_string().contains("vgg.pth"));
        fs::write(&path, "cut short").unwrap();
        let size = published.difference(&path).unwrap().unwrap();
        assert!(size.contains("vgg.pth has 9 bytes, but the published file has 7289 bytes"), "{size}");
        assert!(size.contains("PerceptualSimilarity") && size.contains("download it again"), "{size}");
        fs::write(&path, [0; 7289]).unwrap();
        let sum = published.difference(&path).unwrap().unwrap();
        assert!(sum.contains("has the SHA-256 ") && sum.contains("a78928a0af1e5f0fcb1f3b9e8f8c3a2a"), "{sum}");

        let abc = PublishedFile {
            file: "abc".into(),
            holds: None,
            url: None,
            bytes: Some(4),
            rounded: true,
            sha256: Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into()),
            source: "FIPS 180-2".into(),
        };
        fs::write(&path, "abc").unwrap();
        assert_eq!(abc.difference(&path).unwrap(), None);
    }
}
