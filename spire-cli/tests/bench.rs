//! `spire bench` with the real program.

mod common;

use std::fs;
use std::path::Path;

use common::{command, error, ok, spire};
use serde_json::Value;
use tempfile::TempDir;

/// Measures a few small steps.
fn bench(what: &str, file: &Path, changes: &[&str]) -> Value {
    let mut command = command(&["bench", what, "configs/tiny.toml", "--steps", "2", "--warmup", "1", "--json"]);
    command.arg(file);
    let small = ["train.batch_size=2", "train.warmup_steps=1", "evaluate.batch_size=1", "evaluate.sampling.steps=2"];
    for change in small.iter().chain(changes) {
        command.args(["--set", change]);
    }
    let printed = ok(command.output().unwrap());
    assert!(printed.contains("images/s") && printed.contains("FLOP/s"), "{printed}");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn losses(measured: &Value) -> Vec<f64> {
    measured["trained"].as_array().unwrap().iter().map(|step| step["loss"].as_f64().unwrap()).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max)
}

#[test]
fn steps_are_those_of_training_in_every_precision() {
    let scratch = TempDir::new().unwrap();
    let file = scratch.path().join("measured.json");
    let full = bench("train", &file, &[]);
    assert_eq!(full["images"], 4);
    assert_eq!(full["seconds"].as_array().unwrap().len(), 2);
    assert!(full["peak"]["flops_per_second"].as_f64().unwrap() > full["flops"].as_f64().unwrap());
    let expected = losses(&full);
    // The same samples in every step, so the loss falls.
    assert!(expected.len() == 3 && expected[2] < expected[0], "{expected:?}");

    let again = losses(&bench("train", &file, &["train.gradient_checkpointing=true"]));
    assert!(largest_difference(&again, &expected) < 1e-5, "{again:?} {expected:?}");

    let rounded = losses(&bench("train", &file, &["model.precision=bf16", "model.control_precision=bf16"]));
    let difference = largest_difference(&rounded, &expected);
    assert!(difference > 0.0 && difference < 0.02, "{rounded:?} {expected:?}");
}

#[test]
fn a_restoration_is_measured_and_its_inputs_are_dumped() {
    let scratch = TempDir::new().unwrap();
    let dump = scratch.path().join("dump");
    let measured = {
        let mut command =
            command(&["bench", "restore", "configs/tiny.toml", "--steps", "1", "--warmup", "0", "--dump"]);
        command.arg(&dump).args(["--set", "evaluate.batch_size=1", "--set", "evaluate.sampling.steps=2"]);
        ok(command.output().unwrap())
    };
    assert!(measured.starts_with("restoration of 1 × 64×64, 2 steps"), "{measured}");
    let bytes = fs::read(dump.join("inputs.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("noise").unwrap().shape(), [1, 48, 8, 8]);
    assert_eq!(tensors.tensor("restored").unwrap().shape(), [1, 3, 64, 64]);
    assert!(dump.join("control/diffusion_pytorch_model.safetensors").is_file());
}

#[test]
fn invalid_settings_are_errors() {
    let none = spire(&["bench", "train", "configs/tiny.toml", "--steps", "0"]);
    assert!(error(none).contains("at least one step"));
    let half = ["bench", "train", "configs/tiny.toml", "--set", "model.control_precision=f16"];
    assert!(error(spire(&half)).contains("model.control_precision"));
}
