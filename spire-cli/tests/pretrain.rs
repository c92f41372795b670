//! `spire pretrain` with the real program: stages that continue from a model, and the initial weights of e(y).

mod common;

use std::fs;
use std::path::Path;

use common::{error, ok, spire};
use tempfile::TempDir;

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

fn asset(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny").join(path)).unwrap()
}

/// A folder with some parts of the tiny model, to which a stage adds its own.
fn model(scratch: &Path, parts: &[&str]) -> String {
    let out = scratch.join("prior");
    for (part, file) in parts
        .iter()
        .map(|part| (part, if part.contains("encoder") || *part == "judge" { "model.safetensors" } else { WEIGHTS }))
    {
        fs::create_dir_all(out.join(part)).unwrap();
        for file in ["config.json", file] {
            fs::write(out.join(part).join(file), asset(&format!("{part}/{file}"))).unwrap();
        }
    }
    format!("out={}", out.display())
}

fn pretrain(stage: &str, out: &str, settings: &[&str]) -> std::process::Output {
    let mut arguments = vec!["pretrain", "configs/tiny-prior.toml", "--stage", stage, "--set", out];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    spire(&arguments)
}

#[test]
fn without_steps_a_stage_measures_what_it_starts_from_and_keeps_it() {
    let scratch = TempDir::new().unwrap();
    let out = model(scratch.path(), &[]);
    let settings = ["start=assets/tiny", "vae.fit.steps=0", "vae.evaluate=4"];
    ok(pretrain("vae", &out, &settings));
    let prior = scratch.path().join("prior");
    assert!(fs::read(prior.join("vae").join(WEIGHTS)).unwrap() == asset(&format!("vae/{WEIGHTS}")));
    let figures: serde_json::Value =
        serde_json::from_slice(&fs::read(prior.join("figures/vae.json")).unwrap()).unwrap();
    assert!(figures["psnr_db"].as_f64().unwrap() > 20.0, "{figures}");

    let settings = ["start=assets/none", "unet.fit.steps=0", "unet.evaluate=1", "unet.judged=1"];
    let out = model(scratch.path(), &["vae", "text_encoder", "judge"]);
    assert!(error(pretrain("unet", &out, &settings)).contains("assets/none/unet"));
}

