//! Files that are either old or new after a crash, never half written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Prefix of files and directories that are still being written. Readers skip them.
pub const TEMPORARY: &str = ".tmp-";

/// A file or directory could not be written.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct WriteError {
    /// The file or directory.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl WriteError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { path, source }
    }
}

/// Replaces the content of `path` atomically: it writes `.tmp-NAME` beside it, then renames. After a crash at any moment
/// the file has its old content or the new one. When this returns, the new content is on the disk.
///
/// # Errors
/// The folder does not exist, the disk is full, or the file is not writable.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = dir.join(format!("{TEMPORARY}{}", path.file_name().unwrap_or_default().display()));
    write_synced(&temporary, bytes)?;
    fs::rename(&temporary, path).map_err(WriteError::at(path))?;
    sync_dir(dir)
}

/// Writes a file and waits until its content is on the disk. Not atomic: use it inside a temporary directory.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(WriteError::at(path))
}

/// Waits until the entries of a directory are on the disk: on Unix a rename survives a crash only after this. Elsewhere it
/// does nothing.
///
/// # Errors
/// The directory cannot be opened.
pub fn sync_dir(dir: &Path) -> Result<(), WriteError> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(WriteError::at(dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_atomic_replaces_the_file_and_removes_the_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("summary.json");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomic(&dir.path().join("no/such"), b"").is_err());
    }
}
