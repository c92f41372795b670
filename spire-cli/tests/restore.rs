//! `spire restore` with the real program and the built-in model.

mod common;
#[path = "common/copy.rs"]
mod copy;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{command, error, ok, spire};
use copy::copy_folder;
use spire_data::{Picture, png_text};
use spire_restore::provenance::{KEYWORD, Provenance};
use tempfile::TempDir;

fn restore(input: &str, output: &Path, options: &[&str]) -> Output {
    command(&["restore", input, "-o", output.to_str().unwrap(), "--steps", "2"]).args(options).output().unwrap()
}

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/pictures")
}

fn size(path: &Path) -> (usize, usize) {
    let picture = Picture::open(path).unwrap();
    (picture.width, picture.height)
}

#[test]
fn a_restored_picture_has_its_provenance_and_is_reproducible() {
    let scratch = TempDir::new().unwrap();
    let (first, second) = (scratch.path().join("first.png"), scratch.path().join("new/second.png"));
    let options =
        ["--semantic", "a cup — 茶", "--restoration", "Denoise with sigma 0.06", "--seed", "7", "--negative", "grey"];
    ok(restore("tests/pictures/scene.png", &first, &options));
    let made = Provenance::read(&first).unwrap();
    assert_eq!((made.semantic.as_str(), made.restoration.as_str()), ("a cup — 茶", "Denoise with sigma 0.06"));
    assert_eq!((made.seed, made.run.as_str(), made.sampling.steps), (7, "assets/small", 2));
    assert_eq!(made.sampling.negative, "grey");
    assert!(png_text::read(&first, KEYWORD).unwrap().contains(env!("CARGO_PKG_VERSION")));
    ok(restore("tests/pictures/scene.png", &second, &options));
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());

    // The same restoration is not repeated, any other is.
    let written = || fs::metadata(&first).unwrap().modified().unwrap();
    let before = written();
    assert!(ok(restore("tests/pictures/scene.png", &first, &options)).contains("exists already"));
    assert_eq!(written(), before);
    ok(restore("tests/pictures/scene.png", &first, &[&options[..], &["--strength", "0.5"]].concat()));
    assert_ne!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
}

#[test]
fn the_branch_acts_as_strongly_and_as_long_as_asked_for() {
    let scratch = TempDir::new().unwrap();
    let restored = |name: &str, options: &[&str]| {
        let file = scratch.path().join(name);
        ok(restore("tests/pictures/scene.png", &file, options));
        Picture::open(&file).unwrap()
    };
    let plain = restored("plain.png", &[]);
    let without = restored("without.png", &["--control-scale", "0"]);
    assert_ne!(plain, without);
    // Of two steps, none lies in this window as a whole.
    assert_eq!(restored("window.png", &["--control-start", "0.1", "--control-end", "0.4"]), without);
    assert_eq!(restored("whole.png", &["--control-scale", "1", "--control-end", "1"]), plain);
    let half = restored("half.png", &["--control-end", "0.5"]);
    assert!(half != plain && half != without);
    // The built-in model starts from the picture.
    assert_eq!(restored("start.png", &["--start", "picture"]), plain);
    let starts = [restored("noise.png", &["--start", "noise"]), restored("strength.png", &["--strength", "0.5"])];
    assert!(starts[0] != plain && starts[1] != plain && starts[0] != starts[1]);
}

#[test]
fn pictures_of_every_format_are_restored() {
    let scratch = TempDir::new().unwrap();
    for (name, expected) in [
        ("grey16.png", (40, 32)),
        ("grey.jpg", (40, 32)),
        ("palette.png", (40, 32)),
        ("cmyk.jpg", (40, 32)),
        ("rotated.jpg", (32, 40)),
        ("alpha.png", (40, 32)),
    ] {
        let output = scratch.path().join(name).with_extension("png");
        ok(restore(pictures().join(name).to_str().unwrap(), &output, &[]));
        assert_eq!(size(&output), expected, "{name}");
    }
    let (_, alpha) = Picture::open_with_alpha(scratch.path().join("alpha.png")).unwrap();
    assert_eq!(alpha, Picture::open_with_alpha(pictures().join("alpha.png")).unwrap().1);

    for (width, height) in [(1, 1), (3, 70), (200, 2)] {
        let (input, output) = (scratch.path().join("odd.png"), scratch.path().join("odd-restored.png"));
        Picture::filled(width, height, [0.3, 0.5, 0.7]).save_png(&input).unwrap();
        ok(restore(input.to_str().unwrap(), &output, &["--colour-fix", "adain"]));
        assert_eq!(size(&output), (width, height));
    }
    let printed =
        error(restore(pictures().join("truncated.jpg").to_str().unwrap(), &scratch.path().join("t.png"), &[]));
    assert!(printed.contains("truncated.jpg"), "{printed}");
}

