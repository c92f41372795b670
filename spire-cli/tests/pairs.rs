//! Pairs of clean and degraded pictures: read, trained on, mixed with others, imported as a test set.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{error, ok, spire};
use serde_json::Value;
use spire_data::Picture;
use spire_data::degrade::{Filter, resize};
use spire_data::testset::Entry;
use spire_data::world::{World, WorldConfig};
use tempfile::TempDir;

/// Ten scenes in `gt`, their halves at half the size in `lq` with the marks of DRealSR, and captions in `tag`. One degraded
/// picture is missing, one has no clean one, one has a wrong size.
fn pairs(dir: &Path) {
    for name in ["gt", "lq", "tag"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let world = World::new(WorldConfig { size: 64, count: 20, seed: 4 });
    let mut prompts = String::new();
    for i in 0..10 {
        let scene = world.scene(i);
        let clean = scene.draw(64);
        clean.save_png(dir.join(format!("gt/p{i}_x4.png"))).unwrap();
        fs::write(dir.join(format!("tag/p{i}_x4.txt")), scene.caption).unwrap();
        let (width, name) = match i {
            3 => continue,
            5 => (24, "p5_x1.png".to_owned()),
            i => (32, format!("p{i}_x1.png")),
        };
        resize(&clean, width, 32, Filter::Area).save_png(dir.join("lq").join(name)).unwrap();
        if i < 5 {
            let line = serde_json::json!({"file_name": format!("p{i}_x4.png"), "restoration": "Remove rain and blur"});
            prompts += &format!("{line}\n");
        }
    }
    Picture::filled(32, 32, [0.5; 3]).save_png(dir.join("lq/left_x1.png")).unwrap();
    fs::write(dir.join("prompts.jsonl"), prompts).unwrap();
}

fn config(dir: &Path) -> String {
    let source = format!(
        "kind = \"folder\"\npath = \"{0}/gt\"\ncaptions = \"{0}/tag\"\ndegraded = \"{0}/lq\"\n\
         restoration = \"{0}/prompts.jsonl\"\n",
        dir.display()
    );
    let config = format!(
        "[run]\nseed = 1\n[model]\nbase = \"assets/tiny\"\nembedding_channels = [8, 16, 32, 64]\n\
         [data]\nsize = 64\n[data.source]\n{source}\n\
         [train]\nsteps = 3\nbatch_size = 4\nwarmup_steps = 0\n\
         [evaluate]\nsamples = 0\nrows = 1\nvalidation_samples = 2\n[evaluate.source]\n{source}\n\
         [evaluate.sampling]\nsteps = 2\n"
    );
    let path = dir.join("pairs.toml");
    fs::write(&path, config).unwrap();
    path.to_str().unwrap().to_owned()
}

fn stats(config: &str, more: &[&str]) -> Value {
    let printed = ok(spire(&[&["data", "stats", config, "-n", "60", "--json"], more].concat()));
    serde_json::from_str(&printed).unwrap()
}

fn train(config: &str, run: &Path, more: &[&str]) -> Output {
    let dir = format!("run.dir={}", run.display());
    spire(&[&["train", config, "--set", &dir], more].concat())
}

#[test]
fn pairs_are_read_and_what_does_not_fit_is_counted_and_named() {
    let scratch = TempDir::new().unwrap();
    pairs(scratch.path());
    let config = config(scratch.path());
    let sheet = scratch.path().join("sheet.png");
    let figures = stats(&config, &["--sheet", sheet.to_str().unwrap()]);
    assert!(sheet.is_file());
    assert_eq!((&figures["source_pictures"], &figures["pictures"]), (&Value::from(9), &Value::from(8)));
    assert_eq!(figures["pipelines"]["pair"], 60);
    let broken: Vec<(String, String)> = serde_json::from_value(figures["broken"].clone()).unwrap();
    for (name, reason) in [
        ("p3_x4.png", "no degraded picture of this name"),
        ("left_x1.png", "no clean picture of this name"),
        ("p5_x4.png", "64×64 pixels, the degraded one 24×32"),
    ] {
        assert!(broken.iter().any(|(n, r)| n.ends_with(name) && r.contains(reason)), "{name}: {broken:?}");
    }
    assert_eq!(broken.len(), 3);
    // Half a size is little loss: a half of another picture, or a mirrored one, would be far from the clean one.
    let values: Vec<f64> = serde_json::from_value(figures["psnr"]["values"].clone()).unwrap();
    assert!(values.iter().all(|&psnr| psnr > 20.0 && psnr < 60.0), "{values:?}");

    let prompts = ok(spire(&["data", "prompts", &config, "-n", "60"]));
    let own = prompts.lines().filter(|line| line.starts_with("Remove rain and blur ")).count();
    let blind = prompts.lines().filter(|line| line.starts_with("Remove all degradation ")).count();
    assert!(own > 10 && blind > 10 && own + blind == 60, "{prompts}");
}

#[test]
fn a_branch_is_fine_tuned_on_pairs_and_on_a_mixture_with_degraded_scenes() {
    let scratch = TempDir::new().unwrap();
    pairs(scratch.path());
    let config = config(scratch.path());
    let (run, mixed) = (scratch.path().join("run"), scratch.path().join("mixed"));
    let told = train(&config, &run, &[]);
    let opening = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(opening.contains("pairs in") && opening.contains("/lq"), "{opening}");
    ok(told);
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 3);
    assert!(run.join("control/config.json").is_file());

    // From encoded data, no text tower is needed; the losses are the same.
    let encoded = scratch.path().join("encoded");
    ok(spire(&["data", "encode", &config, "-o", encoded.to_str().unwrap()]));
    let again = scratch.path().join("again");
    ok(train(&config, &again, &["--set", &format!("data.encoded={}", encoded.display())]));
    let losses = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].clone()).collect()
    };
    assert_eq!(losses(&metrics), losses(&fs::read_to_string(again.join("metrics.jsonl")).unwrap()));
    // Prompts that changed since then can't be encoded any more.
    let changed = fs::read_to_string(scratch.path().join("prompts.jsonl")).unwrap().replace("rain", "snow");
    fs::write(scratch.path().join("prompts.jsonl"), changed).unwrap();
    let other = scratch.path().join("other");
    let refused = error(train(&config, &other, &["--set", &format!("data.encoded={}", encoded.display())]));
    assert!(refused.contains("Remove snow and blur") && refused.contains("encode again"), "{refused}");

    let text = fs::read_to_string(&config).unwrap();
    let text =
        text.replacen("[data.source]\n", "[data.source]\nkind = \"mixture\"\n[[data.source.sources]]\nweight = 3\n", 1);
    let text = text.replacen("[train]", "[[data.source.sources]]\nkind = \"world\"\ncount = 40\n[train]", 1);
    let path = scratch.path().join("mixture.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let figures = stats(path, &[]);
    let pairs = figures["pipelines"]["pair"].as_u64().unwrap();
    assert!((30..60).contains(&pairs), "{figures}");
    ok(train(path, &mixed, &[]));
}

