//! Where a model is: an existing path, a built-in model, or a repository on the Hugging Face Hub.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{builtin, hub};

pub use crate::hub::Wanted;

/// Resolves `path` to an existing folder or file. `what` names it in errors, `wanted` are the files to download from the Hub,
/// and `missing` lists what a folder lacks.
///
/// # Errors
/// There is no such path and no such repository; the message says what is missing and how to get it.
pub fn locate(path: &Path, what: &str, wanted: &Wanted, missing: impl Fn(&Path) -> Vec<String>) -> Result<PathBuf> {
    if path.exists() {
        // Links are not resolved: in the Hub's cache the target of a link has no file name extension.
        return Ok(std::path::absolute(path)?);
    }
    if let Some(built_in) = builtin::resolve(path)? {
        return Ok(built_in);
    }
    hub::locate(path, what, wanted, missing)
}

/// The name by which another machine finds a model that `locate` found: that on the Hub with the commit, or the built-in
/// model's. Another path stays as it is.
pub fn portable_name(found: &Path) -> PathBuf {
    builtin::name_of(found).or_else(|| hub::name_of(found).map(PathBuf::from)).unwrap_or_else(|| found.to_owned())
}