#[test]
fn a_folder_continues_and_skips_broken_files() {
    let scratch = TempDir::new().unwrap();
    let (input, output) = (scratch.path().join("in"), scratch.path().join("in/restored"));
    fs::create_dir_all(input.join("deeper")).unwrap();
    fs::copy(pictures().join("grey.jpg"), input.join("a.jpg")).unwrap();
    fs::copy(pictures().join("alpha.png"), input.join("a.png")).unwrap();
    fs::copy(pictures().join("truncated.jpg"), input.join("b.jpg")).unwrap();
    fs::copy(pictures().join("palette.png"), input.join("deeper/c.png")).unwrap();
    fs::write(input.join("a.txt"), "a cup of coffee").unwrap();
    fs::write(input.join("b.txt"), "a cup of coffee").unwrap();
    fs::write(input.join("deeper/c.txt"), "a panda").unwrap();

    let run = |options: &[&str]| restore(input.to_str().unwrap(), &output, &[&["--captions"], options].concat());
    let first = run(&[]);
    assert!(String::from_utf8_lossy(&first.stdout).contains("3 restored, 0 existed already, 1 failed"), "{first:?}");
    assert!(error(first).contains("b.jpg"));
    assert_eq!(Provenance::read(&output.join("deeper/c.png")).unwrap().semantic, "a panda");
    for name in ["a.png", "a.png.png", "deeper/c.png"] {
        assert!(output.join(name).is_file(), "{name}");
    }

    // One result is missing, one is truncated, one was restored with other settings.
    fs::remove_file(output.join("a.png")).unwrap();
    let whole = fs::read(output.join("deeper/c.png")).unwrap();
    fs::write(output.join("deeper/c.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(input.join("b.jpg"), fs::read(input.join("a.jpg")).unwrap()).unwrap();
    let second = ok(run(&[]));
    assert!(second.contains("3 restored, 1 existed already, 0 failed"), "{second}");
    assert_eq!(fs::read(output.join("deeper/c.png")).unwrap(), whole);
    let third = ok(run(&["--seed", "1"]));
    assert!(third.contains("4 restored, 0 existed already"), "{third}");

    let same = error(restore(input.to_str().unwrap(), &input, &[]));
    assert!(same.contains("another folder"), "{same}");
}

#[test]
fn variants_come_with_a_contact_sheet_and_enlarging_enlarges() {
    let scratch = TempDir::new().unwrap();
    let output = scratch.path().join("out.png");
    let printed = ok(restore(
        "tests/pictures/scene.png",
        &output,
        &["--variants", "3", "--seed", "5", "--upscale", "1.5", "--colour-fix", "wavelet", "--sampler", "dpm++2m"],
    ));
    assert_eq!(printed.lines().count(), 3);
    let variants = [5, 6, 7].map(|seed| scratch.path().join(format!("out-seed{seed}.png")));
    assert!(variants.iter().all(|variant| size(variant) == (105, 99)), "70 by 66, enlarged");
    assert_ne!(fs::read(&variants[0]).unwrap(), fs::read(&variants[1]).unwrap());
    assert!(scratch.path().join("out-sheet.png").is_file());

    // A variant does not depend on the others.
    ok(restore(
        "tests/pictures/scene.png",
        &output,
        &["--seed", "6", "--upscale", "1.5", "--colour-fix", "wavelet", "--sampler", "dpm++2m"],
    ));
    let (alone, together) = (Picture::open(&output).unwrap(), Picture::open(&variants[1]).unwrap());
    let worst = alone.data.iter().zip(&together.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 2.0 / 255.0, "{worst}");
}

#[test]
fn a_base_with_a_branch_restores_without_a_run() {
    let scratch = TempDir::new().unwrap();
    let (run, parts) = (scratch.path().join("run.png"), scratch.path().join("parts.png"));
    ok(restore("tests/pictures/grey.jpg", &run, &[]));
    let base_and_control = ["--base", "assets/small", "--control", "assets/small/control"];
    ok(restore("tests/pictures/grey.jpg", &parts, &base_and_control));
    assert_eq!(Picture::open(&run).unwrap(), Picture::open(&parts).unwrap());
    assert!(Provenance::read(&parts).unwrap().run.contains("assets/small/control"));
    ok(restore("tests/pictures/grey.jpg", &parts, &["--precision", "f16"]));
    let half = Picture::open(&parts).unwrap();
    let whole = Picture::open(&run).unwrap();
    let mean = half.data.iter().zip(&whole.data).map(|(a, b)| (a - b).abs()).sum::<f32>() / half.data.len() as f32;
    assert!(mean < 0.02, "{mean}");
}

#[test]
fn the_built_in_model_for_64_pixels_restores_by_its_name() {
    let scratch = TempDir::new().unwrap();
    let (tiny, small) = (scratch.path().join("tiny.png"), scratch.path().join("small.png"));
    ok(restore("tests/pictures/scene.png", &small, &["--semantic", "a panda"]));
    let printed = restore("tests/pictures/scene.png", &tiny, &["--semantic", "a panda", "--control", "tiny/control"]);
    assert!(String::from_utf8_lossy(&printed.stderr).contains("knows only the illustrated world"));
    ok(printed);
    assert_eq!(size(&small), size(&tiny));
    assert_ne!(Picture::open(&small).unwrap(), Picture::open(&tiny).unwrap());
    assert_eq!(Provenance::read(&tiny).unwrap().run, "tiny/control");
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny")
}

/// A copy of the built-in text-to-image model.
fn copied_base(scratch: &Path) -> PathBuf {
    let base = scratch.join("base");
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        copy_folder(&tiny().join(part), &base.join(part));
    }
    base
}

/// Changes the last number of a file of weights a little.
fn change(weights: &Path) {
    let mut bytes = fs::read(weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(weights, bytes).unwrap();
}

#[test]
fn a_picture_is_restored_again_if_weights_or_precision_changed() {
    let scratch = TempDir::new().unwrap();
    let (base, output) = (copied_base(scratch.path()), scratch.path().join("out.png"));
    let base_text = base.to_str().unwrap();
    let kept = |options: &[&str]| {
        let model = ["--base", base_text, "--control", "assets/tiny/control"];
        ok(restore("tests/pictures/grey.jpg", &output, &[&model[..], options].concat())).contains("exists already")
    };
    assert!(!kept(&[]) && kept(&[]));
    // Other weights under the same name, in the same place and of the same size.
    change(&base.join("vae/diffusion_pytorch_model.safetensors"));
    assert!(!kept(&[]) && kept(&[]));
    assert!(!kept(&["--precision", "f16"]) && kept(&["--precision", "f16"]));
    let made = Provenance::read(&output).unwrap().model;
    assert_eq!((made.precision.to_string().as_str(), made.base_sha256.len()), ("f16", 64));
}

#[test]
fn the_built_in_model_says_what_it_knows_before_and_after() {
    let scratch = TempDir::new().unwrap();
    let output = scratch.path().join("out.png");
    let told = |options: &[&str]| {
        let printed = restore("tests/pictures/grey.jpg", &output, options);
        let told = String::from_utf8_lossy(&printed.stderr).into_owned();
        ok(printed);
        told.matches("knows only the illustrated world").count()
    };
    assert_eq!(told(&[]), 2);
    assert_eq!(told(&[]), 1, "nothing was restored");
    // Another model.
    let base = copied_base(scratch.path());
    change(&base.join("unet/diffusion_pytorch_model.safetensors"));
    assert_eq!(told(&["--base", base.to_str().unwrap(), "--control", "assets/tiny/control"]), 0);
}

#[test]
fn a_branch_names_its_base() {
    let scratch = TempDir::new().unwrap();
    let (control, output) = (scratch.path().join("control"), scratch.path().join("out.png"));
    copy_folder(&tiny().join("control"), &control);
    let options = ["--control", control.to_str().unwrap()];
    let unknown = error(restore("tests/pictures/grey.jpg", &output, &options));
    assert!(unknown.contains("no model.toml") && unknown.contains("--base"), "{unknown}");
    fs::write(scratch.path().join("model.toml"), format!("base = {:?}\n", tiny())).unwrap();
    ok(restore("tests/pictures/grey.jpg", &output, &options));
    assert_eq!(Provenance::read(&output).unwrap().run, control.display().to_string());
}

#[test]
fn programs_get_json() {
    let scratch = TempDir::new().unwrap();
    let output = scratch.path().join("out.png");
    let printed = ok(restore("tests/pictures/grey.jpg", &output, &["--variants", "2", "--json"]));
    let summary: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&summary["restored"], &summary["kept"]), (&1.into(), &0.into()));
    assert_eq!(summary["files"].as_array().unwrap().len(), 2);
    assert!(summary["failed"].as_array().unwrap().is_empty());
}