#[test]
fn a_published_test_set_of_pairs_is_imported() {
    let scratch = TempDir::new().unwrap();
    pairs(scratch.path());
    let [clean, degraded, made] = ["gt", "lq", "made"].map(|name| scratch.path().join(name));
    let recipe = "configs/benchmarks/stablesr-div2k.toml";
    let sets = [
        format!("source.path={}", clean.display()),
        format!("source.degraded={}", degraded.display()),
        format!("source.captions={}", scratch.path().join("tag").display()),
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let make = [&["benchmark", "make", recipe, "-o", made.to_str().unwrap()], &sets[..]].concat();
    let printed = ok(spire(&make));
    assert!(printed.contains("8 pictures") && printed.contains("skipped     3"), "{printed}");
    assert!(ok(spire(&["benchmark", "check", made.to_str().unwrap()])).contains("0 problems"));
    let entries = fs::read_to_string(made.join("prompts.jsonl")).unwrap();
    let entries: Vec<Entry> = entries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 8);
    for entry in entries {
        let open = |below: &str| Picture::open(made.join(below).join(format!("{}.png", entry.id))).unwrap();
        assert_eq!(open("clean"), Picture::open(clean.join(&entry.picture)).unwrap());
        let small = degraded.join(entry.picture.replace("_x4", "_x1"));
        assert_eq!(open("small"), Picture::open(small).unwrap());
        assert_eq!((open("degraded").width, entry.restoration.as_str()), (64, "Remove all degradation"));
        assert!(entry.steps.is_empty() && !entry.semantic.is_empty());
    }
    let kind = ["--set", "degradation.kind=real_esrgan", "-o", "unused"];
    let ignored = error(spire(&[&["benchmark", "make", recipe], &sets[..], &kind].concat()));
    assert!(ignored.contains("source.degraded") && ignored.contains("paired"), "{ignored}");
}
