//! `spire data encode`, and training from what it writes, with the real program and the built-in model.

mod common;
#[path = "common/copy.rs"]
mod copy;

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use common::{command, error, ok, spire};
use copy::copy_folder;
use safetensors::SafeTensors;
use serde_json::Value;
use spire_data::world::{World, WorldConfig};
use tempfile::TempDir;

/// The settings of all runs: 16 scenes, some of whose prompts are dropped.
const DATA: [&str; 1] = ["data.source.count=16"];

fn with_sets<'a>(args: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    let sets = DATA.iter().chain(sets).flat_map(|set| ["--set", set]);
    args.iter().copied().chain(sets).collect()
}

fn encode(folder: &Path, args: &[&str], sets: &[&str]) -> Output {
    let output = ["data", "encode", "configs/tiny.toml", "-o", folder.to_str().unwrap()];
    spire(&with_sets(&[&output, args].concat(), sets))
}

fn train(dir: &Path, sets: &[&str]) -> Output {
    let dir = format!("run.dir={}", dir.display());
    let short = [
        dir.as_str(),
        "train.steps=4",
        "train.batch_size=4",
        "train.accumulate=1",
        "train.warmup_steps=0",
        "train.validate_every=2",
        "evaluate.samples=2",
        "evaluate.rows=1",
        "evaluate.validation_samples=2",
        "evaluate.sampling.steps=2",
    ];
    spire(&with_sets(&["train", "configs/tiny.toml"], &[&short, sets].concat()))
}

fn losses(run: &Path) -> Vec<[Value; 3]> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let steps = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    steps.map(|step| ["loss", "grad_norm", "validation_loss"].map(|key| step[key].clone())).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with(".tmp-")).collect();
    names.sort();
    names
}

/// With the text tower, whose prompts with numbers can't be encoded beforehand, and without it; mirrored pictures too. The
/// losses are the same bit for bit: latents and states are computed in the same way, one at a time.
#[test]
fn training_from_encoded_data_has_the_losses_of_training_from_pictures() {
    let scratch = TempDir::new().unwrap();
    for (name, sets) in [
        ("numbers", &["data.prompt_dropout=0.3"][..]),
        ("blind", &["degradation.parameterized_share=0", "data.horizontal_flip=true"]),
    ] {
        let [folder, plain, encoded] = ["folder", "plain", "encoded"].map(|kind| scratch.path().join(kind).join(name));
        let printed = ok(encode(&folder, &["--pictures-per-file", "5"], sets));
        assert!(
            printed.contains("4 written, 0 were there, 4 in all") && printed.contains("16 encoded now"),
            "{printed}"
        );
        ok(train(&plain, sets));
        let setting = format!("data.encoded={}", folder.display());
        let told = train(&encoded, &[sets, &[setting.as_str()]].concat());
        assert!(String::from_utf8_lossy(&told.stderr).contains("latents and texts encoded in"), "{told:?}");
        ok(told);
        let (expected, found) = (losses(&plain), losses(&encoded));
        assert_eq!((expected.len(), &expected), (4, &found), "{name}");
        assert!(found.iter().filter(|step| step[2].is_number()).count() == 2, "{found:?}");
        let summaries = [&plain, &encoded].map(|run| {
            serde_json::from_slice::<Value>(&fs::read(run.join("summary.json")).unwrap()).unwrap()["held_out"].clone()
        });
        assert_eq!(summaries[0], summaries[1], "{name}");
    }
}

#[test]
fn several_random_crops_are_encoded_and_trained_on() {
    let scratch = TempDir::new().unwrap();
    let (folder, run) = (scratch.path().join("folder"), scratch.path().join("run"));
    let pictures = scratch.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    let world = World::new(WorldConfig { size: 96, count: 6, seed: 3 });
    for i in 0..6 {
        let scene = world.scene(i);
        scene.draw(96).save_png(pictures.join(format!("{i}.png"))).unwrap();
        fs::write(pictures.join(format!("{i}.txt")), scene.caption).unwrap();
    }
    fs::write(pictures.join("7.png"), b"broken").unwrap();
    let source = format!("data.source.path={}", pictures.display());
    let sets = ["data.source.kind=folder", &source, "data.crop=random", "data.horizontal_flip=true"];
    let printed = ok(encode(&folder, &["--crops", "3"], &sets));
    assert!(printed.contains("6 encoded now, 6 latents each"), "{printed}");
    assert!(printed.contains("skipped     1") && printed.contains("7.png"), "{printed}");
    let setting = format!("data.encoded={}", folder.display());
    ok(train(&run, &[&sets[..], &[&setting]].concat()));
    let counted: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!(counted["skipped_samples"], 1);
    let one = error(encode(&scratch.path().join("one"), &["--crops", "3"], &[]));
    assert!(one.contains("data.crop"), "{one}");
}

