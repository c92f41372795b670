//! Looking at what a run would read.

mod common;

use common::{error, ok, spire};
use serde_json::Value;
use spire_data::degrade::Step;
use spire_data::prompt::{self, Fragment};
use tempfile::TempDir;

#[test]
fn stats_count_what_a_run_would_read() {
    let scratch = TempDir::new().unwrap();
    let sheet = scratch.path().join("sheet.png");
    let said = ok(spire(&["data", "stats", "configs/tiny.toml", "-n", "20", "--threads", "2", "--json"]));
    let figures: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((figures["samples"].as_u64(), figures["threads"].as_u64()), (Some(20), Some(2)));
    assert_eq!(figures["source_pictures"], 4000);
    assert_eq!(figures["psnr"]["values"].as_array().unwrap().len(), 20);
    assert!(figures["images_per_second"].as_f64().unwrap() > 0.0);
    let table = ok(spire(&["data", "stats", "configs/tiny.toml", "-n", "3", "--sheet", sheet.to_str().unwrap()]));
    assert!(table.contains("images/s") && table.contains("broken      0"), "{table}");
    assert!(spire_data::Picture::open(&sheet).unwrap().width > 100);
    assert!(error(spire(&["data", "stats", "configs/none.toml"])).contains("configs/none.toml"));
}

/// Each printed prompt names what was done to the picture, with the numbers that were used.
#[test]
fn printed_prompts_read_back_as_what_was_done() {
    let said =
        ok(spire(&["data", "prompts", "configs/tiny.toml", "-n", "30", "--set", "degradation.parameterized_share=1"]));
    assert_eq!(said.lines().count(), 30);
    for line in said.lines() {
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
