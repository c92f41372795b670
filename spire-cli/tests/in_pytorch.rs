//! `scripts/spire_diffusers.py` restores the pictures of `spire restore`: the same branch, the same noise.
//!
//! Set `SPIRE_PYTHON` to a Python that has diffusers, transformers and accelerate, and run it with `--ignored --nocapture`.

#[allow(dead_code, reason = "not every helper is needed here")]
mod common;
#[path = "common/latents.rs"]
mod latents;

use std::path::Path;
use std::process::Command;

use common::{command, ok};
use latents::write_latents;
use spire_data::Picture;
use tempfile::TempDir;

const SCENE: &str = "tests/pictures/scene.png";
const PROMPTS: [&str; 4] = ["--semantic", "a panda by the bamboo", "--restoration", "Deblur with sigma 2.0; Denoise"];

/// A branch whose fusion acts: a few steps at a high rate.
fn trained(folder: &Path, name: &str, changes: &[&str]) -> String {
    let run = folder.join(name);
    let dir = format!("run.dir={}", run.display());
    let short = [
        dir.as_str(),
        "train.steps=6",
        "train.batch_size=4",
        "train.warmup_steps=0",
        "train.learning_rate=5e-3",
        "train.ema_decay=0.5",
        "train.validate_every=6",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=1",
        "evaluate.sampling.steps=10",
    ];
    let sets = short.iter().chain(changes).flat_map(|set| ["--set", set]);
    ok(command(&["train", "configs/tiny.toml"]).args(sets).output().unwrap());
    run.display().to_string()
}

/// The largest difference between the two pictures, in levels of 8 bits, and how far the branch moves the picture.
fn difference(python: &str, folder: &Path, run: &str, more: &[&str]) -> (f32, f32) {
    let latents = folder.join("latents.safetensors");
    write_latents(&latents, 3, [1, 48, 10, 10]);
    let noise = ["--latents", latents.to_str().unwrap()];
    let restored = |name: &str, mut command: Command, more: &[&str]| {
        let output = folder.join(name);
        let args = [SCENE, "-o", output.to_str().unwrap(), "--run", run];
        ok(command.args(args).args(PROMPTS).args(noise).args(more).output().unwrap());
        Picture::open(output).unwrap()
    };
    let in_rust = |name, more: &[&str]| restored(name, command(&["restore", "--tile", "0", "--overwrite"]), more);
    let here = in_rust("here.png", more);
    let without = in_rust("without.png", &["--control-scale", "0"]);
    let mut script = Command::new(python);
    script.arg("scripts/spire_diffusers.py").current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let there = restored("there.png", script, more);
    let apart =
        |a: &Picture, b: &Picture| 255.0 * a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    (apart(&here, &there), apart(&here, &without))
}

#[test]
#[ignore = "needs SPIRE_PYTHON, a Python with diffusers"]
fn every_branch_restores_the_same_picture_in_pytorch() {
    let python = std::env::var("SPIRE_PYTHON").expect("SPIRE_PYTHON names a Python with diffusers");
    let scratch = TempDir::new().unwrap();
    let folder = scratch.path();
    let mut worst: f32 = 0.0;
    let mut compare = |name: &str, run: &str, more: &[&str]| {
        let (apart, effect) = difference(&python, folder, run, more);
        println!("{name}: largest difference {apart:.0} of 255 levels; the branch moves up to {effect:.0}");
        assert!(effect > 3.0, "{name}: the branch hardly acts");
        worst = worst.max(apart);
    };
    for fusion in ["modulate_skip", "modulate_skip_and_up", "add"] {
        let run = trained(folder, fusion, &[&format!("model.fusion={fusion}")]);
        compare(fusion, &run, &[]);
        compare(&format!("{fusion}, no guidance"), &run, &["--guidance", "1"]);
        if fusion == "modulate_skip" {
            let negative = ["--negative", "grey, blurred", "--guidance", "4", "--control-scale", "0.7"];
            compare("negative prompt, control scale 0.7", &run, &negative);
            compare("start = picture", &run, &["--start", "picture"]);
            compare("strength 0.6", &run, &["--strength", "0.6"]);
        }
    }
    for (fusion, conditioning) in [("add", "concat"), ("modulate_skip", "add")] {
        let name = format!("{fusion}, e(y) by {conditioning}");
        let mut changes = vec![format!("model.fusion={fusion}"), format!("model.conditioning={conditioning}")];
        if conditioning == "add" {
            changes.push("model.embedding_channels=[8, 16, 32, 64]".to_owned());
        }
        let run = trained(folder, &name, &changes.iter().map(String::as_str).collect::<Vec<_>>());
        compare(&name, &run, &[]);
    }
    for prompts in ["joined", "semantic"] {
        let run = trained(folder, prompts, &[&format!("model.prompts={prompts}")]);
        compare(&format!("prompts = {prompts}"), &run, &[]);
    }
    for sampler in ["dpm++2m", "euler"] {
        let run = trained(folder, sampler, &[&format!("evaluate.sampling.sampler={sampler}")]);
        compare(sampler, &run, &[]);
    }
    assert!(worst <= 1.0, "{worst} levels");
}
