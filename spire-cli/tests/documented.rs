//! Commands of the README with the real program, as far as they need no data and little time.

#[allow(dead_code, reason = "not every helper is needed here")]
mod common;
#[path = "common/documentation.rs"]
mod documentation;

use std::path::Path;

use common::{command, ok};
use documentation::{commands_in_blocks, root};
use tempfile::TempDir;

/// Runs a command of the README with less work, and with files in `folder`. False for one that needs data from elsewhere.
fn run(arguments: &[String], folder: &Path) -> bool {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let more: &[&str] = match words.as_slice() {
        ["train", "configs/tiny.toml", ..] | ["sweep", ..] => &["--dry-run"],
        ["restore" | "walk", ..] => &["--steps", "1"],
        ["degrade", ..] => &[],
        ["weights" | "train" | "benchmark" | "eval", ..] => return false,
        other => panic!("a new command in the README: {other:?}"),
    };
    let place = |word: &&str| match *word {
        "PICTURE.png" => root().join("tests/pictures/scene.png").display().to_string(),
        name if name.ends_with(".png") => folder.join(name).display().to_string(),
        other => other.to_owned(),
    };
    // There is no run yet: the built-in model restores.
    let without_run: Vec<&str> = match words.iter().position(|word| *word == "--run") {
        Some(run) => [&words[..run], &words[run + 2..]].concat(),
        None => words,
    };
    ok(command(&[]).args(without_run.iter().map(place)).args(more).output().unwrap());
    true
}

#[test]
fn the_readme_s_commands_run() {
    let scratch = TempDir::new().unwrap();
    let commands = commands_in_blocks(&root().join("README.md"));
    let ran = commands.iter().filter(|arguments| run(arguments, scratch.path())).count();
    assert!(ran >= 5, "{ran} of {} commands", commands.len());
    for name in ["degraded.png", "restored.png", "walk.png", "walk.json"] {
        assert!(scratch.path().join(name).is_file(), "{name}");
    }
}
