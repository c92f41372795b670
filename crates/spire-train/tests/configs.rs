//! The configurations that come with the project are read by the program and say what it does.

use std::path::{Path, PathBuf};

use spire_train::config::RunConfig;
use spire_train::pretrain::PretrainConfig;
use spire_train::settings;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name)
}

#[test]
fn the_reference_gives_every_key_its_default() {
    let read: RunConfig = settings::load(&file("reference.toml"), &[]).unwrap();
    let defaults = settings::resolved(&RunConfig::default()).unwrap();
    assert_eq!(settings::resolved(&read).unwrap(), defaults);
    // What the file does not mention is read as the default too, so its keys are counted as well.
    let text = std::fs::read_to_string(file("reference.toml")).unwrap();
    for line in defaults.lines().filter(|line| line.contains(" = ")) {
        let key = line.split(" = ").next().unwrap();
        assert!(text.contains(&format!("{key} = ")), "{key} is not explained");
    }
}

#[test]
fn the_shipped_runs_are_read() {
    let tiny: RunConfig = settings::load(&file("tiny.toml"), &[]).unwrap();
    tiny.validate().unwrap();
    settings::load::<PretrainConfig>(&file("tiny-prior.toml"), &[]).unwrap();
}