/// Killed, continued, and shared by two processes: the files are the same, byte for byte.
#[test]
fn encoding_goes_on_after_a_kill_and_is_shared_by_processes() {
    let scratch = TempDir::new().unwrap();
    let [killed, shared] = ["killed", "shared"].map(|name| scratch.path().join(name));
    let (size, count) = (["--pictures-per-file", "8"], "data.source.count=400");
    let output = ["data", "encode", "configs/tiny.toml", "-o", killed.to_str().unwrap(), "--set", count];
    let mut child =
        command(&[&output[..], &size].concat()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !killed.exists() || files(&killed).len() < 4 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        assert!(started.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let there = files(&killed).len() - 1;
    assert!((3..50).contains(&there), "{there}");
    let setting = format!("data.encoded={}", killed.display());
    let incomplete = error(train(&scratch.path().join("run"), &[&setting, count]));
    assert!(incomplete.contains(&format!("{} of 50 files", 50 - there)), "{incomplete}");
    assert!(incomplete.contains("spire data encode"), "{incomplete}");

    let printed = ok(encode(&killed, &size, &[count]));
    assert!(printed.contains(&format!("{} written, {there} were there", 50 - there)), "{printed}");
    for part in ["2/2", "1/2"] {
        let printed = ok(encode(&shared, &[&size[..], &["--shard", part]].concat(), &[count]));
        assert!(printed.contains("25 written"), "{printed}");
    }
    assert_eq!(files(&killed), files(&shared));
    for name in files(&killed) {
        let same = fs::read(killed.join(&name)).unwrap() == fs::read(shared.join(&name)).unwrap();
        assert!(same, "{name}");
    }
    let again = ok(encode(&killed, &size, &[count]));
    assert!(again.contains("0 written, 50 were there"), "{again}");
}

#[test]
fn what_was_encoded_of_something_else_is_refused() {
    let scratch = TempDir::new().unwrap();
    let (folder, other) = (scratch.path().join("folder"), scratch.path().join("other"));
    ok(encode(&folder, &[], &[]));
    let setting = format!("data.encoded={}", folder.display());
    let refused = |sets: &[&str]| error(train(&scratch.path().join("run"), &[&[setting.as_str()], sets].concat()));
    assert!(refused(&["data.size=32"]).contains("data.size: 64, now 32"));
    assert!(refused(&["data.horizontal_flip=true"]).contains("data.horizontal_flip: false, now true"));
    assert!(refused(&["data.source.count=17"]).contains("data.pictures: 16, now 17"));
    assert!(refused(&["data.source.seed=9"]).contains("is not the picture that was encoded"));
    for key in ["degradation.parameterized.partial_probability", "degradation.parameterized.weaker_probability"] {
        let latents = refused(&[&format!("{key}=0.2")]);
        assert!(latents.contains(key) && latents.contains("the latents of clean pictures alone"), "{latents}");
    }
    let precision = error(encode(&folder, &[], &["model.precision=bf16"]));
    assert!(precision.contains("model.precision: \"f32\", now \"bf16\""), "{precision}");

    copy_folder(Path::new("../assets/tiny"), &other);
    let weights = other.join("vae/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    // The lowest bit of the last weight.
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let base = format!("model.base={}", other.display());
    let vae = refused(&[&base]);
    assert!(
        vae.contains("another model or configuration") && vae.contains("model.vae") && !vae.contains("data."),
        "{vae}"
    );

    let file = folder.join("encoded-00000.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 10]).unwrap();
    let damaged = refused(&[]);
    assert!(damaged.contains("encoded-00000.safetensors") && damaged.contains("cut off"), "{damaged}");
    assert!(refused(&["data.encoded=configs"]).contains("no encoded pictures in"));
    let unnamed = error(spire(&["data", "encode", "configs/tiny.toml"]));
    assert!(unnamed.contains("data.encoded") && unnamed.contains("-o DIR"), "{unnamed}");
}

/// Every picture has its own caption and two of other pictures; its own is encoded, and training reads it.
#[test]
fn the_caption_that_a_clip_ranks_first_is_used() {
    let scratch = TempDir::new().unwrap();
    let (folder, pictures) = (scratch.path().join("folder"), scratch.path().join("pictures"));
    fs::create_dir(&pictures).unwrap();
    let world = World::new(WorldConfig { size: 64, count: 30, seed: 5 });
    let captions: Vec<String> = (0..30).map(|i| world.scene(i).caption).collect();
    let mut list = String::new();
    for i in 0..10 {
        world.scene(i as u64).draw(64).save_png(pictures.join(format!("{i}.png"))).unwrap();
        let among = [&captions[i + 10], &captions[i], &captions[i + 20]];
        let line = serde_json::json!({"file_name": format!("{i}.png"), "caption": among});
        list += &format!("{line}\n");
    }
    fs::write(pictures.join("metadata.jsonl"), list).unwrap();
    let source = format!("data.source.path={}", pictures.display());
    let sets = ["data.source.kind=folder", source.as_str(), "data.prompt_dropout=0"];
    ok(encode(&folder, &["--captions-by", "assets/tiny"], &sets));
    let bytes = fs::read(folder.join("encoded-00000.safetensors")).unwrap();
    let chosen = SafeTensors::deserialize(&bytes).unwrap().tensor("captions").unwrap().data().to_vec();
    let own = chosen.chunks_exact(8).filter(|chosen| chosen[0] == 1).count();
    assert!(chosen.len() == 80 && own >= 8, "{own} of 10");
    // A caption that was not chosen has no states: drawing one would be an error.
    let setting = format!("data.encoded={}", folder.display());
    ok(train(&scratch.path().join("run"), &[&sets[..], &[&setting]].concat()));
    let none = error(encode(&folder, &["--captions-by", "configs"], &sets));
    assert!(none.contains("configs"), "{none}");
}
