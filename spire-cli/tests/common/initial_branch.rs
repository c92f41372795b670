//! A configuration that can begin with a given branch.

use std::fs;
use std::path::{Path, PathBuf};

/// The small configuration without the keys of a new branch, which an initial branch excludes: a file in `folder`.
pub fn of_an_initial_branch(folder: &Path) -> PathBuf {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/tiny.toml");
    let config = fs::read_to_string(tiny).unwrap();
    let kept: Vec<&str> = config.lines().filter(|line| !line.starts_with("embedding")).collect();
    let path = folder.join("config.toml");
    fs::write(&path, kept.join("\n")).unwrap();
    path
}
