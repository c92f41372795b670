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

/// Runs `spire` in `folder`.
fn spire_in(folder: &Path, args: &[&str]) -> Output {
    command(args).current_dir(folder).output().unwrap()
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
fn a_run_of_the_template_can_start_in_that_folder() {
    let scratch = TempDir::new().unwrap();
    ok(spire_in(scratch.path(), &["init"]));
    let model = root().join("assets/tiny").canonicalize().unwrap();
    let base = format!("model.base={}", model.display());
    let embedding = format!("model.embedding={}", model.join("embedding").display());
    let plan = ok(spire_in(scratch.path(), &["train", "tiny.toml", "--dry-run", "--set", &base, "--set", &embedding]));
    assert!(plan.contains("branch: fusion"), "{plan}");
}