#[test]
fn prompts_outside_the_training_ranges_give_a_warning() {
    let scratch = TempDir::new().unwrap();
    let warned = |prompt: &str| {
        let output = restore("tests/pictures/grey.jpg", &scratch.path().join("out.png"), &["--restoration", prompt]);
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        ok(output);
        printed
    };
    let printed = warned("Deblur with sigma 300");
    assert!(printed.contains("Deblur with sigma 300") && printed.contains("0.2 to 5"), "{printed}");
    assert!(warned("make it beautiful").contains("make it beautiful"));
    assert!(!warned("Deblur with sigma 3.0; Dejpeg").contains("restoration prompt"));
}

#[test]
fn a_picture_that_is_small_for_the_model_gives_a_warning() {
    let scratch = TempDir::new().unwrap();
    let warned = |options: &[&str]| {
        let output = restore("tests/pictures/grey.jpg", &scratch.path().join("out.png"), options);
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        ok(output);
        printed.matches("grey.jpg has 40×32 pixels, and the model was trained on 128×128").count()
    };
    assert_eq!(warned(&["--variants", "2"]), 1);
    assert_eq!(warned(&["--upscale", "3"]), 0);
}

#[test]
fn invalid_numbers_are_rejected_before_loading() {
    let scratch = TempDir::new().unwrap();
    for (option, value, printed) in [
        ("--steps", "0", "steps"),
        ("--strength", "0", "strength"),
        ("--strength", "nan", "strength"),
        ("--control-scale", "nan", "control_scale"),
        ("--control-start", "1", "control_start"),
        ("--start", "nothing", "picture"),
        ("--upscale", "0.5", "upscale"),
        ("--upscale", "inf", "upscale"),
        ("--variants", "0", "variants"),
        ("--variants", "18446744073709551615", "variants"),
        ("--tile", "18446744073709551615", "tile"),
        ("--precision", "f8", "bf16"),
        ("--base", "assets/tiny", "--control"),
        ("--guidance", "inf", "guidance_scale"),
        ("--colour-fix", "sepia", "wavelet"),
        ("--sampler", "magic", "magic"),
    ] {
        let output = scratch.path().join("out.png");
        let args = ["restore", "tests/pictures/grey.jpg", "-o", output.to_str().unwrap(), option, value];
        let answer = error(spire(&args));
        assert!(answer.contains(printed), "{option} {value}: {answer}");
    }
    let huge = error(restore("tests/pictures/grey.jpg", &scratch.path().join("out.png"), &["--upscale", "100000"]));
    assert!(huge.contains("pixels"), "{huge}");
    let absent = error(restore("no/such.png", &scratch.path().join("out.png"), &[]));
    assert!(absent.contains("no/such.png"), "{absent}");
}

