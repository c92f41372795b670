//! Published weights files: names, URLs and checksums.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use spire_data::checksum::sha256;
use spire_model::weights::published_file;

/// A published file, expected in the folder `weights` of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicWeights {
    /// Its name. By PyTorch's convention, eight hexadecimal digits at its end are the start of its SHA-256.
    pub file: &'static str,
    /// Its URL.
    pub url: &'static str,
}

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundWeights {
    /// Its path.
    pub path: PathBuf,
    /// Its SHA-256.
    pub checksum: String,
    /// Whether it matches the published checksum; `None` if the name has no checksum.
    pub genuine: Option<bool>,
}

impl PublicWeights {
    /// Finds the file in `folder`, under its own name or with the extension of another format. `None` if there is none.
    ///
    /// # Errors
    /// It can't be read.
    pub fn find(&self, folder: &Path) -> Result<Option<FoundWeights>> {
        let stem = self.file.rsplit_once('.').map_or(self.file, |(stem, _)| stem);
        let Some(path) = published_file(folder, self.file) else { return Ok(None) };
        let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let checksum = sha256(&bytes);
        let start = stem.rsplit('-').next().filter(|end| end.len() == 8 && end.chars().all(|c| c.is_ascii_hexdigit()));
        Ok(Some(FoundWeights { genuine: start.map(|start| checksum.starts_with(start)), path, checksum }))
    }

    /// A description of what is missing.
    pub fn needed(&self, folder: &Path) -> String {
        format!("{} is not there; it comes from {}", folder.join(self.file).display(), self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_in_other_formats_and_known_by_its_checksum() {
        let folder = tempfile::tempdir().unwrap();
        // The SHA-256 of "genuine" starts so.
        let weights = PublicWeights { file: "net-dfec2247.pth", url: "https://example.org/net" };
        assert_eq!(weights.find(folder.path()).unwrap(), None);
        assert!(weights.needed(folder.path()).contains("https://example.org/net"));
        std::fs::write(folder.path().join("net-dfec2247.formula.json"), "other").unwrap();
        assert_eq!(weights.find(folder.path()).unwrap().unwrap().genuine, Some(false));
        std::fs::write(folder.path().join("net-dfec2247.pth"), "genuine").unwrap();
        let found = weights.find(folder.path()).unwrap().unwrap();
        assert_eq!(found.path.extension().unwrap(), "pth");
        let unnamed = PublicWeights { file: "net-dfec2247.pth", ..weights };
        assert_eq!(unnamed.find(folder.path()).unwrap().unwrap().genuine, Some(true), "{}", found.checksum);
        let silent = PublicWeights { file: "alex.pth", ..weights };
        std::fs::write(folder.path().join("alex.pth"), "any").unwrap();
        assert_eq!(silent.find(folder.path()).unwrap().unwrap().genuine, None);
    }
}
