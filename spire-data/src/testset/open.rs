//! Opening a test set.

use std::path::{Path, PathBuf};

use super::check::check;
use super::{CLEAN, DEGRADED, Entry, PROMPTS, Problem, SMALL, TestSetError};

/// A test set on disk whose files match their checksums.
#[derive(Clone, Debug, PartialEq)]
pub struct TestSet {
    /// Its folder.
    pub folder: PathBuf,
    /// SHA-256 over all pictures and prompts.
    pub checksum: String,
    /// Its pictures.
    pub entries: Vec<Entry>,
    /// Whether there are clean pictures.
    pub has_clean: bool,
}

impl TestSet {
    /// Reads the list of pictures and compares every file with its checksum, on `threads` threads.
    ///
    /// # Errors
    /// A file is missing, changed or malformed, or the folder is not a test set.
    pub fn open(folder: &Path, threads: usize) -> Result<Self, TestSetError> {
        let (_, checksum, problems) = check(folder, threads)?;
        let damage = problems.iter().find(|problem| !matches!(problem, Problem::Unlisted(_)));
        if let Some(damage) = damage {
            return Err(TestSetError::Damaged { path: folder.to_owned(), first: damage.to_string() });
        }
        let path = folder.join(PROMPTS);
        let text = std::fs::read_to_string(&path).map_err(|source| TestSetError::Io { path: path.clone(), source })?;
        let entries = text.lines().enumerate().map(|(line, text)| {
            serde_json::from_str(text).map_err(|source| TestSetError::Entry {
                path: path.clone(),
                line: line + 1,
                source,
            })
        });
        let entries = entries.collect::<Result<Vec<Entry>, _>>()?;
        Ok(Self { has_clean: folder.join(CLEAN).is_dir(), folder: folder.to_owned(), checksum, entries })
    }

    /// The file of a clean picture.
    pub fn clean(&self, entry: &Entry) -> PathBuf {
        self.folder.join(CLEAN).join(format!("{}.png", entry.id))
    }

    /// The file of a degraded picture before it was resized back; there is one only where it is smaller.
    pub fn small(&self, entry: &Entry) -> PathBuf {
        self.folder.join(SMALL).join(format!("{}.png", entry.id))
    }

    /// The file of a degraded picture.
    pub fn degraded(&self, entry: &Entry) -> PathBuf {
        self.folder.join(DEGRADED).join(format!("{}.png", entry.id))
    }
}
