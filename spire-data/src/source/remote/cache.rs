//! Shards that were fetched before, in a folder of bounded size.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use spire_core::atomic_write::{AtomicFile, TEMPORARY};
use spire_core::checksum;

use super::objects::Identity;
use crate::source::SourceError;

/// The cache. Several processes may share it.
pub(super) struct Cache {
    folder: PathBuf,
    most_bytes: u64,
}

/// A transfer that was killed leaves its file behind. It goes after this time.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

impl Cache {
    /// The cache in the user's cache folder, of at most so many megabytes.
    pub fn open(megabytes: u64) -> Result<Self, SourceError> {
        let folder = dirs::cache_dir().unwrap_or_else(std::env::temp_dir).join("spire").join("objects");
        let most_bytes = megabytes.saturating_mul(1_000_000);
        match fs::create_dir_all(&folder) {
            Ok(()) => Ok(Self { folder, most_bytes }),
            Err(source) => Err(SourceError::Io { path: folder, key: "cache_megabytes", source }),
        }
    }

    /// The name of an object's file. An object that has changed has another one.
    pub fn key(&self, address: &str, identity: &Identity) -> String {
        format!("{}.tar", checksum::sha256(format!("{address}\n{identity:?}").as_bytes()))
    }

    /// The object's file, if it is there. It counts as used now.
    pub fn find(&self, key: &str) -> Option<File> {
        let file = File::options().read(true).write(true).open(self.folder.join(key)).ok()?;
        // Without a date, the file is only removed earlier.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// A new file for an object.
    pub fn create(&self, key: &str) -> Result<AtomicFile, String> {
        AtomicFile::create(&self.folder.join(key)).map_err(|error| format!("{error} (data.source.cache_megabytes)"))
    }

    /// Removes what was used longest ago, until the rest is small enough. Who still reads a removed file keeps it.
    pub fn make_room(&self) {
        let Ok(files) = fs::read_dir(&self.folder) else { return };
        let mut kept = vec![];
        for file in files.flatten() {
            let Ok(metadata) = file.metadata() else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match file.file_name().to_string_lossy().starts_with(TEMPORARY) {
                false => kept.push((used, metadata.len(), file.path())),
                true if used.elapsed().is_ok_and(|age| age > ABANDONED) => drop(fs::remove_file(file.path())),
                true => {}
            }
        }
        kept.sort_unstable();
        let mut bytes: u64 = kept.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in kept {
            if bytes <= self.most_bytes {
                break;
            }
            // Another process may have removed it.
            let _ = fs::remove_file(path);
            bytes -= len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_oldest_files_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache { folder: dir.path().to_owned(), most_bytes: 250 };
        let identity = |e_tag: &str| Identity { size: 100, e_tag: Some(e_tag.to_owned()), modified: String::new() };
        let keys: Vec<String> = ["a", "b", "c"].map(|e_tag| cache.key("s3://x/0.tar", &identity(e_tag))).into();
        for (age, key) in [3, 2, 1].into_iter().zip(&keys) {
            let mut file = cache.create(key).unwrap();
            assert!(cache.find(key).is_none(), "it is not complete");
            file.write_all(&[7; 100]).unwrap();
            file.finish().unwrap();
            cache.find(key).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age * 60)).unwrap();
        }
        // The oldest is used again.
        assert!(cache.find(&keys[0]).is_some());
        cache.make_room();
        let there: Vec<bool> = keys.iter().map(|key| cache.find(key).is_some()).collect();
        assert_eq!(there, [true, false, true]);
    }
}