#[test]
fn networks_without_prompts_restore_and_enlarge() {
    let scratch = TempDir::new().unwrap();
    let restore = |input: &Path, output: &Path, network: &str, weights: &str, options: &[&str]| {
        let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
        let arguments = ["restore", input, "-o", output, "--model", network, "--weights", weights];
        command(&arguments).args(options).output().unwrap()
    };
    let small = scratch.path().join("photos/small.png");
    fs::create_dir(scratch.path().join("photos")).unwrap();
    Picture::filled(21, 9, [0.3, 0.5, 0.7]).save_png(&small).unwrap();
    let output = scratch.path().join("restored.png");
    for (network, weights, factor) in
        [("scunet", "scunet-colour", 1), ("bsrnet", "bsrnet-4", 4), ("swinir", "swinir-real-large", 4)]
    {
        let weights = format!("tests/reference/{weights}");
        assert!(!ok(restore(&small, &output, network, &weights, &[])).contains("exists"));
        assert_eq!(size(&output), (21 * factor, 9 * factor), "{network}");
        assert!(ok(restore(&small, &output, network, &weights, &[])).contains("exists already"));
        assert!(!ok(restore(&small, &output, network, &weights, &["--tile", "8"])).contains("exists"));
    }
    let (photos, folder) = (scratch.path().join("photos"), scratch.path().join("out"));
    let weights = "tests/reference/swinir-lightweight";
    assert!(ok(restore(&photos, &folder, "swinir", weights, &[])).contains("1 restored"));
    assert!(ok(restore(&photos, &folder, "swinir", weights, &[])).contains("1 existed already"));

    let printed = error(restore(&small, &output, "scunet", weights, &[]));
    assert!(printed.contains("swinir-lightweight") && printed.contains("not a checkpoint of a SCUNet"), "{printed}");
    let printed = error(restore(&small, &output, "swinir", "weights/nowhere.pth", &[]));
    assert!(printed.contains("weights/nowhere.pth") && printed.contains("JingyunLiang/SwinIR"), "{printed}");
    let printed = error(restore(&small, &output, "swinir", weights, &["--semantic", "a cup"]));
    assert!(printed.contains("--semantic") && printed.contains("cannot be used with"), "{printed}");
    let broken = scratch.path().join("broken.pth");
    fs::write(&broken, b"not a pickle").unwrap();
    let printed = error(restore(&small, &output, "swinir", broken.to_str().unwrap(), &[]));
    assert!(printed.contains("broken.pth"), "{printed}");
}
