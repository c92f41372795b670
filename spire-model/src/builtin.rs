//! The small model that the program carries, so that it works in any folder without a download.
//!
//! Its files are embedded in the library. The first use unpacks them into the user's cache folder; later uses compare the
//! unpacked files with the embedded ones and unpack again if they differ.

use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{env, fs, process};

use anyhow::{Context, Result};
use spire_core::atomic_write::{TEMPORARY, write_synced};

use crate::embedded::{EmbeddedFile, FILES, VERSION};

/// The small model's name, as a base. Its control branch is `tiny/control`.
pub const NAME: &str = "tiny";

/// The small model's folder in this repository. Configurations may name the model by this path.
const IN_REPOSITORY: &str = "assets/tiny";

/// The path in the built-in model's folder for `tiny`, `assets/tiny` and paths below them. `None` for every other path.
/// Check first whether `path` exists: an existing path takes precedence.
///
/// # Errors
/// The files cannot be unpacked.
pub fn resolve(path: &Path) -> Result<Option<PathBuf>> {
    let Some(inside) = inside(path) else { return Ok(None) };
    Ok(Some(folder()?.join(inside)))
}

/// The built-in model's path in configurations, for its unpacked folder; `None` for any other path.
pub fn name_of(path: &Path) -> Option<PathBuf> {
    (path == folder().ok()?).then(|| IN_REPOSITORY.into())
}

/// Whether the UNet in the model folder `folder` is the small model's, file by file.
pub fn is_built_in(folder: &Path) -> bool {
    FILES.iter().filter(|file| file.name.starts_with("unet/")).all(|file| is_there(folder, file))
}

/// The part of `path` below the built-in model's name.
fn inside(path: &Path) -> Option<&Path> {
    let path = path.strip_prefix(".").unwrap_or(path);
    let inside = [NAME, IN_REPOSITORY].iter().find_map(|name| path.strip_prefix(name).ok())?;
    inside.components().all(|part| matches!(part, Component::Normal(_))).then_some(inside)
}

/// The folder with the unpacked small model: `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`, `control/` and
/// others.
///
/// # Errors
/// Neither the cache folder nor the temporary folder is writable.
pub fn folder() -> Result<PathBuf> {
    static UNPACKED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut unpacked = UNPACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = &*unpacked {
        return Ok(folder.clone());
    }
    let name = format!("{NAME}-{}", VERSION);
    let parents = [dirs::cache_dir().map(|cache| cache.join("spire")), Some(env::temp_dir().join("spire"))];
    let mut tried = Err(anyhow::anyhow!("there is no cache folder"));
    for parent in parents.into_iter().flatten() {
        tried = unpack(&parent, &name);
        if tried.is_ok() {
            break;
        }
    }
    let folder = tried.context("can't unpack the built-in model")?;
    Ok(unpacked.insert(folder).clone())
}

/// `parent/name` with all files. A new folder is written under a temporary name and renamed when it is complete, so that no
/// process ever reads half of it.
fn unpack(parent: &Path, name: &str) -> Result<PathBuf> {
    let folder = parent.join(name);
    if is_complete(&folder) {
        return Ok(folder);
    }
    let temporary = parent.join(format!("{TEMPORARY}{name}-{}", process::id()));
    let write = || -> Result<()> {
        for file in FILES {
            let path = temporary.join(file.name);
            fs::create_dir_all(path.parent().unwrap_or(&temporary))?;
            write_synced(&path, &file.bytes())?;
        }
        if folder.exists() {
            fs::rename(&folder, parent.join(format!("{TEMPORARY}damaged-{name}-{}", process::id())))?;
        }
        Ok(fs::rename(&temporary, &folder)?)
    };
    let written = write();
    let _ = fs::remove_dir_all(&temporary);
    let _ = fs::remove_dir_all(parent.join(format!("{TEMPORARY}damaged-{name}-{}", process::id())));
    // Another process may have unpacked it meanwhile.
    if is_complete(&folder) { Ok(folder) } else { written.map(|()| folder) }
}

fn is_complete(folder: &Path) -> bool {
    FILES.iter().all(|file| is_there(folder, file))
}

/// Whether the folder has this file with this content.
fn is_there(folder: &Path, file: &EmbeddedFile) -> bool {
    fs::read(folder.join(file.name)).is_ok_and(|found| file.holds(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_files_are_those_of_the_repository() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(IN_REPOSITORY);
        assert!(is_complete(&repository) && is_built_in(&repository));
        assert!(!is_built_in(&repository.join("..")));
        assert!(FILES.len() > 10);
    }

    #[test]
    fn paths_of_the_small_model_are_recognised() {
        for (path, expected) in [
            ("tiny", Some("")),
            ("assets/tiny", Some("")),
            ("./assets/tiny/control", Some("control")),
            ("tiny/image_encoder", Some("image_encoder")),
            ("tiny/../x", None),
            ("models/tiny", None),
            ("/tiny", None),
            ("tiny2", None),
        ] {
            assert_eq!(inside(Path::new(path)), expected.map(Path::new), "{path}");
        }
    }

    #[test]
    fn a_damaged_copy_is_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let folder = unpack(cache.path(), "tiny-x").unwrap();
        assert!(is_complete(&folder));
        fs::write(folder.join("unet/config.json"), "{}").unwrap();
        assert_eq!(unpack(cache.path(), "tiny-x").unwrap(), folder);
        assert!(is_complete(&folder));
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1, "no temporary folder is left");
    }

    #[test]
    fn a_folder_that_can_not_be_written_is_an_error() {
        let cache = tempfile::tempdir().unwrap();
        let file = cache.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(unpack(&file, "tiny-x").is_err());
    }
}
