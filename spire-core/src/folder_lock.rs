//! Locks on folders that only one process at a time may write into, or several that each write their own part.
//!
//! The system releases a lock when its process ends, however it ends. The file `lock` stays; it only names the process
//! that held the lock last.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::machine;
use crate::progress::print;

/// The locked file in a folder.
const NAME: &str = "lock";

/// Why a folder could not be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds the lock.
    #[error("{folder} is in use by {holder}: wait until it ends, stop it, or choose another folder")]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// `process 12 on node7 since 2026-05-01T12:30:00Z`
        holder: String,
    },
    /// An operating system error.
    #[error("can't lock {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// A locked folder, until this value is dropped.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks `folder`, which is created if needed, for this process alone. On a file system without locks it prints a
    /// warning instead.
    ///
    /// # Errors
    /// Another process holds the lock, or the folder is not writable.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        Self::lock(folder, File::try_lock)
    }

    /// Locks `folder` together with other processes that share it: while one of them works, [`take`](Self::take) fails.
    /// Otherwise as `take`.
    ///
    /// # Errors
    /// A process holds the lock alone, or the folder is not writable.
    pub fn share(folder: &Path) -> Result<Self, LockError> {
        Self::lock(folder, File::try_lock_shared)
    }

    fn lock(folder: &Path, try_lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<Self, LockError> {
        let path = folder.join(NAME);
        let failed = |source| LockError::Io { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        // Not truncated: the file may name the holder.
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Some systems don't let others read a locked file.
                if file.read_to_string(&mut holder).is_err() || holder.trim().is_empty() {
                    holder = "another process".to_owned();
                }
                return Err(LockError::InUse { folder: folder.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                print(&format!(
                    "warning: the file system of {} has no locks: make sure that no other process writes into it",
                    folder.display()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        let holder = format!("process {} on {} since {}\n", std::process::id(), machine::host(), machine::now());
        file.write_all(holder.as_bytes()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_until_the_lock_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        let lock = FolderLock::take(&folder).unwrap();
        let error = FolderLock::take(&folder).unwrap_err().to_string();
        assert!(error.contains("new is in use by "), "{error}");
        if cfg!(unix) {
            let holder = format!("process {} on {} since 20", std::process::id(), machine::host());
            assert!(error.contains(&holder), "{error}");
        }
        assert!(FolderLock::share(&folder).is_err());
        drop(lock);
        let shared = [FolderLock::share(&folder).unwrap(), FolderLock::share(&folder).unwrap()];
        assert!(FolderLock::take(&folder).is_err());
        drop(shared);
        FolderLock::take(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_can_not_be_created_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = FolderLock::take(&file.path().join("folder")).unwrap_err().to_string();
        assert!(error.contains("can't lock") && error.contains("folder"), "{error}");
    }
}
