//! What a run measures and draws while it trains, with the real program.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{error, ok, spire};
use serde_json::Value;
use spire_data::Picture;
use tempfile::TempDir;

/// Trains `configs/tiny.toml` with these tables instead of its own of the same name, shortened to a few samples a step.
fn train(scratch: &Path, run: &Path, tables: &str, more: &[&str]) -> Output {
    let config = scratch.join(format!("{}.toml", run.file_name().unwrap().display()));
    let tiny: toml::Table = fs::read_to_string("../configs/tiny.toml").unwrap().parse().unwrap();
    let mut table = tiny;
    for (key, value) in tables.parse::<toml::Table>().unwrap() {
        let inner = table.entry(key).or_insert_with(|| toml::Table::new().into());
        inner.as_table_mut().unwrap().extend(value.as_table().unwrap().clone());
    }
    fs::write(&config, table.to_string()).unwrap();
    let dir = format!("run.dir={}", run.display());
    let short = [
        dir.as_str(),
        "train.batch_size=2",
        "train.accumulate=1",
        "train.warmup_steps=0",
        "train.checkpoint_every=1",
        "train.validate_every=1",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=1",
        "evaluate.sampling.steps=2",
    ];
    let sets = short.iter().chain(more).flat_map(|set| ["--set", set]);
    spire(&["train", config.to_str().unwrap()].into_iter().chain(sets).collect::<Vec<_>>())
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines without what depends on the clock.
fn reproducible(run: &Path) -> Vec<Value> {
    let mut lines = metrics(run);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.remove("images_per_second");
        line.remove("data_wait");
    }
    lines
}

fn scores(run: &Path) -> Vec<(u64, Option<f64>)> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let manifest = |folder: PathBuf| -> Value {
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap()
    };
    folders.into_iter().map(manifest).map(|it| (it["step"].as_u64().unwrap(), it["score"].as_f64())).collect()
}

const PICTURES: &str = r#"
[[validate.pictures]]
degraded = "tests/pictures/scene.png"
semantic = "a panda"
restoration = "Deblur with sigma 2.0"

[[validate.pictures]]
clean = "tests/pictures/scene.png"
degradation = "Denoise with sigma 0.1"
"#;

