//! What commands read and write: outputs in the format of their names, never over the input or a device, whole or not at
//! all; inputs that are hostile.

mod common;
#[path = "common/copy.rs"]
mod copy;
#[path = "common/initial_branch.rs"]
mod initial_branch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{command, error, ok, spire};
use copy::copy_folder;
use initial_branch::of_an_initial_branch;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use spire_data::Picture;
use spire_restore::provenance::Provenance;
use tempfile::TempDir;

const SCENE: &str = "tests/pictures/scene.png";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn degrade(input: &str, output: &Path, options: &[&str]) -> Output {
    let args = ["degrade", input, "--prompt", "Denoise with sigma 0.3", "-o", text(output)];
    command(&args).args(options).output().unwrap()
}

fn restore(input: &str, output: &Path, options: &[&str]) -> Output {
    command(&["restore", input, "-o", text(output), "--steps", "2"]).args(options).output().unwrap()
}

/// Runs `spire` with files limited to a few kilobytes: writing fails as on a full disk.
#[cfg(unix)]
fn without_room(blocks: u32, args: &[&str]) -> Output {
    let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_spire")]).args(args);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).output().unwrap()
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn a_picture_is_written_in_the_format_of_its_name() {
    let scratch = TempDir::new().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for (name, magic) in [("a.png", &b"\x89PNG"[..]), ("a.jpg", b"\xff\xd8"), ("a.WEBP", b"RIFF")] {
        ok(degrade(SCENE, &path(name), &[]));
        assert!(fs::read(path(name)).unwrap().starts_with(magic), "{name}");
        assert_eq!(Picture::open(path(name)).unwrap().width, 70);
    }
    ok(degrade(SCENE, &path("small.jpg"), &["--quality", "10"]));
    assert!(path("small.jpg").metadata().unwrap().len() < path("a.jpg").metadata().unwrap().len() / 2);
    for (name, options, expected) in [
        ("a.bmp", &[][..], ".webp (lossless)"),
        ("a", &[], ".png, .jpg or .jpeg"),
        ("b.png", &["--quality", "90"], "for JPEG"),
        ("b.jpg", &["--quality", "0"], "from 1 to 100"),
    ] {
        let printed = error(degrade(SCENE, &path(name), options));
        assert!(printed.contains(expected), "{printed}");
        assert!(!path(name).exists());
    }
    for (subcommand, option) in [("walk", "-o"), ("restore", "-o")] {
        let printed = error(spire(&[subcommand, SCENE, option, text(&path("w.tiff"))]));
        assert!(printed.contains("pictures are written as"), "{printed}");
    }
    let sheet = text(&path("sheet.txt")).to_owned();
    let printed = error(spire(&["data", "stats", "configs/tiny.toml", "-n", "1", "--sheet", &sheet]));
    assert!(printed.contains("pictures are written as"), "{printed}");
}

#[test]
fn provenance_travels_in_every_format() {
    let scratch = TempDir::new().unwrap();
    for name in ["a.jpg", "a.webp"] {
        let output = scratch.path().join(name);
        let options = ["--semantic", "a cup — 茶", "--seed", "7"];
        ok(restore("tests/pictures/grey.jpg", &output, &options));
        let made = Provenance::read(&output).unwrap();
        assert_eq!((made.semantic.as_str(), made.seed), ("a cup — 茶", 7), "{name}");
        assert!(ok(restore("tests/pictures/grey.jpg", &output, &options)).contains("exists already"), "{name}");
    }
    let output = restore("tests/pictures/alpha.png", &scratch.path().join("b.jpg"), &[]);
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    assert_eq!(printed.matches("can't be transparent").count(), 1, "{printed}");
}

#[test]
fn the_input_is_never_overwritten() {
    let scratch = TempDir::new().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::copy(in_repository(SCENE), path("a.png")).unwrap();
    fs::copy(in_repository(SCENE), path("b-seed1.png")).unwrap();
    let before = fs::read(path("a.png")).unwrap();
    let refused = |output: Output| {
        let printed = error(output);
        assert!(printed.contains("this is the input"), "{printed}");
    };
    refused(degrade(text(&path("a.png")), &path("a.png"), &[]));
    refused(restore(text(&path("a.png")), &scratch.path().join("./a.png"), &[]));
    refused(restore(text(&path("b-seed1.png")), &path("b.png"), &["--variants", "2"]));
    refused(spire(&["walk", text(&path("a.png")), "-o", text(&path("a.png"))]));
    assert_eq!(fs::read(path("a.png")).unwrap(), before);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);

    // The input folder is inside the output folder, and a result would fall on a picture of it.
    let input = path("out/below");
    fs::create_dir_all(input.join("below")).unwrap();
    for name in ["x.png", "below/x.png"] {
        fs::copy(in_repository("tests/pictures/grey.jpg"), input.join(name)).unwrap();
    }
    let output = restore(text(&input), &path("out"), &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 restored, 0 existed already, 1 failed"), "{output:?}");
    assert!(error(output).contains("would replace the picture"));
    assert_eq!(fs::read(input.join("x.png")).unwrap(), fs::read(in_repository("tests/pictures/grey.jpg")).unwrap());
}

#[cfg(unix)]
#[test]
fn devices_are_not_replaced_and_pipes_are_not_read() {
    use std::os::unix::fs::{FileTypeExt, symlink};

    let scratch = TempDir::new().unwrap();
    let (full, pipe) = (scratch.path().join("full.png"), scratch.path().join("pipe.png"));
    symlink("/dev/full", &full).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for output in [degrade(SCENE, &full, &[]), restore(SCENE, &full, &[]), degrade(SCENE, &pipe, &[])] {
        let printed = error(output);
        assert!(printed.contains("this is a device or a pipe"), "{printed}");
    }
    assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    for input in [&pipe, &full] {
        let printed = error(restore(text(input), &scratch.path().join("a.png"), &[]));
        assert!(printed.contains("a pipe or a device, not a regular file"), "{printed}");
    }
    let json = ["bench", "train", "configs/tiny.toml", "--json", text(&full)];
    assert!(error(spire(&json)).contains("this is a device or a pipe"));
}

#[cfg(unix)]
#[test]
fn where_there_is_no_room_the_old_file_stays() {
    let scratch = TempDir::new().unwrap();
    let (input, output) = (scratch.path().join("in.png"), scratch.path().join("out.png"));
    Picture::filled(160, 160, [0.5; 3]).save_png(&input).unwrap();
    fs::write(&output, "old").unwrap();
    let args = ["degrade", text(&input), "--prompt", "Denoise with sigma 0.3", "-o", text(&output)];
    let printed = error(without_room(8, &args));
    assert!(printed.contains("out.png: File too large"), "{printed}");
    assert_eq!(printed.matches("os error").count(), 1, "{printed}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "old");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2, "no temporary file is left");

    let run = scratch.path().join("run");
    let dir = format!("run.dir={}", run.display());
    let mut args = vec!["train", "configs/tiny.toml", "--set", &dir];
    for set in [
        "train.steps=1",
        "train.batch_size=2",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=1",
        "evaluate.sampling.steps=1",
    ] {
        args.extend(["--set", set]);
    }
    let printed = error(without_room(200, &args));
    assert!(printed.contains(&format!("spire train --resume {}", run.display())), "{printed}");
}

#[test]
fn weights_that_are_not_finite_are_found_before_anything_is_computed() {
    let scratch = TempDir::new().unwrap();
    let control = scratch.path().join("control");
    copy_folder(&in_repository("assets/tiny/control"), &control);
    // The last value of the file becomes NaN.
    let weights = control.join("diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let tensor = "time_embedding.linear_2.weight";

    let inspected = spire(&["weights", "inspect", "--summary", text(&control)]);
    let printed = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(
        !inspected.status.success() && printed.contains(tensor) && printed.contains("NaN or infinite"),
        "{printed}"
    );
    assert!(!printed.contains("everything fits"), "{printed}");

    let output = scratch.path().join("out.png");
    let printed = error(restore(SCENE, &output, &["--base", "assets/tiny", "--control", text(&control)]));
    assert!(printed.contains(tensor) && printed.contains("NaN or infinite"), "{printed}");
    assert!(!output.exists());

    let set = format!("model.control={}", control.display());
    let config = of_an_initial_branch(scratch.path());
    let printed = error(spire(&["train", text(&config), "--dry-run", "--set", &set]));
    assert!(printed.contains(tensor) && printed.contains("NaN or infinite"), "{printed}");
}

#[test]
fn what_is_computed_and_not_finite_is_an_error_that_names_the_part() {
    let scratch = TempDir::new().unwrap();
    let output = scratch.path().join("out.png");
    let printed = error(restore(SCENE, &output, &["--guidance", "1e300", "--semantic", "a panda"]));
    assert!(printed.contains("the latent after guidance in step 1 of 2"), "{printed}");
    assert!(printed.contains("lower the guidance scale"), "{printed}");
    assert!(!output.exists());
}

/// A name that clears the screen and turns the rest red.
const HOSTILE: &str = "evil\u{1b}[2J\u{1b}[31m";

#[test]
fn names_do_not_control_the_terminal() {
    let scratch = TempDir::new().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let missing = error(spire(&["degrade", text(&path(HOSTILE)), "--prompt", "Dejpeg with quality 40"]));
    assert!(missing.contains("evil\\u{1b}[2J") && !missing.contains('\u{1b}'), "{missing}");
    assert_eq!(missing.matches("os error 2").count(), 1, "{missing}");

    let values = [0; 8];
    let tensors = [(HOSTILE, TensorView::new(Dtype::F32, vec![2], &values).unwrap())];
    fs::write(path("w.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    let printed = ok(spire(&["weights", "inspect", text(&path("w.safetensors"))]));
    assert!(printed.contains("evil\\u{1b}[2J") && !printed.contains('\u{1b}'), "{printed}");

    let folder = path("pictures");
    fs::create_dir(&folder).unwrap();
    for name in ["a", HOSTILE] {
        fs::write(folder.join(format!("{name}.txt")), "a scene").unwrap();
    }
    fs::copy(in_repository(SCENE), folder.join("a.png")).unwrap();
    fs::write(folder.join(format!("{HOSTILE}.png")), "no picture").unwrap();
    let source = format!("data.source.path={}", folder.display());
    let stats = ["data", "stats", "configs/tiny.toml", "-n", "8", "--set", "data.source.kind=folder", "--set", &source];
    let output = spire(&stats);
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(ok(output).contains("broken      1"), "{printed}");
    assert!(printed.contains("evil") && !printed.contains('\u{1b}'), "{printed}");

    // The log has colours only where the user insists.
    let forced = command(&stats).env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR").output().unwrap();
    assert!(String::from_utf8_lossy(&forced.stderr).contains("\u{1b}["), "{forced:?}");
    let refused = command(&stats).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert!(!String::from_utf8_lossy(&refused.stderr).contains('\u{1b}'), "{refused:?}");
}

#[cfg(unix)]
#[test]
fn a_folder_is_read_in_spite_of_what_is_no_picture_in_it() {
    use std::os::unix::fs::symlink;

    let scratch = TempDir::new().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for name in ["a.png", "b.png"] {
        fs::copy(in_repository(SCENE), path(name)).unwrap();
    }
    fs::write(path("a.txt"), "a scene").unwrap();
    fs::write(path("b.txt"), "long ".repeat(20_000)).unwrap();
    symlink("/dev/zero", path("zero.png")).unwrap();
    symlink("nowhere", path("notes")).unwrap();
    assert!(Command::new("mkfifo").arg(path("pipe.png")).status().unwrap().success());

    let source = format!("data.source.path={}", scratch.path().display());
    let set = ["--set", "data.source.kind=folder", "--set", &source];
    let printed = ok(command(&["data", "stats", "configs/tiny.toml", "-n", "8", "--json"]).args(set).output().unwrap());
    let figures: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(figures["source_pictures"], 2, "{printed}");
    for (name, reason) in
        [("b.png", "the most are 65536"), ("zero.png", "a device"), ("pipe.png", "a pipe"), ("notes", "No such file")]
    {
        let broken = figures["broken"].as_array().unwrap();
        let told =
            |pair: &&Value| pair[0].as_str().unwrap().ends_with(name) && pair[1].as_str().unwrap().contains(reason);
        assert!(broken.iter().any(|pair| told(&pair)), "{name}: {broken:?}");
    }

    // Restoring the folder goes on as well, and names what it left out.
    let output = restore(text(scratch.path()), &path("out"), &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 restored"), "{output:?}");
    let printed = error(output);
    assert!(printed.contains("pipe.png") && printed.contains("notes"), "{printed}");
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_allocated() {
    let scratch = TempDir::new().unwrap();
    let model = scratch.path().join("model");
    copy_folder(&in_repository("tests/layouts/tiny2"), &model);
    let config = model.join("unet/config.json");
    let whole = fs::read_to_string(&config).unwrap();
    let absurd = whole.replace("\"layers_per_block\": 1", "\"layers_per_block\": 1000000000");
    assert_ne!(absurd, whole);
    fs::write(&config, absurd).unwrap();
    let inspected = spire(&["weights", "inspect", "--summary", text(&model)]);
    let printed = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(printed.contains("layers_per_block is 1000000000; the most are"), "{printed}");

    for (set, expected) in [
        ("evaluate.samples=100000000000000", "evaluate.samples"),
        ("train.batch_size=100000000000000", "train.batch_size"),
        ("train.threads=1000000", "train.threads"),
        ("data.size=65535", "data.size"),
        ("run.dir=", "run.dir is empty"),
    ] {
        let printed = error(spire(&["train", "configs/tiny.toml", "--dry-run", "--set", set]));
        assert!(printed.contains(expected), "{set}: {printed}");
    }
    let shards = ["--set", "data.source.kind=webdataset", "--set", "data.source.shards={0..999999999}.tar"];
    let printed = error(command(&["data", "stats", "configs/tiny.toml"]).args(shards).output().unwrap());
    assert!(printed.contains("the most are 1000000"), "{printed}");

    let output = scratch.path().join("out.png");
    let printed = error(restore(SCENE, &output, &["--seed", "18446744073709551615", "--variants", "2"]));
    assert!(printed.contains("highest seed"), "{printed}");
    let args = ["degrade", SCENE, "--prompt", "Deblur with sigma 1e30", "-o", text(&output)];
    let printed = error(spire(&args));
    assert!(printed.contains("from 0.1 to 1000"), "{printed}");
}