/// What the steps of a stage said, without how fast they were.
fn losses(out: &Path, stage: &str) -> Vec<(u64, f64, f64)> {
    let text = fs::read_to_string(out.join("training").join(stage).join("metrics.jsonl")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines
        .map(|line| {
            (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap(), line["grad_norm"].as_f64().unwrap())
        })
        .collect()
}

#[test]
fn a_killed_stage_goes_on_exactly_and_a_finished_one_with_more_steps() {
    let scratch = TempDir::new().unwrap();
    let (whole, killed) = (scratch.path().join("whole"), scratch.path().join("killed"));
    let arguments = |out: &Path, steps: u32| -> Vec<String> {
        let steps = format!("judge.fit.steps={steps}");
        let settings = [
            steps.as_str(),
            "judge.fit.batch_size=4",
            "judge.fit.schedule=constant",
            "judge.fit.checkpoint_every=3",
            "judge.fit.preview_every=4",
            "judge.evaluate=8",
            &format!("out={}", out.display()),
        ]
        .map(str::to_owned);
        let command = ["pretrain", "configs/tiny-prior.toml", "--stage", "judge"].map(str::to_owned);
        command.into_iter().chain(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting])).collect()
    };
    let run = |out: &Path, steps| {
        let arguments = arguments(out, steps);
        common::command(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    ok(run(&whole, 10).output().unwrap());
    assert_eq!(losses(&whole, "judge").len(), 10);
    assert!(whole.join("training/judge/samples/step-00000004.png").is_file());

    let mut child = run(&killed, 10).stderr(std::process::Stdio::null()).spawn().unwrap();
    while losses(&killed, "judge").len() < 5 {
        assert!(child.try_wait().unwrap().is_none(), "the stage ended before it could be killed");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("judge").exists());
    ok(run(&killed, 10).output().unwrap());
    assert_eq!(losses(&killed, "judge"), losses(&whole, "judge"));
    let weights = |out: &Path| fs::read(out.join("judge/model.safetensors")).unwrap();
    assert!(weights(&killed) == weights(&whole));

    // Done with as many steps: nothing happens. With more: it goes on, and what it did stays.
    ok(run(&killed, 10).output().unwrap());
    assert_eq!(losses(&killed, "judge").len(), 10);
    ok(run(&killed, 12).output().unwrap());
    assert_eq!(losses(&killed, "judge")[..10], losses(&whole, "judge")[..]);
    assert_eq!(losses(&killed, "judge").len(), 12);
    assert!(weights(&killed) != weights(&whole));

    // Each start that trained is written down, as that of a run.
    let training = killed.join("training/judge");
    let text = fs::read_to_string(training.join("starts.jsonl")).unwrap();
    let starts: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(starts.len(), 3, "{text}");
    assert_eq!((&starts[0]["from_step"], &starts[2]["from_step"]), (&0.into(), &10.into()));
    assert!(starts[0]["overrides"].as_array().unwrap().contains(&"judge.fit.steps=10".into()), "{text}");
    assert_eq!(starts[1]["changes"], serde_json::json!([]));
    assert_eq!(starts[2]["changes"], serde_json::json!(["judge.fit.steps: 10, now 12"]));
    let earlier = fs::read_to_string(training.join(starts[2]["earlier_config"].as_str().unwrap())).unwrap();
    let now = fs::read_to_string(training.join("config.toml")).unwrap();
    assert!(earlier.contains("steps = 10\n") && now.contains("steps = 12\n"));
}

#[test]
fn numbers_out_of_range_are_refused_before_anything_is_written() {
    let scratch = TempDir::new().unwrap();
    let out = format!("out={}", scratch.path().join("prior").display());
    for (setting, key) in [
        ("judge.fit.batch_size=100000000000000", "judge.fit.batch_size"),
        ("judge.fit.learning_rate=nan", "judge.fit.learning_rate"),
        ("judge.fit.parts=0", "judge.fit.parts"),
        ("world.count=0", "world.count"),
    ] {
        let told = error(pretrain("judge", &out, &[setting]));
        assert!(told.contains(key) && !scratch.path().join("prior").exists(), "{told}");
    }
}

#[test]
fn restoration_prompts_are_taught_to_a_text_tower_that_is_there() {
    let scratch = TempDir::new().unwrap();
    let out = model(scratch.path(), &[]);
    let settings = ["prompts.fit.steps=2", "prompts.fit.batch_size=4", "prompts.fit.parts=1", "prompts.evaluate=4"];
    let told = error(pretrain("prompts", &out, &settings));
    assert!(told.contains("prior/text_encoder") && told.contains("CLIP's text tower"), "{told}");

    let settings = [&settings[..], &["start=assets/tiny"]].concat();
    ok(pretrain("prompts", &out, &settings));
    let weights = || fs::read(scratch.path().join("prior/text_encoder/model.safetensors")).unwrap();
    let learned = weights();
    assert!(learned != asset("text_encoder/model.safetensors"));
    let figures = fs::read_to_string(scratch.path().join("prior/figures/prompts.json")).unwrap();
    assert!(figures.contains("explained_variance") && figures.contains("captions_moved"), "{figures}");

    ok(pretrain("prompts", &out, &settings));
    assert!(weights() == learned);
}

#[test]
fn a_run_starts_from_the_embedding_that_a_stage_made() {
    let scratch = TempDir::new().unwrap();
    let out = model(scratch.path(), &["vae"]);
    let settings = ["embedding.fit.steps=2", "embedding.fit.batch_size=2", "embedding.evaluate=2"];
    ok(pretrain("embedding", &out, &settings));
    let embedding = format!("model.embedding={}", scratch.path().join("prior/embedding").display());

    let run = scratch.path().join("run");
    let train = |settings: &[&str]| {
        let dir = format!("run.dir={}", run.display());
        let fixed = [
            "train.steps=1",
            "train.learning_rate=1e-30",
            "train.batch_size=1",
            "evaluate.samples=0",
            "evaluate.rows=1",
            "evaluate.validation_samples=1",
            "evaluate.sampling.steps=1",
        ];
        let settings = [&fixed[..], settings, &[dir.as_str(), embedding.as_str()]].concat();
        let mut arguments = vec!["train", "configs/tiny.toml"];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        spire(&arguments)
    };
    // Weights of other sizes are rejected before a run folder is created.
    let told = error(train(&["model.embedding_channels=[4, 8, 16, 32]"]));
    assert!(told.contains("prior/embedding") && told.contains("blocks.1.weight"), "{told}");
    assert!(!run.exists());

    ok(train(&[]));
    let [start, control] = ["prior/embedding", "run/control"].map(|folder| {
        let bytes = fs::read(scratch.path().join(folder).join(WEIGHTS)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let name =
            if folder.ends_with("control") { "controlnet_cond_embedding.blocks.3.bias" } else { "blocks.3.bias" };
        let tensor = tensors.tensor(name).unwrap();
        let single = |bytes: &[u8]| match tensor.dtype() {
            safetensors::Dtype::F16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            _ => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        };
        tensor.data().chunks_exact(tensor.data().len() / 32).map(single).collect::<Vec<f32>>()
    });
    // The moving average is rounded.
    assert!(start.iter().zip(&control).all(|(start, control)| (start - control).abs() < 1e-6), "{start:?} {control:?}");
    assert!(start.iter().any(|value| *value != 0.0));
}
