//! Models of other authors that generate, DiffBIR and StableSR: small networks in the published layouts.

mod common;
#[path = "common/published.rs"]
mod published;

use std::fs;
use std::path::Path;

use common::{command, error, ok, spire};
use published::publish;
use serde_json::{Value, json};
use spire_core::Picture;
use tempfile::TempDir;

fn picture(path: &Path) -> Picture {
    Picture::open(path).unwrap()
}

#[test]
fn diffbir_and_stablesr_restore_files() {
    let scratch = TempDir::new().unwrap();
    publish(scratch.path());
    let small = scratch.path().join("small.png");
    Picture::filled(16, 16, [0.3, 0.5, 0.7]).save_png(&small).unwrap();
    let restore = |model: &str, output: &str, options: &[&str]| {
        let weights = scratch.path().join(model).display().to_string();
        let output = scratch.path().join(output).display().to_string();
        let arguments = ["restore", small.to_str().unwrap(), "-o", &output, "--model", model, "--weights", &weights];
        command(&arguments).args(["--steps", "1", "--set", "shortest_side=64"]).args(options).output().unwrap()
    };
    let restored = |output: &str| picture(&scratch.path().join(output));

    assert!(!ok(restore("diffbir", "plain.png", &["--upscale", "2"])).contains("exists"));
    let plain = restored("plain.png");
    assert_eq!((plain.width, plain.height), (32, 32));
    assert!(ok(restore("diffbir", "plain.png", &["--upscale", "2"])).contains("exists already"));
    // The caption is read, and another seed makes another picture.
    for (output, options) in [("caption.png", ["--semantic", "a cup"]), ("seed.png", ["--seed", "1"])] {
        ok(restore("diffbir", output, &["--upscale", "2", options[0], options[1]]));
        assert_ne!(restored(output).data, plain.data, "{output}");
    }
    ok(restore("diffbir", "edited.png", &["--upscale", "2", "--semantic", "a cup", "--strength", "0.5"]));
    assert_ne!(restored("edited.png").data, restored("caption.png").data);

    ok(restore("stablesr", "stablesr.png", &["--set", "decoder_weight=0.8"]));
    let stablesr = restored("stablesr.png");
    assert_eq!((stablesr.width, stablesr.height), (16, 16));
    assert!(stablesr.data.iter().all(|value| (0.0..=1.0).contains(value)));

    let printed = error(restore("stablesr", "x.png", &["--guidance", "2"]));
    assert!(printed.contains("guidance_scale") && printed.contains("decoder_weight"), "{printed}");
    let printed = error(restore("stablesr", "x.png", &["--semantic", "a cup"]));
    assert!(printed.contains("reads no prompts"), "{printed}");
    let printed = error(restore("diffbir", "x.png", &["--set", "noise_augmentation=5000"]));
    assert!(printed.contains("noise_augmentation must be at most 999"), "{printed}");
}

#[test]
fn missing_and_broken_checkpoints_are_named() {
    let scratch = TempDir::new().unwrap();
    publish(scratch.path());
    let weights = scratch.path().join("diffbir");
    let run = |model: &str, weights: &Path| {
        let output = scratch.path().join("out.png").display().to_string();
        let weights = weights.display().to_string();
        spire(&["restore", "tests/pictures/grey.jpg", "-o", &output, "--model", model, "--weights", &weights])
    };
    fs::remove_file(weights.join("v1_general.formula.json")).unwrap();
    let printed = error(run("diffbir", &weights));
    assert!(printed.contains("v1_general.pth (https://huggingface.co/lxq007/DiffBIR-v2)"), "{printed}");
    assert!(!printed.contains("general_swinir_v1"), "{printed}");
    fs::write(weights.join("v1_general.pth"), b"not a pickle").unwrap();
    let printed = error(run("diffbir", &weights));
    assert!(printed.contains("v1_general.pth"), "{printed}");
    // A first stage where the control branch should be.
    fs::remove_file(weights.join("v1_general.pth")).unwrap();
    fs::copy(weights.join("general_swinir_v1.formula.json"), weights.join("v1_general.formula.json")).unwrap();
    let printed = error(run("diffbir", &weights));
    assert!(printed.contains("is not a checkpoint of DiffBIR's IRControlNet"), "{printed}");
    let printed = error(run("upscaler", &weights));
    assert!(printed.contains("diffbir-v2.1") && printed.contains("stablesr"), "{printed}");
}

/// Table 1's file for a stand-in: small networks by formula, the tiny model as both runs, and test sets of the illustrated
/// world.
fn table_1(scratch: &Path) -> String {
    let mut text = fs::read_to_string("../configs/benchmarks/table1.toml").unwrap();
    for (set, count) in [("parameterized", 2), ("real-esrgan", 1)] {
        let recipe = fs::read_to_string(format!("../configs/benchmarks/tiny-{set}.toml")).unwrap();
        let file = scratch.join(format!("{set}.toml"));
        fs::write(&file, recipe.replace("count = 256", &format!("count = {count}"))).unwrap();
        text = text
            .replace(&format!("configs/benchmarks/coco-{set}.toml"), file.to_str().unwrap())
            .replace(&format!("benchmarks/coco-{set}"), scratch.join(set).to_str().unwrap());
    }
    let small = "base = \"assets/tiny\"\ncontrol = \"assets/tiny/control\"";
    let swinir = "weights/swinir/003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth";
    let stablesr = "weights = \"weights/stablesr\"\n";
    text = text
        .replace("run = \"runs/controlnet-sr\"", small)
        .replace("run = \"runs/spire\"", small)
        .replace(swinir, "tests/reference/swinir-real-large")
        .replace(stablesr, &format!("{stablesr}settings = {{ steps = 1, shortest_side = 64 }}\n"))
        .replace("[methods.settings] # all that is not set here is as published\n", "[methods.settings]\n")
        .replace("[methods.settings]\n", "[methods.settings]\nsteps = 1\nshortest_side = 64\n")
        .replace(
            "semantic = false\n\n[[methods]]\nname = \"ControlNet-SR\"",
            "semantic = false\nsettings = { steps = 1, shortest_side = 64 }\n\n[[methods]]\nname = \"ControlNet-SR\"",
        )
        .replace("weights/clip-vit-base-patch32", "assets/tiny")
        .replace("\"weights/", &format!("\"{}/", scratch.display()));
    let metrics = text.lines().find(|line| line.starts_with("metrics = ")).unwrap().to_owned();
    let own = "metrics = [\"psnr\", \"ssim\", \"clip_i\", \"clip_t\"]\nclip = \"assets/tiny\"\nsampling.steps = 2";
    text = text.replace(&metrics, own);
    let config = scratch.join("table1.toml");
    fs::write(&config, format!("output = \"{}\"\n{text}", scratch.join("out").display())).unwrap();
    config.display().to_string()
}

