//! Checksums of models: everything in their files that a result depends on. That of a large file is kept in the user's cache
//! folder, `spire/checksums`, and holds as long as it is the same file with the same size and date.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use spire_core::atomic_write::write_atomic;
use spire_core::checksum::{sha256, sha256_of_file};

use super::{folder, open};

/// Smaller files are read every time, in bytes.
const LARGE: u64 = 8 << 20;

/// A file that was written this recently may change once more without another date.
const SETTLED: Duration = Duration::from_secs(10);

/// SHA-256 over the settings and weights in the folders `parts` of `model`; `""` is `model` itself. A part that does not
/// exist is left out.
///
/// # Errors
/// A file can't be read.
pub fn checksum(model: &Path, parts: &[&str]) -> Result<String> {
    checksum_of_variant(model, parts, None)
}

/// As [`checksum`], with the weights of `variant`, such as `fp16`, in the folders that have them.
///
/// # Errors
/// A file can't be read.
pub fn checksum_of_variant(model: &Path, parts: &[&str], variant: Option<&str>) -> Result<String> {
    let mut files = BTreeSet::new();
    for part in parts.iter().map(|part| model.join(part)).filter(|part| part.is_dir()) {
        files.extend(files_of(&part, variant)?);
    }
    checksum_of(files)
}

/// SHA-256 over files and their names.
///
/// # Errors
/// A file can't be read.
pub fn checksum_of(files: impl IntoIterator<Item = PathBuf>) -> Result<String> {
    let mut sums = String::new();
    for file in files {
        let sum = of_file(&file).with_context(|| format!("can't read {}", file.display()))?;
        sums += &format!("{sum} {}\n", file.file_name().unwrap_or_default().display());
    }
    Ok(sha256(sums.as_bytes()))
}

/// The settings and vocabularies in a folder, and the weights that would be loaded.
fn files_of(part: &Path, variant: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(part).with_context(|| format!("can't read {}", part.display()))? {
        let path = entry?.path();
        let is_text = path.extension().is_some_and(|extension| extension == "json" || extension == "txt");
        if is_text && path.is_file() {
            files.push(path);
        }
    }
    if let Ok(weights) = folder::weights_file_of(part, variant) {
        files.extend(open::shards(&weights)?);
        files.push(weights);
    }
    Ok(files)
}

/// A file in the state in which its checksum was computed.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Identity {
    path: PathBuf,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u128,
    /// Device and inode, on Unix.
    file: Option<(u64, u64)>,
}

#[derive(Deserialize, Serialize)]
struct Kept {
    identity: Identity,
    sha256: String,
}

/// SHA-256 of a file; that of a large one is kept.
///
/// # Errors
/// The file can't be read.
pub fn of_file(path: &Path) -> Result<String> {
    let metadata = path.metadata()?;
    match dirs::cache_dir() {
        Some(cache) if metadata.len() >= LARGE => kept_in(&cache.join("spire/checksums"), path, &metadata),
        _ => Ok(sha256_of_file(path)?),
    }
}

/// The checksum of a file, from the folder `cache` if it is known there.
fn kept_in(cache: &Path, path: &Path, metadata: &Metadata) -> Result<String> {
    let path = path.canonicalize()?;
    let modified = metadata.modified()?;
    let identity = Identity {
        bytes: metadata.len(),
        modified: modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()),
        file: file_number(metadata),
        path,
    };
    let place = cache.join(format!("{}.json", sha256(identity.path.as_os_str().as_encoded_bytes())));
    let kept = fs::read(&place).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    if let Some(kept) = kept.filter(|kept| kept.identity == identity) {
        return Ok(kept.sha256);
    }
    let sha256 = sha256_of_file(&identity.path)?;
    let settled = SystemTime::now().duration_since(modified).is_ok_and(|age| age >= SETTLED);
    if settled {
        let kept = Kept { identity, sha256: sha256.clone() };
        // If the cache can't be written, the next start only takes longer.
        let written = fs::create_dir_all(cache)
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(write_atomic(&place, &serde_json::to_vec(&kept)?)?));
        if let Err(error) = written {
            tracing::debug!("the checksum of {} is not kept: {error:#}", kept.identity.path.display());
        }
    }
    Ok(sha256)
}

#[cfg(unix)]
fn file_number(metadata: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn file_number(_: &Metadata) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn set_age(path: &Path, seconds: u64) {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_kept_checksum_holds_for_the_same_size_and_date_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, path) = (folder.path().join("cache"), folder.path().join("weights"));
        let sum = || kept_in(&cache, &path, &path.metadata().unwrap()).unwrap();
        fs::write(&path, b"old").unwrap();
        // Just written: not kept.
        assert_eq!(sum(), sha256(b"old"));
        assert!(!cache.exists());
        set_age(&path, 100);
        assert_eq!(sum(), sha256(b"old"));
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
        // The kept one is used: a changed file with its old size and date is not noticed.
        let date = path.metadata().unwrap().modified().unwrap();
        fs::write(&path, b"new").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(date).unwrap();
        assert_eq!(sum(), sha256(b"old"));
        set_age(&path, 50);
        assert_eq!(sum(), sha256(b"new"));
    }

    #[test]
    fn settings_and_weights_count_and_other_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("unet");
        fs::create_dir(&part).unwrap();
        let write = |name: &str, text: &str| fs::write(part.join(name), text).unwrap();
        let sum = || checksum(folder.path(), &["unet", "none"]).unwrap();
        write("config.json", "{}");
        write("diffusion_pytorch_model.safetensors", "weights");
        let first = sum();
        write("readme.md", "text");
        write("diffusion_pytorch_model.fp16.safetensors", "a variant that is not loaded");
        assert_eq!(sum(), first);
        assert_ne!(checksum_of_variant(folder.path(), &["unet"], Some("fp16")).unwrap(), first);
        write("diffusion_pytorch_model.safetensors", "WEIGHTS");
        let second = sum();
        assert_ne!(second, first);
        write("config.json", "{ }");
        assert_ne!(sum(), second);
    }

    #[test]
    fn every_shard_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("model.safetensors.index.json", r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#);
        write("one.safetensors", "1");
        write("two.safetensors", "2");
        let first = checksum(folder.path(), &[""]).unwrap();
        write("two.safetensors", "3");
        assert_ne!(checksum(folder.path(), &[""]).unwrap(), first);
        fs::remove_file(folder.path().join("one.safetensors")).unwrap();
        assert!(checksum(folder.path(), &[""]).is_err());
    }
}
