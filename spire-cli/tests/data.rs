//! `spire data` with the real program.

mod common;

use std::fs;

use common::{error, ok, spire};
use serde_json::Value;
use spire_data::degrade::Step;
use spire_data::prompt::{self, Fragment};
use spire_data::source::{Names, Source, WebDatasetSource};
use tempfile::TempDir;

#[test]
fn stats_count_what_a_run_would_read() {
    let scratch = TempDir::new().unwrap();
    let sheet = scratch.path().join("sheet.png");
    let printed = ok(spire(&["data", "stats", "configs/tiny.toml", "-n", "20", "--threads", "2", "--json"]));
    let figures: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((figures["samples"].as_u64(), figures["threads"].as_u64()), (Some(20), Some(2)));
    assert_eq!(figures["source_pictures"], 4000);
    assert_eq!(figures["psnr"]["values"].as_array().unwrap().len(), 20);
    assert!(figures["images_per_second"].as_f64().unwrap() > 0.0);
    let table = ok(spire(&["data", "stats", "configs/tiny.toml", "-n", "3", "--sheet", sheet.to_str().unwrap()]));
    assert!(table.contains("images/s") && table.contains("broken      0"), "{table}");
    assert!(spire_core::Picture::open(&sheet).unwrap().width > 100);
    assert!(error(spire(&["data", "stats", "configs/none.toml"])).contains("configs/none.toml"));
}

/// Each printed prompt names the degradations of the picture with their numbers.
#[test]
fn printed_prompts_read_back_as_what_was_done() {
    let printed =
        ok(spire(&["data", "prompts", "configs/tiny.toml", "-n", "30", "--set", "degradation.parameterized_share=1"]));
    assert_eq!(ok(spire(&["data", "prompts", "-n", "20"])).lines().count(), 20);
    assert_eq!(printed.lines().count(), 30);
    for line in printed.lines() {
        let (text, steps) = line.rsplit_once(" [").unwrap();
        let steps: Vec<Step> = serde_json::from_str(&format!("[{steps}")).unwrap();
        let fragments = prompt::parse(text.trim()).unwrap();
        assert_eq!(fragments.len(), steps.len(), "{line}");
        for (fragment, step) in fragments.iter().zip(steps) {
            match fragment {
                Fragment::Numbered(named) => assert_eq!(*named, step, "{line}"),
                Fragment::Bare(kind) => assert_eq!(*kind, step.kind(), "{line}"),
            }
        }
    }
}

/// Shards, a table, a folder and drawn scenes in one run, some of them broken: every intact sample counts.
#[test]
fn a_mixture_is_read_as_a_run_would() {
    let scratch = TempDir::new().unwrap();
    let (broken, config) = (scratch.path().join("broken"), scratch.path().join("mixture.toml"));
    fs::create_dir(&broken).unwrap();
    for name in ["a.png", "b.png"] {
        fs::write(broken.join(name), b"no picture").unwrap();
        fs::write(broken.join(name).with_extension("txt"), "a caption").unwrap();
    }
    fs::copy("../tests/pictures/scene.png", broken.join("c.png")).unwrap();
    fs::write(broken.join("c.txt"), "a caption").unwrap();
    fs::write(scratch.path().join("short.tar"), &fs::read("../tests/shards/wds-000000.tar").unwrap()[..9000]).unwrap();
    let text = format!(
        r#"
        [data]
        size = 16
        prompt_dropout = 0.0
        [data.source]
        kind = "mixture"
        [[data.source.sources]]
        kind = "webdataset"
        shards = "tests/shards/wds-{{000000..000002}}.tar"
        weight = 3
        [[data.source.sources]]
        kind = "webdataset"
        shards = "{short}"
        [[data.source.sources]]
        kind = "parquet"
        shards = "tests/shards/*.parquet"
        weight = 3
        [[data.source.sources]]
        kind = "folder"
        path = "{broken}"
        [[data.source.sources]]
        kind = "world"
        count = 5
        "#,
        short = scratch.path().join("short.tar").display(),
        broken = broken.display(),
    );
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let stats = |threads| {
        let printed = spire(&["data", "stats", config, "-n", "300", "--threads", threads, "--json"]);
        serde_json::from_str::<Value>(&ok(printed)).unwrap()
    };
    let (one, three) = (stats("1"), stats("3"));
    for key in ["psnr", "broken", "pictures", "source_pictures", "sizes", "pipelines"] {
        assert_eq!(one[key], three[key], "{key}");
    }
    // 10 in shards, the intact part of the short shard, 20 rows, 3 in the folder, 5 scenes.
    let short =
        WebDatasetSource::open(scratch.path().join("short.tar").to_str().unwrap(), &Names::default(), 1).unwrap().len();
    assert!((1..4).contains(&short));
    let total = 10 + short + 20 + 3 + 5;
    assert_eq!(one["source_pictures"], total);
    let named: Vec<&str> = one["broken"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    let samples = named.iter().filter(|name| !name.ends_with(".tar")).count();
    assert_eq!(one["pictures"], total - samples, "{named:?}");
    for name in ["short.tar", "a.png", "b.png"] {
        assert!(named.iter().any(|named| named.contains(name)), "{named:?}");
    }
}

#[test]
fn a_benchmark_is_made_and_checked() {
    let scratch = TempDir::new().unwrap();
    let (folder, sheet) = (scratch.path().join("tiny"), scratch.path().join("sheet.png"));
    let (folder, sheet) = (folder.to_str().unwrap(), sheet.to_str().unwrap());
    let recipe = "configs/benchmarks/tiny-parameterized.toml";
    let make = ["benchmark", "make", recipe, "-o", folder, "--set", "count=6", "--sheet", sheet];
    let printed = ok(spire(&make));
    let checksum = printed.lines().find_map(|line| line.strip_prefix("checksum")).unwrap().trim();
    assert!(printed.contains("6 pictures"), "{printed}");
    assert!(spire_core::Picture::open(sheet).unwrap().width > 100);
    let checked = ok(spire(&["benchmark", "check", folder]));
    assert!(checked.contains("14 files, 0 problems") && checked.contains(checksum), "{checked}");
    assert!(error(spire(&make)).contains("exists already"));

    let entry = fs::read_to_string(format!("{folder}/prompts.jsonl")).unwrap();
    let entry: Value = serde_json::from_str(entry.lines().next().unwrap()).unwrap();
    let degraded = format!("{folder}/degraded/{}.png", entry["id"].as_str().unwrap());
    let mut bytes = fs::read(&degraded).unwrap();
    bytes[60] ^= 1;
    fs::write(&degraded, bytes).unwrap();
    let changed = spire(&["benchmark", "check", folder]);
    assert!(!changed.status.success());
    let printed = String::from_utf8(changed.stdout).unwrap();
    assert!(printed.contains(": changed") && printed.contains("1 problems"), "{printed}");

    assert!(error(spire(&["benchmark", "check", "configs"])).contains("SHA256SUMS"));
    let wrong = error(spire(&["benchmark", "make", recipe, "-o", folder, "--set", "degradation.kind=fog"]));
    assert!(wrong.contains("degradation.kind") || wrong.contains("fog"), "{wrong}");
    let missing = error(spire(&["benchmark", "make", "configs/benchmarks/realphoto60.toml", "-o", folder]));
    assert!(missing.contains("data/RealPhoto60"), "{missing}");
}