#[test]
fn fixed_pictures_and_figures_are_the_same_after_a_resume() {
    let scratch = TempDir::new().unwrap();
    let (whole, stopped) = (scratch.path().join("whole"), scratch.path().join("stopped"));
    let tables = format!(
        "[validate]\nsamples = 3\nrestore_every = 2\nmetrics = [\"psnr\", \"ssim\", \"clip_i\", \"clip_t\", \"identity\"]\n\
         clip = \"assets/tiny\"\nbest = \"psnr\"\n{PICTURES}"
    );
    let changes = ["train.steps=4", "train.learning_rate=5e-3", "train.schedule=constant", "train.keep_checkpoints=9"];
    ok(train(scratch.path(), &whole, &tables, &changes));
    ok(train(scratch.path(), &stopped, &tables, &[&changes[..], &["train.steps=2"]].concat()));
    ok(spire(&["train", "--resume", stopped.to_str().unwrap(), "--set", "train.steps=4"]));
    assert_eq!(reproducible(&whole), reproducible(&stopped));

    // What is validated does not change what is trained.
    let plain = scratch.path().join("plain");
    ok(train(scratch.path(), &plain, "[validate]\nsamples = 0", &changes));
    let losses = |run: &Path| metrics(run).iter().map(|line| line["loss"].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(losses(&whole), losses(&plain));

    let lines = metrics(&whole);
    for (step, line) in lines.iter().enumerate() {
        let measured = step % 2 == 1;
        assert!(line["validation_loss"].is_f64());
        for name in ["psnr", "ssim", "clip_i", "clip_t", "identity"] {
            let figure = line[format!("validation_{name}")].as_f64();
            assert_eq!(figure.is_some(), measured, "step {step}: {name}");
        }
        if measured {
            assert!(line["validation_psnr"].as_f64().unwrap() > 3.0);
            assert!((0.0..=1.0).contains(&line["validation_identity"].as_f64().unwrap()));
        }
    }
    for (step, score) in scores(&whole) {
        let expected = (step % 2 == 0).then(|| lines[step as usize - 1]["validation_psnr"].as_f64().unwrap());
        assert_eq!(score, expected, "step {step}");
    }

    // Two rows: degraded, restored, and clean where it is known.
    let sheet = |run: &Path, step: usize| fs::read(run.join(format!("validation/step-{step:08}.png"))).unwrap();
    for step in 1..=4 {
        assert_eq!(sheet(&whole, step), sheet(&stopped, step), "step {step}");
    }
    assert_ne!(sheet(&whole, 1), sheet(&whole, 4), "the branch has changed");
    let drawn = Picture::open(whole.join("validation/step-00000001.png")).unwrap();
    assert!(drawn.width > 3 * 192 && drawn.height > 2 * 66, "{}×{}", drawn.width, drawn.height);

    let best = scores(&whole).into_iter().filter_map(|(step, score)| Some((score?, step)));
    let (_, best) = best.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    let went_back = spire(&["train", "--resume", whole.to_str().unwrap(), "--from", "best", "--set", "train.steps=4"]);
    let told = String::from_utf8_lossy(&went_back.stderr).into_owned();
    ok(went_back);
    assert!(told.contains(&format!("continuing from step {best}")), "{told}");

    let card = fs::read_to_string(whole.join("control/README.md")).unwrap();
    assert!(card.starts_with("---\nlibrary_name: diffusers\n"), "{card}");
}

#[test]
fn what_can_not_be_measured_or_drawn_is_told_before_the_first_step() {
    let scratch = TempDir::new().unwrap();
    let refused = |tables: &str| {
        let run = scratch.path().join("refused");
        let told = error(train(scratch.path(), &run, tables, &["train.steps=1"]));
        assert!(!run.exists(), "{told}");
        told
    };
    for (tables, expected) in [
        ("[validate]\nsamples = 2\nmetrics = [\"lpips\"]", "validate.metrics can't be measured: lpips"),
        ("[validate]\nsamples = 2\nmetrics = [\"psnr\"]\nbest = \"ssim\"", "validate.best = \"ssim\""),
        ("[[validate.pictures]]\ndegraded = \"no-such.png\"", "validate.pictures.0"),
        ("[[validate.pictures]]\nclean = \"a.png\"", "validate.pictures.0: clean needs degradation"),
        ("[evaluate]\nheld_out_share = 0.9", "evaluate.held_out_share"),
    ] {
        let told = refused(tables);
        assert!(told.contains(expected), "{told}");
    }
}

/// A folder of 16 pictures with captions.
fn folder(scratch: &Path) -> PathBuf {
    let folder = scratch.join("photos");
    fs::create_dir(&folder).unwrap();
    for i in 0..16 {
        let shade = i as f32 / 16.0;
        Picture::filled(64, 64, [shade, 0.5, 1.0 - shade]).save_png(folder.join(format!("{i}.png"))).unwrap();
        fs::write(folder.join(format!("{i}.txt")), format!("shade {i}")).unwrap();
    }
    folder
}

#[test]
fn a_share_of_a_folder_is_held_out_and_never_trained_on() {
    let scratch = TempDir::new().unwrap();
    let photos = folder(scratch.path());
    let source = format!("[data.source]\nkind = \"folder\"\npath = \"{}\"\n", photos.display());
    let run = |name: &str, share: &str, changes: &[&str]| {
        let dir = scratch.path().join(name);
        let tables = format!("[data]\nworkers = 0\n[evaluate]\n{share}\n{source}");
        (train(scratch.path(), &dir, &tables, &[&["train.batch_size=1", "train.epochs=1.0"], changes].concat()), dir)
    };
    let steps = |dir: &Path| -> i64 {
        let config: toml::Table = fs::read_to_string(dir.join("config.toml")).unwrap().parse().unwrap();
        config["train"]["steps"].as_integer().unwrap()
    };
    let (split, dir) = run("split", "held_out_share = 0.3", &[]);
    let told = String::from_utf8_lossy(&split.stderr).into_owned();
    ok(split);
    let trained = steps(&dir);
    assert!(told.contains(&format!("{trained} pictures in the folder")), "{told}");
    assert!(told.contains(&format!("; {} more are held out", 16 - trained)), "{told}");
    assert!(!told.contains("training pictures"), "{told}");
    assert!((8..16).contains(&trained), "{trained} of 16 pictures");
    let (whole, dir_of_whole) = run("whole", "held_out_share = 0.0", &[]);
    assert!(String::from_utf8_lossy(&whole.stderr).contains("the figures are of training pictures"));
    ok(whole);
    assert_eq!(steps(&dir_of_whole), 16);

    // The split belongs to the run.
    let resumed = spire(&["train", "--resume", dir.to_str().unwrap(), "--set", "evaluate.held_out_share=0.1"]);
    assert!(error(resumed).contains("evaluate.held_out_share"));
}