#[test]
fn every_row_of_table_1_is_made_by_this_program() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let config = table_1(scratch);

    // Nothing is there but the tiny model: what is missing is said, with addresses, and nothing starts.
    let output = spire(&["eval", &config, "--check"]);
    assert!(!output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    for missing in
        ["vqgan_cfw_00011.ckpt (https://huggingface.co/Iceclear/StableSR)", "v1_general.pth", "4 of 16 are missing"]
    {
        assert!(printed.contains(missing), "{missing}: {printed}");
    }
    assert!(printed.contains("parameterized.toml, 2 pictures") && !scratch.join("out").exists(), "{printed}");
    // Each file once, though three rows read DiffBIR's: 5214865159 + 90208287 + 6481647231 + 959719471 bytes.
    for download in [
        "to download, 12.75 GB and 1 file whose size is not known:",
        "diffbir/v1_general.pth: https://huggingface.co/lxq007/DiffBIR-v2\n",
        "stablesr/vqgan_cfw_00011.ckpt: https://huggingface.co/Iceclear/StableSR, 959.72 MB, SHA-256 5b20ed9a80e9bdbf9e76ff1642a6a542",
    ] {
        assert_eq!(printed.matches(download).count(), 1, "{download}: {printed}");
    }

    publish(scratch);
    // A file that was cut short is named, and does not keep the row from being there.
    let cut_short = scratch.join("diffbir/general_swinir_v1.ckpt");
    fs::write(&cut_short, "cut short").unwrap();
    let printed = ok(spire(&["eval", &config, "--check"]));
    let difference = "general_swinir_v1.ckpt has 9 bytes, but the published file has 90208287 bytes";
    assert_eq!(printed.matches(difference).count(), 1, "{printed}");
    assert!(printed.contains("0 of 16 are missing") && !printed.contains("to download"), "{printed}");
    let needs: Value = serde_json::from_str(&ok(spire(&["eval", &config, "--check", "--json"]))).unwrap();
    let diffbir = needs.as_array().unwrap().iter().find(|need| need["name"] == "DiffBIR").unwrap();
    assert!(diffbir["cautions"][0].as_str().unwrap().contains(difference), "{diffbir}");
    fs::remove_file(cut_short).unwrap();
    let printed = ok(spire(&["eval", &config, "--check"]));
    assert!(printed.contains("0 of 16 are missing") && printed.contains("there, 3 pictures to restore"), "{printed}");

    let printed = ok(spire(&["eval", &config]));
    let results: Value = serde_json::from_slice(&fs::read(scratch.join("out/results.json")).unwrap()).unwrap();
    let rows =
        ["SwinIR", "StableSR", "DiffBIR", "ControlNet-SR", "Ours w/o text", "DiffBIR + SDEdit", "DiffBIR + CLIP"];
    let more = ["ControlNet-SR + SDEdit", "ControlNet-SR + CLIP", "Ours"];
    for benchmark in results["benchmarks"].as_array().unwrap() {
        let methods = benchmark["methods"].as_array().unwrap();
        let names: Vec<&str> = methods.iter().map(|method| method["name"].as_str().unwrap()).collect();
        assert_eq!(names, [&rows[..], &more].concat());
        for method in methods {
            for metric in ["psnr", "ssim", "clip_i", "clip_t"] {
                assert!(method["figures"][metric]["value"].as_f64().unwrap().is_finite(), "{}", method["name"]);
            }
        }
    }
    // The marks of the paper's columns: which prompts a row had.
    let row = |name: &str| printed.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap().to_owned();
    for (name, semantic) in [("StableSR", "✗"), ("DiffBIR", "✗"), ("DiffBIR + SDEdit", "✓"), ("DiffBIR + CLIP", "✓")]
    {
        assert!(row(name).starts_with(&format!("| {name} | {semantic} | ✗ |")), "{}", row(name));
    }
    let made = |name: &str| {
        let methods = results["benchmarks"][0]["methods"].as_array().unwrap();
        let method = methods.iter().find(|method| method["name"] == name).unwrap();
        results["protocols"][method["figures"]["psnr"]["protocol"].as_str().unwrap()]["method"].clone()
    };
    let (plain, edited) = (made("DiffBIR"), made("DiffBIR + SDEdit"));
    assert_eq!(plain["checkpoints"], edited["checkpoints"]);
    assert_eq!((&plain["settings"]["strength"], &edited["settings"]["strength"]), (&json!(1.0), &json!(0.5)));
    let printed = ok(spire(&["eval", &config, "--check"]));
    assert_eq!(printed.matches("all pictures are restored").count(), 10, "{printed}");
}
