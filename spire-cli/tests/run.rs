//! Training with the real program: train, kill, resume, restore, degrade.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{command, error, ok, spire};
use serde_json::Value;
use tempfile::TempDir;

/// `spire train configs/tiny.toml`, shortened to `steps` steps.
fn train(dir: &Path, steps: u32) -> Command {
    let mut command = command(&["train", "configs/tiny.toml"]);
    for set in [
        format!("run.dir={}", dir.display()),
        format!("train.steps={steps}"),
        "train.batch_size=4".into(),
        "train.checkpoint_every=4".into(),
        "train.validate_every=6".into(),
        "train.warmup_steps=2".into(),
        "evaluate.samples=3".into(),
        "evaluate.rows=2".into(),
        "evaluate.validation_samples=2".into(),
        "evaluate.sampling.steps=2".into(),
    ] {
        command.arg("--set").arg(set);
    }
    command
}

fn losses(run: &Path) -> Vec<(u64, u64)> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|line| (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap().to_bits()))
        .collect()
}

fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")));
    found.sort();
    found
}

#[test]
fn a_killed_run_resumes_exactly_and_a_finished_one_restores() {
    let scratch = TempDir::new().unwrap();
    let (whole, killed) = (scratch.path().join("whole"), scratch.path().join("killed"));
    ok(train(&whole, 12).output().unwrap());
    let expected = losses(&whole);
    assert_eq!(expected.len(), 12);

    // Kill it at least one step after a checkpoint.
    let mut child = train(&killed, 12).spawn().unwrap();
    let start = Instant::now();
    while losses(&killed).len() < 5 {
        assert!(start.elapsed() < Duration::from_secs(300), "no fifth step after five minutes");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("summary.json").exists());

    assert!(!checkpoints(&killed).is_empty());
    ok(spire(&["train", "--resume", killed.to_str().unwrap()]));
    assert_eq!(losses(&killed), expected);

    let summary: Value = serde_json::from_slice(&fs::read(killed.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["steps"], 12);
    for side in ["degraded", "restored"] {
        assert!(summary["held_out"][side]["psnr"].as_f64().unwrap() > 3.0);
        assert!(summary["held_out"][side]["ssim"].is_f64());
        assert!(summary["held_out"][side]["clip_frechet"].is_f64());
    }
    assert!(killed.join("samples/step-00000012.png").is_file());
    let weights = |run: &Path| fs::read(run.join("control/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(weights(&killed), weights(&whole));

    // A damaged checkpoint is reported, and the one before it is used.
    let newest = checkpoints(&killed).pop().unwrap();
    let file = newest.join("training.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output = spire(&["train", "--resume", killed.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("training.safetensors"));
    ok(output);
    assert_eq!(losses(&killed), expected);

    let picture = scratch.path().join("restored.png");
    ok(spire(&[
        "restore",
        "--run",
        killed.to_str().unwrap(),
        "tests/pictures/scene.png",
        "--semantic",
        "a panda",
        "--restoration",
        "Deblur with sigma 3.0",
        "--steps",
        "2",
        "-o",
        picture.to_str().unwrap(),
    ]));
    assert_eq!(spire_core::Picture::open(&picture).unwrap().width, 70);

    // The branch and `model.toml` are enough to restore the same picture elsewhere.
    let moved = scratch.path().join("moved");
    fs::create_dir_all(moved.join("control")).unwrap();
    for file in ["model.toml", "control/config.json", "control/diffusion_pytorch_model.safetensors"] {
        fs::copy(killed.join(file), moved.join(file)).unwrap();
    }
    let same = scratch.path().join("same.png");
    ok(spire(&[
        "restore",
        "--run",
        moved.to_str().unwrap(),
        "tests/pictures/scene.png",
        "--semantic",
        "a panda",
        "--restoration",
        "Deblur with sigma 3.0",
        "--steps",
        "2",
        "-o",
        same.to_str().unwrap(),
    ]));
    let pixels = |path: &Path| spire_core::Picture::open(path).unwrap().to_rgb8();
    assert_eq!(pixels(&same), pixels(&picture));

    let again = train(&killed, 12).output().unwrap();
    assert!(error(again).contains("--resume"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_writes_a_checkpoint_and_exits_with_success() {
    for name in ["-INT", "-TERM"] {
        let scratch = TempDir::new().unwrap();
        let run = scratch.path().join("run");
        let child = train(&run, 1_000_000).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&run, 1);
        signal(&child, name);
        let printed = ok(child.wait_with_output().unwrap());
        assert!(printed.contains("--resume"), "{printed}");
        assert_eq!(checkpoints(&run).len(), 1);
    }
}

#[cfg(unix)]
#[test]
fn an_interruption_ends_the_final_figures_at_once_and_a_resume_completes_them() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let mut command = train(&run, 2);
    // More than the test could wait for.
    command.args(["--set", "evaluate.samples=100000", "--set", "evaluate.sampling.steps=50"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !run.join("model.toml").is_file() {
        assert!(start.elapsed() < Duration::from_secs(300), "no trained branch after five minutes");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its figures");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("its figures are missing") && told.contains("spire train --resume"), "{told}");
    assert!(!run.join("summary.json").exists());

    let resume = ["train", "--resume", run.to_str().unwrap(), "--set", "evaluate.samples=2"];
    ok(command_with_steps(&resume));
    assert!(run.join("summary.json").is_file());
}

/// A command that samples in two steps.
#[cfg(unix)]
fn command_with_steps(args: &[&str]) -> std::process::Output {
    command(args).args(["--set", "evaluate.sampling.steps=2"]).output().unwrap()
}

#[test]
fn a_run_tells_what_it_does_and_programs_get_json() {
    let scratch = TempDir::new().unwrap();
    let output = train(&scratch.path().join("told"), 1).output().unwrap();
    let opening = String::from_utf8_lossy(&output.stderr).into_owned();
    let closing = ok(output);
    for part in
        ["4000 scenes of the illustrated world", "64×64 pixels", "figures on 3 held-out pictures", "folder", "trained"]
    {
        assert!(opening.contains(part), "{part} in {opening}");
    }
    for part in
        ["degraded", "PSNR, dB", "3 held-out pictures, 2 steps of ddim", "spire restore PICTURE -o restored.png --run"]
    {
        assert!(closing.contains(part), "{part} in {closing}");
    }

    let quiet = train(&scratch.path().join("quiet"), 1).args(["-q", "--json"]).output().unwrap();
    let told = String::from_utf8_lossy(&quiet.stderr).into_owned();
    assert!(!told.contains("illustrated world") && !told.contains("images/s"), "{told}");
    let summary: Value = serde_json::from_str(&ok(quiet)).unwrap();
    assert_eq!(summary["held_out"]["samples"], 3);
    assert!(summary["evaluation_seconds"].as_f64().unwrap() > 0.0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_under_nohup_survives_sighup_and_stops_on_sigterm() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let mut train = train(&run, 1_000_000);
    train.args(["--set", "train.checkpoint_every=1000000"]);
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(train.get_program()).args(train.get_args());
    nohup.current_dir(train.get_current_dir().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = nohup.spawn().unwrap();
    wait_for(&run, 1);
    signal(&child, "-HUP");
    wait_for(&run, losses(&run).len() + 3);
    signal(&child, "-TERM");
    let printed = ok(child.wait_with_output().unwrap());
    assert!(printed.contains("--resume"), "{printed}");
    assert_eq!(checkpoints(&run).len(), 1);
}

#[cfg(unix)]
fn wait_for(run: &Path, steps: usize) {
    let start = Instant::now();
    while losses(run).len() < steps {
        assert!(start.elapsed() < Duration::from_secs(300), "no {steps} steps after five minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let mut command = train(&run, 40);
    for set in ["train.learning_rate=1e30", "train.max_grad_norm=1e30", "train.max_bad_steps=3", "train.warmup_steps=0"]
    {
        command.arg("--set").arg(set);
    }
    let printed = error(command.arg("--set").arg("train.checkpoint_every=100").output().unwrap());
    assert!(printed.contains("not finite for 3 steps in a row"), "{printed}");
    assert!(printed.contains("there is no good checkpoint; lower train.learning_rate"), "{printed}");
    assert!(checkpoints(&run).is_empty());
}

#[test]
fn broken_pictures_are_skipped_and_counted() {
    let scratch = TempDir::new().unwrap();
    let folder = scratch.path().join("pictures");
    fs::create_dir(&folder).unwrap();
    let good = fs::read("../tests/pictures/scene.png").unwrap();
    for name in ["a", "b", "torn", "uncaptioned"] {
        fs::write(folder.join(name).with_extension("png"), if name == "torn" { &good[..200] } else { &good }).unwrap();
        if name != "uncaptioned" {
            fs::write(folder.join(name).with_extension("txt"), "a cup of coffee").unwrap();
        }
    }
    let run = scratch.path().join("run");
    let mut command = train(&run, 2);
    let path = format!("data.source.path={}", folder.display());
    for set in ["data.source.kind=folder", &path, "evaluate.samples=2"] {
        command.arg("--set").arg(set);
    }
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    assert!(printed.contains("torn.png") && printed.contains("uncaptioned"), "{printed}");
    let summary: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["skipped_samples"], 2);
}

#[test]
fn degrading_applies_what_the_prompt_describes() {
    let scratch = TempDir::new().unwrap();
    let degrade = |prompt: &str, name: &str| {
        let path = scratch.path().join(name);
        let output = spire(&["degrade", "tests/pictures/scene.png", "--prompt", prompt, "-o", path.to_str().unwrap()]);
        (output, path)
    };
    let (output, path) = degrade("Deblur with sigma 3.0; Dejpeg with quality 40", "once.png");
    ok(output);
    let clean = spire_core::Picture::open("../tests/pictures/scene.png").unwrap();
    let degraded = spire_core::Picture::open(&path).unwrap();
    assert_eq!((degraded.width, degraded.height), (clean.width, clean.height));
    assert_ne!(degraded, clean);
    let (output, again) = degrade("Deblur with sigma 3.0; Dejpeg with quality 40", "again.png");
    ok(output);
    assert_eq!(fs::read(path).unwrap(), fs::read(again).unwrap());
    assert!(error(degrade("Deblur", "number.png").0).contains("needs numbers"));
    assert!(error(degrade("Sharpen it", "verb.png").0).contains("Sharpen it"));
}

#[test]
fn errors_say_what_to_do() {
    let unknown = error(spire(&["train", "configs/tiny.toml", "--set", "train.learning_rat=1e-4"]));
    assert!(unknown.contains("train.learning_rate"), "{unknown}");
    let missing = error(spire(&["train", "configs/no-such.toml"]));
    assert!(missing.contains("configs/no-such.toml"), "{missing}");
    let folder = error(spire(&["train", "--resume", "configs"]));
    assert!(folder.contains("no run folder"), "{folder}");
    let device = error(spire(&["verify", "tests/reference", "--device", "abacus"]));
    assert!(device.contains("flex"), "{device}");
    let picture = error(spire(&["restore", "README.md", "-o", "never.png"]));
    assert!(picture.contains("README.md"), "{picture}");
}

#[test]
fn processes_that_would_write_the_same_run_are_refused() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let printed = error(train(&run, 2).env("SLURM_STEP_NUM_TASKS", "3").output().unwrap());
    assert!(printed.contains(if cfg!(feature = "mpi") { "MPI connects 1" } else { "--features mpi" }), "{printed}");
    assert!(!run.exists());
    let sweep = command(&["sweep", "configs/sweeps/smallest.toml"]).env("OMPI_COMM_WORLD_SIZE", "2").output().unwrap();
    let printed = error(sweep);
    assert!(printed.contains("OMPI_COMM_WORLD_SIZE=2") && printed.contains("without mpirun"), "{printed}");
}

#[test]
fn verify_fails_if_a_bundle_does_not_agree() {
    let scratch = TempDir::new().unwrap();
    let case = scratch.path().join("case");
    fs::create_dir(&case).unwrap();
    fs::write(case.join("case.toml"), "kind = \"no-such-kind\"\ntolerance = 1e-4\nsource = \"nowhere\"\n").unwrap();
    let output = spire(&["verify", scratch.path().to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("no-such-kind"));
}
