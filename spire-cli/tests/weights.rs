//! `spire weights` with the real program, and models that are found by name.

mod common;
#[path = "common/copy.rs"]
mod copy;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{command, error, ok, spire};
use copy::copy_folder;
use serde_json::Value;
use tempfile::TempDir;

/// Runs `spire` with its own Hugging Face cache and without network.
fn with_cache(home: &Path, args: &[&str]) -> Output {
    command(args).env("HF_HOME", home).env_remove("HF_HUB_CACHE").env("HF_HUB_OFFLINE", "1").output().unwrap()
}

#[test]
fn every_layout_is_listed() {
    let folder = ok(spire(&["weights", "inspect", "tests/layouts/tiny1"]));
    assert!(folder.contains("everything fits"), "{folder}");
    // One line per part, and one per tensor with its shape and type.
    for text in ["370084", "218791", "104768", "down_blocks.0.resnets.0.conv1.weight", "F16"] {
        assert!(folder.contains(text), "{text}");
    }
    assert!(folder.lines().any(|line| line.contains("conv_in.weight") && line.contains(", 4, 3, 3]")));
    let file = ok(spire(&["weights", "inspect", "--summary", "tests/layouts/tiny1.ckpt"]));
    assert!(file.contains("370084") && file.lines().count() < 8, "{file}");
    let part = ok(spire(&["weights", "inspect", "--summary", "assets/tiny/control"]));
    assert!(part.contains("Control"), "{part}");
}

#[test]
fn a_program_reads_the_same_from_json() {
    let json = |args: &[&str]| -> Value { serde_json::from_str(&ok(spire(args))).unwrap() };
    let model = json(&["weights", "inspect", "--json", "tests/layouts/tiny1"]);
    assert_eq!(model["fits"], true);
    let unet = model["parts"].as_array().unwrap().iter().find(|part| part["name"] == "unet").unwrap();
    assert_eq!((&unet["parameters"], &unet["does_not_fit"]), (&370_084.into(), &Value::Null));
    let tensors = unet["tensors"].as_array().unwrap();
    assert!(tensors.iter().any(|tensor| tensor["name"] == "conv_in.weight" && tensor["shape"][1] == 4), "{unet}");
    let summary = json(&["weights", "inspect", "--json", "--summary", "assets/tiny/control"]);
    assert_eq!(summary["parts"][0]["tensors"], Value::Null);

    let verified = json(&["verify", "--json", "tests/reference/case-psnr-ssim"]);
    assert_eq!((&verified["passed"], &verified["cases"][0]["ok"]), (&true.into(), &true.into()));
    assert!(verified["cases"][0]["worst"].as_f64().unwrap() <= verified["cases"][0]["tolerance"].as_f64().unwrap());

    let scratch = TempDir::new().unwrap();
    fs::write(scratch.path().join("config.json"), "{").unwrap();
    let broken = spire(&["weights", "inspect", "--json", scratch.path().to_str().unwrap()]);
    assert!(!broken.status.success());
    let broken: Value = serde_json::from_slice(&broken.stdout).unwrap();
    assert!(broken["fits"] == false && broken["unreadable"][0]["reason"].as_str().unwrap().contains("config.json"));
}

#[test]
fn what_does_not_fit_is_listed_and_fails() {
    let scratch = TempDir::new().unwrap();
    let model = scratch.path().join("model");
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/layouts/tiny2"), &model);
    let config = model.join("unet/config.json");
    let text = fs::read_to_string(&config).unwrap().replace("\"layers_per_block\": 1", "\"layers_per_block\": 2");
    fs::write(&config, text).unwrap();
    fs::write(model.join("vae/diffusion_pytorch_model.formula.json"), "{").unwrap();
    let output = spire(&["weights", "inspect", "--summary", model.to_str().unwrap()]);
    assert!(!output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("unet: does not fit:") && printed.contains("missing: down_blocks.0"), "{printed}");
    assert!(printed.contains("vae: can't read the weights"), "{printed}");
    assert!(printed.contains("ClipText"), "the sound part is listed all the same: {printed}");
}

#[test]
fn a_name_is_found_in_the_cache_and_otherwise_the_error_says_how_to_get_it() {
    let home = TempDir::new().unwrap();
    let repository = home.path().join("hub/models--someone--small");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
    copy_folder(&tiny, &repository.join("snapshots/0123abc"));
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "0123abc").unwrap();
    let found = ok(with_cache(home.path(), &["weights", "inspect", "--summary", "someone/small"]));
    assert!(found.contains("everything fits"), "{found}");

    // A run on a model that is given by name.
    let run = home.path().join("run");
    let mut args: Vec<String> = ["train", "configs/tiny.toml"].map(Into::into).to_vec();
    for set in [
        &format!("run.dir={}", run.display()),
        "model.base=someone/small",
        "model.precision=f16",
        "train.steps=1",
        "train.batch_size=2",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=1",
        "evaluate.sampling.steps=1",
    ] {
        args.extend(["--set".into(), set.into()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    ok(with_cache(home.path(), &args));
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("0123abc") && config.contains("f16"), "{config}");

    let printed = error(with_cache(home.path(), &["weights", "inspect", "someone/else"]));
    assert!(printed.contains("hf download someone/else") && printed.contains("HF_HUB_OFFLINE"), "{printed}");
    fs::remove_file(repository.join("snapshots/0123abc/unet/diffusion_pytorch_model.safetensors")).unwrap();
    let printed = error(with_cache(home.path(), &["weights", "inspect", "someone/small"]));
    assert!(printed.contains("lacks unet/diffusion_pytorch_model.safetensors"), "{printed}");
}
