//! `spire init`: a configuration in the current folder.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{command, error, ok, spire};
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Runs `spire` in `folder`, with a cache folder of its own.
fn spire_in(folder: &Path, args: &[&str]) -> Output {
    command(args).current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache")).output().unwrap()
}

#[test]
fn the_templates_are_the_files_in_configs_and_replace_nothing() {
    assert!(ok(spire(&["init", "--help"])).contains("reference"));
    let scratch = TempDir::new().unwrap();
    let printed = ok(spire_in(scratch.path(), &["init"]));
    assert!(printed.contains("spire train tiny.toml"), "{printed}");
    ok(spire_in(scratch.path(), &["init", "reference", "-o", "all.toml"]));
    for (written, template) in [("tiny.toml", "tiny.toml"), ("all.toml", "reference.toml")] {
        let expected = fs::read(root().join("configs").join(template)).unwrap();
        assert_eq!(fs::read(scratch.path().join(written)).unwrap(), expected, "{template}");
    }
    let again = error(spire_in(scratch.path(), &["init", "tiny"]));
    assert!(again.contains("tiny.toml exists already"), "{again}");
}

#[test]
fn a_run_of_the_template_works_in_that_folder() {
    let scratch = TempDir::new().unwrap();
    ok(spire_in(scratch.path(), &["init"]));
    let mut args = vec!["train", "tiny.toml"];
    for change in [
        "train.steps=1",
        "train.accumulate=1",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=1",
        "evaluate.sampling.steps=1",
        "data.source.count=4",
    ] {
        args.extend(["--set", change]);
    }
    ok(spire_in(scratch.path(), &args));
    assert!(scratch.path().join("runs/tiny/control/config.json").is_file());
}
