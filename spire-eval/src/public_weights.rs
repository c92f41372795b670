//! Published weights files: names, URLs and checksums.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use spire_model::published::PublishedFile;
use spire_model::weights::{checksum, published_file};

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
    /// How it differs from the published file; `None` if it does not, as far as is known.
    pub difference: Option<String>,
}

impl PublicWeights {
    /// Finds the file in `folder`, under its own name or with the extension of another format. `None` if there is none.
    ///
    /// # Errors
    /// It can't be read.
    pub fn find(&self, folder: &Path) -> Result<Option<FoundWeights>> {
        let stem = self.file.rsplit_once('.').map_or(self.file, |(stem, _)| stem);
        let Some(path) = published_file(folder, self.file) else { return Ok(None) };
        let checksum = checksum::of_file(&path).with_context(|| format!("can't read {}", path.display()))?;
        let difference = match PublishedFile::at(&path) {
            Some(published) => published.difference(&path)?,
            None => {
                let digits =
                    stem.rsplit('-').next().filter(|end| end.len() == 8 && end.chars().all(|c| c.is_ascii_hexdigit()));
                let differs = digits.is_some_and(|digits| !checksum.starts_with(digits));
                differs.then(|| {
                    format!("{} is not the published file of that name: its checksum is another", path.display())
                })
            }
        };
        Ok(Some(FoundWeights { difference, path, checksum }))
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
        let difference = |weights: PublicWeights| weights.find(folder.path()).unwrap().unwrap().difference;
        assert!(difference(weights).unwrap().contains("its checksum is another"));
        std::fs::write(folder.path().join("net-dfec2247.pth"), "genuine").unwrap();
        let found = weights.find(folder.path()).unwrap().unwrap();
        assert_eq!((found.path.extension().unwrap().to_str(), found.difference), (Some("pth"), None));
        // A name without digits: nothing is known in another format, and the size under its own name.
        let alex = PublicWeights { file: "alex.pth", ..weights };
        std::fs::write(folder.path().join("alex.formula.json"), "any").unwrap();
        assert_eq!(difference(alex), None);
        std::fs::write(folder.path().join("alex.pth"), "any").unwrap();
        assert!(difference(alex).unwrap().contains("alex.pth has 3 bytes, but the published file has 6009 bytes"));
    }
}
