//! The models that the program carries, so that it works in any folder without a download.
//!
//! Their files are embedded in the library. The first use of a model unpacks its files into the user's cache folder; later uses
//! compare the unpacked files with the embedded ones and unpack again if they differ.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{env, fs, process};

use anyhow::{Context, Result};
use spire_core::atomic_write::{TEMPORARY, write_synced};

use crate::embedded::{self, EmbeddedFile, EmbeddedModel, MODELS};

/// The model for pictures of 64×64 pixels, as a base. Its control branch is `tiny/control`.
pub const TINY: &str = "tiny";

/// The model for pictures of 128×128 pixels, as a base. Its control branch is `small/control`. It restores by default.
pub const SMALL: &str = "small";

/// The models' folder in this repository. Configurations may name a model by its path there.
const IN_REPOSITORY: &str = "assets";

/// The unpacked folder of each model that this process uses.
static UNPACKED: Mutex<BTreeMap<&'static str, PathBuf>> = Mutex::new(BTreeMap::new());

/// The path in a built-in model's folder for `tiny`, `assets/tiny` and paths below them, and the same for `small`. `None` for
/// every other path. Check first whether `path` exists: an existing path takes precedence.
///
/// # Errors
/// The files cannot be unpacked.
pub fn resolve(path: &Path) -> Result<Option<PathBuf>> {
    let Some((model, inside)) = inside(path) else { return Ok(None) };
    Ok(Some(folder(model.name)?.join(inside)))
}

/// A built-in model's path in configurations, for its unpacked folder; `None` for any other path.
pub fn name_of(path: &Path) -> Option<PathBuf> {
    let unpacked = UNPACKED.lock().unwrap_or_else(PoisonError::into_inner);
    let (name, _) = unpacked.iter().find(|(_, folder)| *folder == path)?;
    Some(Path::new(IN_REPOSITORY).join(name))
}

/// Whether the UNet in the model folder `folder` is that of a built-in model, file by file.
pub fn is_built_in(folder: &Path) -> bool {
    let has_unet = |model: &EmbeddedModel| {
        model.files.iter().filter(|file| file.name.starts_with("unet/")).all(|file| is_there(folder, file))
    };
    MODELS.iter().any(has_unet)
}

/// The model that `path` names, and the path in its folder.
fn inside(path: &Path) -> Option<(&'static EmbeddedModel, &Path)> {
    let path = path.strip_prefix(".").unwrap_or(path);
    let path = path.strip_prefix(IN_REPOSITORY).unwrap_or(path);
    let (model, inside) = MODELS.iter().find_map(|model| Some((model, path.strip_prefix(model.name).ok()?)))?;
    inside.components().all(|part| matches!(part, Component::Normal(_))).then_some((model, inside))
}

/// The folder with the unpacked model [`TINY`] or [`SMALL`]: `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`,
/// `control/` and others.
///
/// # Errors
/// Neither the cache folder nor the temporary folder is writable.
///
/// # Panics
/// There is no built-in model of this name.
pub fn folder(name: &str) -> Result<PathBuf> {
    let model = embedded::model(name);
    let mut unpacked = UNPACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = unpacked.get(model.name) {
        return Ok(folder.clone());
    }
    let parents = [dirs::cache_dir().map(|cache| cache.join("spire")), Some(env::temp_dir().join("spire"))];
    let mut tried = Err(anyhow::anyhow!("there is no cache folder"));
    for parent in parents.into_iter().flatten() {
        tried = unpack(model, &parent);
        if tried.is_ok() {
            break;
        }
    }
    let folder = tried.context("can't unpack the built-in model")?;
    unpacked.insert(model.name, folder.clone());
    Ok(folder)
}

/// The folder of `model` in `parent`, with all files. A new folder is written under a temporary name and renamed when it is
/// complete, so that no process ever reads half of it.
fn unpack(model: &EmbeddedModel, parent: &Path) -> Result<PathBuf> {
    let name = format!("{}-{}", model.name, model.version);
    let folder = parent.join(&name);
    if is_complete(model, &folder) {
        return Ok(folder);
    }
    let temporary = parent.join(format!("{TEMPORARY}{name}-{}", process::id()));
    let write = || -> Result<()> {
        for file in model.files {
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
    if is_complete(model, &folder) { Ok(folder) } else { written.map(|()| folder) }
}

fn is_complete(model: &EmbeddedModel, folder: &Path) -> bool {
    model.files.iter().all(|file| is_there(folder, file))
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
        assert!(!is_built_in(&repository));
        for name in [TINY, SMALL] {
            let (model, folder) = (embedded::model(name), repository.join(name));
            assert!(is_complete(model, &folder) && is_built_in(&folder));
            assert!(model.files.len() > 10);
        }
    }

    #[test]
    fn paths_of_the_models_are_recognised() {
        for (path, expected) in [
            ("tiny", Some(("tiny", ""))),
            ("assets/tiny", Some(("tiny", ""))),
            ("./assets/tiny/control", Some(("tiny", "control"))),
            ("tiny/image_encoder", Some(("tiny", "image_encoder"))),
            ("small", Some(("small", ""))),
            ("assets/small/control", Some(("small", "control"))),
            ("assets", None),
            ("tiny/../x", None),
            ("models/tiny", None),
            ("/tiny", None),
            ("tiny2", None),
        ] {
            let found = inside(Path::new(path)).map(|(model, inside)| (model.name, inside));
            assert_eq!(found, expected.map(|(model, inside)| (model, Path::new(inside))), "{path}");
        }
    }

    #[test]
    fn a_damaged_copy_is_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let model = embedded::model(TINY);
        let folder = unpack(model, cache.path()).unwrap();
        assert!(is_complete(model, &folder));
        fs::write(folder.join("unet/config.json"), "{}").unwrap();
        assert_eq!(unpack(model, cache.path()).unwrap(), folder);
        assert!(is_complete(model, &folder));
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1, "no temporary folder is left");
    }

    #[test]
    fn a_folder_that_can_not_be_written_is_an_error() {
        let cache = tempfile::tempdir().unwrap();
        let file = cache.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(unpack(embedded::model(TINY), &file).is_err());
    }
}
