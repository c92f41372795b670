//! Keys of training that change what a run computes, with the real program and the built-in model.

mod common;
#[path = "common/copy.rs"]
mod copy;
#[path = "common/initial_branch.rs"]
mod initial_branch;

use std::fs;
use std::path::Path;

use common::{error, ok, spire};
use copy::copy_folder;
use initial_branch::of_an_initial_branch;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A short run on 16 scenes with batches of four.
fn train(dir: &Path, more: &[&str]) -> std::process::Output {
    train_of("configs/tiny.toml", dir, more)
}

fn train_of(config: &str, dir: &Path, more: &[&str]) -> std::process::Output {
    let dir = format!("run.dir={}", dir.display());
    let short = [
        dir.as_str(),
        "data.source.count=16",
        "train.batch_size=4",
        "train.accumulate=1",
        "train.warmup_steps=0",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=1",
        "evaluate.sampling.steps=2",
    ];
    let sets = short.iter().chain(more).flat_map(|set| ["--set", set]);
    spire(&["train", config].into_iter().chain(sets).collect::<Vec<_>>())
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn branch(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("control/config.json")).unwrap()).unwrap()
}

#[test]
fn epochs_become_steps_and_min_snr_weighs_the_loss() {
    let scratch = TempDir::new().unwrap();
    let (plain, weighted) = (scratch.path().join("plain"), scratch.path().join("weighted"));
    // Half a pass over 16 pictures.
    ok(train(&plain, &["train.epochs=0.5"]));
    let settings = ["train.steps=2", "train.min_snr_gamma=5.0", "train.schedule=linear", "train.adam_beta2=0.99"];
    ok(train(&weighted, &settings));
    let (plain_steps, weighted_steps) = (metrics(&plain), metrics(&weighted));
    assert_eq!((plain_steps.len(), weighted_steps.len()), (2, 2));
    let config: toml::Table = fs::read_to_string(plain.join("config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["train"]["steps"].as_integer(), Some(2));
    assert!(config["train"].get("epochs").is_none());
    assert_ne!(plain_steps[0]["loss"], weighted_steps[0]["loss"]);
    let rate = |step: &Value| step["learning_rate"].as_f64().unwrap();
    assert!(rate(&weighted_steps[1]) < 0.6 * rate(&weighted_steps[0]), "{weighted_steps:?}");
    for (key, message) in [
        ("train.epochs=0.0", "train.epochs"),
        ("train.adam_beta1=1.0", "train.adam_beta1"),
        ("train.min_snr_gamma=-1.0", "train.min_snr_gamma"),
        ("train.schedule_cycles=0", "train.schedule_cycles"),
    ] {
        assert!(error(train(&scratch.path().join("bad"), &[key])).contains(message), "{key}");
    }
}

#[test]
fn a_new_branch_reads_pictures_from_0_to_1_and_one_of_an_early_version_keeps_its_range() {
    let scratch = TempDir::new().unwrap();
    let (new, old) = (scratch.path().join("new"), scratch.path().join("old"));
    ok(train(&new, &["train.steps=1"]));
    assert_eq!(branch(&new)["conditioning_range"], json!([0, 1]));
    let early = scratch.path().join("early");
    copy_folder(Path::new("../assets/tiny/control"), &early);
    let mut settings: Value = serde_json::from_slice(&fs::read(early.join("config.json")).unwrap()).unwrap();
    settings.as_object_mut().unwrap().remove("conditioning_range").unwrap();
    fs::write(early.join("config.json"), settings.to_string()).unwrap();
    // A branch brings the shape of its own embedding.
    let config = of_an_initial_branch(scratch.path());
    let initial = format!("model.control={}", early.display());
    ok(train_of(config.to_str().unwrap(), &old, &["train.steps=1", &initial]));
    assert_eq!(branch(&old).get("conditioning_range"), None);
    assert_eq!(branch(&old)["_class_name"], "SpireControl");
}

#[test]
fn a_new_branch_fits_its_base_and_a_run_of_an_earlier_version_goes_on() {
    let scratch = TempDir::new().unwrap();
    let (new, old) = (scratch.path().join("new"), scratch.path().join("old"));
    let config = of_an_initial_branch(scratch.path());
    let config = config.to_str().unwrap();
    let channels = |run: &Path| branch(run)["conditioning_embedding_out_channels"].clone();
    ok(train_of(config, &new, &["train.steps=1"]));
    assert_eq!(channels(&new), json!([8, 16, 32, 64]));
    let stored: toml::Table = fs::read_to_string(new.join("config.toml")).unwrap().parse().unwrap();
    assert_eq!(stored["model"]["embedding_channels"], toml::Value::try_from([8, 16, 32, 64]).unwrap());

    // Earlier versions had one default and did not store it.
    ok(train_of(config, &old, &["train.steps=1", "model.embedding_channels=[16, 32, 96, 256]"]));
    let mut stored: toml::Table = fs::read_to_string(old.join("config.toml")).unwrap().parse().unwrap();
    stored["model"].as_table_mut().unwrap().remove("embedding_channels").unwrap();
    fs::write(old.join("config.toml"), toml::to_string(&stored).unwrap()).unwrap();
    ok(spire(&["train", "--resume", old.to_str().unwrap(), "--set", "train.steps=2"]));
    assert_eq!((channels(&old), metrics(&old).len()), (json!([16, 32, 96, 256]), 2));
}

#[test]
fn a_controlnet_with_its_own_prompts_and_long_captions_is_trained() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    ok(train(&run, &["train.steps=1", "model.fusion=add", "model.prompts=semantic", "model.long_prompts=chunk"]));
    let config = branch(&run);
    assert_eq!(
        (config["_class_name"].as_str(), config["prompts"].as_str()),
        (Some("ControlNetModel"), Some("semantic"))
    );
    let model: toml::Table = fs::read_to_string(run.join("model.toml")).unwrap().parse().unwrap();
    assert_eq!(model["long_prompts"].as_str(), Some("chunk"));
}
