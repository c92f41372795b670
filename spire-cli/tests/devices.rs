//! One process that trains on several devices; without GPUs, on the CPU twice.

mod common;

use std::fs;
use std::path::Path;

use common::{error, ok, spire};
use serde_json::Value;
use tempfile::TempDir;

fn run(dir: &Path, set: &[&str]) -> Vec<String> {
    let dir = format!("run.dir={}", dir.display());
    let own = [
        &dir,
        "train.steps=4",
        "train.batch_size=4",
        "train.accumulate=1",
        "train.threads=1",
        "train.schedule=constant",
        "train.warmup_steps=0",
        "train.bucket_megabytes=1",
        "train.checkpoint_every=2",
        "train.validate_every=3",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=3",
        "evaluate.sampling.steps=1",
    ];
    let sets = own.iter().chain(set).flat_map(|set| ["--set".to_owned(), (*set).to_owned()]);
    ["train".to_owned(), "configs/tiny.toml".to_owned()].into_iter().chain(sets).collect()
}

fn start(args: &[String]) -> std::process::Output {
    spire(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Step, loss, gradient norm and validation loss (if any) of every step.
fn steps(run: &Path) -> Vec<[Option<f64>; 4]> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let steps = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    steps.map(|step| ["step", "loss", "grad_norm", "validation_loss"].map(|key| step[key].as_f64())).collect()
}

#[test]
fn two_devices_take_the_steps_of_one_with_twice_the_samples() {
    let scratch = TempDir::new().unwrap();
    let [both, alone] = ["both", "alone"].map(|name| scratch.path().join(name));
    let output = start(&run(&both, &["run.device=flex, flex"]));
    let opening = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(opening.contains("gradients summed in the host's memory over 2 devices\n"), "{opening}");
    ok(output);
    let summary: Value = serde_json::from_str(&fs::read_to_string(both.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["ranks"], 2, "{summary}");
    ok(start(&run(&alone, &["train.accumulate=2"])));
    assert_eq!(steps(&both).len(), 4);
    for (one, other) in steps(&both).iter().flatten().zip(steps(&alone).iter().flatten()) {
        assert_eq!(one.is_some(), other.is_some());
        let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
        assert!((one - other).abs() <= 1e-6 * one.abs(), "{one} and {other}");
    }

    // Continue on one device with accumulation.
    let dir = both.to_str().unwrap();
    let more = ["run.device=flex", "train.accumulate=2", "train.steps=6"];
    let more = more.iter().flat_map(|set| ["--set", set]);
    ok(spire(&["train", "--resume", dir].into_iter().chain(more).collect::<Vec<_>>()));
    assert_eq!(steps(&both).len(), 6);
    let state: Value =
        serde_json::from_slice(&fs::read(both.join("checkpoints/step-00000006/state.json")).unwrap()).unwrap();
    assert_eq!(state["position"], 48);
}

#[test]
fn a_failing_device_ends_the_others_and_is_named() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().join("run");
    let printed = error(start(&run(&dir, &["run.device=flex,abacus:1"])));
    assert!(printed.contains("rank 1 of 2, on abacus:1: device \"abacus:1\" is unknown"), "{printed}");
    assert!(!dir.exists());
}

#[test]
fn a_benchmark_takes_one_device() {
    let printed = error(spire(&["bench", "train", "configs/tiny.toml", "--set", "run.device=flex,flex"]));
    assert!(printed.contains("names several, and here one is expected"), "{printed}");
}

#[test]
fn the_sum_of_gradients_is_measured_and_right() {
    let file = TempDir::new().unwrap();
    let file = file.path().join("sum.json");
    for (devices, words) in [("flex", "on one device"), ("flex,flex,flex", "over 3 devices")] {
        let device = format!("run.device={devices}");
        let args = ["bench", "all-reduce", "configs/tiny.toml", "--steps", "3", "--warmup", "0", "--set", &device];
        let json = ["--set", "train.bucket_megabytes=1", "--json", file.to_str().unwrap()];
        let printed = ok(spire(&[&args[..], &json[..]].concat()));
        assert!(printed.contains(&format!("summed in the host's memory {words}")), "{printed}");
        let measured: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let numbers = measured["numbers"].as_u64().unwrap();
        assert!(measured["seconds"].as_array().unwrap().len() == 3 && numbers > 1_000_000, "{measured}");
        assert_eq!(measured["buckets"], numbers.div_ceil(250_000));
    }
}
