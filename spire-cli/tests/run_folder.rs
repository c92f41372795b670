//! What a run folder survives, with the real program: a second process, a run that diverges, changes, a failed start.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use common::{command, error, ok, spire};
use serde_json::Value;
use spire_core::folder_lock::FolderLock;
use tempfile::TempDir;

/// `spire train configs/tiny.toml` with `steps` short steps, and more settings.
fn arguments(run: &Path, steps: u32, more: &[&str]) -> Vec<String> {
    let (dir, steps) = (format!("run.dir={}", run.display()), format!("train.steps={steps}"));
    let small = [
        dir.as_str(),
        &steps,
        "train.batch_size=1",
        "train.accumulate=1",
        "train.threads=1",
        "train.checkpoint_every=2",
        "train.validate_every=1000",
        "train.warmup_steps=0",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=1",
        "evaluate.sampling.steps=1",
    ];
    let settings = small.iter().chain(more).flat_map(|setting| ["--set", *setting]);
    ["train", "configs/tiny.toml"].into_iter().chain(settings).map(str::to_owned).collect()
}

fn train(run: &Path, steps: u32, more: &[&str]) -> Output {
    let arguments = arguments(run, steps, more);
    spire(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn resume(run: &Path, more: &[&str]) -> Output {
    spire(&[&["train", "--resume", run.to_str().unwrap()], more].concat())
}

/// The number and the bits of the loss of every step.
fn losses(run: &Path) -> Vec<(u64, Option<u64>)> {
    lines(&run.join("metrics.jsonl"))
        .iter()
        .map(|line| (line["step"].as_u64().unwrap(), line["loss"].as_f64().map(f64::to_bits)))
        .collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}"))
}

#[test]
fn metrics_that_are_lost_are_told_and_the_run_ends_all_the_same() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    ok(train(&run, 2, &[]));
    fs::write(run.join("metrics.jsonl"), "").unwrap();
    let told = resume(&run, &["--set", "train.steps=4"]);
    let log = String::from_utf8_lossy(&told.stderr).into_owned();
    ok(told);
    assert!(log.contains("metrics.jsonl has 0 of the 2 steps that are done"), "{log}");
    assert_eq!(losses(&run).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 3]);
    // All of them, when nothing is left to train.
    fs::remove_file(run.join("metrics.jsonl")).unwrap();
    fs::remove_file(run.join("summary.json")).unwrap();
    let told = resume(&run, &[]);
    let log = String::from_utf8_lossy(&told.stderr).into_owned();
    ok(told);
    assert!(log.contains("metrics.jsonl has 0 of the 4 steps") && run.join("summary.json").is_file(), "{log}");
}

/// Waits until `run`, which `child` trains, has taken `count` steps.
#[cfg(unix)]
fn wait_for_steps(child: &mut Child, run: &Path, count: usize) {
    let start = Instant::now();
    while losses(run).len() < count {
        assert!(start.elapsed() < Duration::from_secs(300), "not {count} steps after five minutes");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before step {count}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(unix)]
#[test]
fn a_run_whose_folder_is_removed_does_not_end_well() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let arguments = arguments(&run, 200, &[]);
    let mut child = command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_steps(&mut child, &run, 1);
    // The run may write a file into the folder meanwhile.
    while run.join("metrics.jsonl").exists() {
        let _ = fs::remove_dir_all(&run);
    }
    let told = error(child.wait_with_output().unwrap());
    assert!(told.contains("metrics.jsonl") || told.contains("No such file"), "{told}");
}

#[cfg(unix)]
#[test]
fn a_run_that_trains_is_refused_to_others_and_not_changed_by_them() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let arguments = arguments(&run, 1_000_000, &[]);
    let mut first = command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let mut first = first.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_steps(&mut first, &run, 3);
    let before = losses(&run);
    let told = error(resume(&run, &[]));
    assert!(told.contains(&format!("is in use by process {} on ", first.id())), "{told}");
    assert!(first.try_wait().unwrap().is_none(), "the other process ended the run");
    assert_eq!(losses(&run)[..before.len()], before);

    let kill = std::process::Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let stopped = ok(first.wait_with_output().unwrap());
    assert!(stopped.contains("--resume"), "{stopped}");
    // Every step is there once.
    let steps: Vec<u64> = losses(&run).iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (0..steps.len() as u64).collect::<Vec<_>>());
    ok(resume(&run, &["--set", &format!("train.steps={}", steps.len())]));
}

#[test]
fn pretraining_sweeps_and_evaluations_refuse_a_folder_in_use() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let out = scratch.join("out");
    let _lock = FolderLock::take(&out).unwrap();
    let refused = |arguments: &[&str]| {
        let told = error(spire(arguments));
        assert!(told.contains("out is in use by "), "{told}");
    };
    let set = format!("out={}", out.display());
    refused(&["pretrain", "configs/tiny-prior.toml", "--stage", "judge", "--set", &set]);

    let output = format!("output={}", out.display());
    refused(&["sweep", "configs/sweeps/smallest.toml", "--set", &output]);

    let recipe = fs::read_to_string("../configs/benchmarks/tiny-parameterized.toml").unwrap();
    fs::write(scratch.join("recipe.toml"), recipe.replace("count = 256", "count = 1")).unwrap();
    let text = format!(
        "metrics = [\"psnr\"]\n[[benchmarks]]\ntitle = \"One\"\nfolder = \"{folder}\"\nrecipe = \"{recipe}\"\n\
         [[methods]]\nname = \"Degraded\"\nkind = \"input\"\n",
        folder = scratch.join("one").display(),
        recipe = scratch.join("recipe.toml").display(),
    );
    let config = scratch.join("eval.toml");
    fs::write(&config, text).unwrap();
    refused(&["eval", config.to_str().unwrap(), "--set", &output]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "only the lock");
}

#[test]
fn every_start_is_recorded_and_a_run_continues_for_longer_or_from_earlier() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    ok(train(&run, 4, &[]));
    let longer = resume(&run, &["--set", "train.steps=6"]);
    let told = String::from_utf8_lossy(&longer.stderr).into_owned();
    ok(longer);
    assert!(told.contains("the learning rate of the next step is ") && told.contains("train.steps"), "{told}");

    let starts = lines(&run.join("starts.jsonl"));
    assert_eq!(starts.len(), 2);
    assert!(starts[0]["overrides"].as_array().unwrap().contains(&"train.batch_size=1".into()), "{starts:?}");
    assert_eq!((&starts[0]["from_step"], &starts[1]["from_step"]), (&0.into(), &4.into()));
    assert_eq!(starts[1]["overrides"], serde_json::json!(["train.steps=6"]));
    assert_eq!(starts[1]["changes"], serde_json::json!(["train.steps: 4, now 6"]));
    for key in ["time", "version", "host", "device"] {
        assert!(!starts[1][key].as_str().unwrap().is_empty(), "{key}");
    }
    // The change holds for later starts; the configuration before it is kept.
    let config = |name: &str| fs::read_to_string(run.join(name)).unwrap();
    assert!(config("config.toml").contains("\nsteps = 6\n"));
    assert_eq!(starts[1]["earlier_config"], "config.1.toml");
    assert!(config("config.1.toml").contains("\nsteps = 4\n"));
    let expected = losses(&run);
    assert_eq!(expected.len(), 6);

    // Another run is refused, and what can't be meant; nothing changes.
    for (change, reason) in [
        ("run.seed=9", "run.seed: 1, now 9"),
        ("data.source.count=7", "data.source.count: 4000, now 7"),
        ("model.fusion=add", "model.fusion: not set, now \"add\""),
        ("train.steps=5", "train.steps = 5, but 6 steps are done"),
        ("run.dir=elsewhere", "run.dir can't change"),
    ] {
        let told = error(resume(&run, &["--set", change]));
        assert!(told.contains(reason), "{told}");
    }
    let told = error(resume(&run, &["--from", "3"]));
    assert!(told.contains("no checkpoint of step 3") && told.contains("4, 6"), "{told}");
    assert_eq!((lines(&run.join("starts.jsonl")).len(), losses(&run)), (2, expected.clone()));

    // From an earlier step, the same steps give the same losses; what was there is moved, not lost.
    ok(resume(&run, &["--from", "4"]));
    assert_eq!(losses(&run), expected);
    let abandoned = run.join("abandoned/1");
    assert!(abandoned.join("step-00000006/manifest.json").is_file() && abandoned.join("summary.json").is_file());
    assert_eq!(lines(&abandoned.join("metrics.jsonl")).len(), 6);
    assert!(checkpoint(&run, 6).is_dir() && run.join("summary.json").is_file());
    ok(resume(&run, &["--from", "best"]));
    assert_eq!(losses(&run), expected);
    ok(resume(&run, &["--force", "--set", "data.source.count=3999"]));
    assert_eq!(lines(&run.join("starts.jsonl")).len(), 5);
}

/// Steps that lose the weights.
const DIVERGES: [&str; 3] = ["train.learning_rate=1e30", "train.max_grad_norm=1e30", "train.schedule=constant"];

#[test]
fn a_run_that_diverges_keeps_its_good_checkpoint() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    ok(train(&run, 4, &[]));
    let good = fs::read(checkpoint(&run, 4).join("training.safetensors")).unwrap();
    let finite = losses(&run);
    for every in ["train.checkpoint_every=1", "train.checkpoint_every=100"] {
        let mut more = vec!["--set", "train.steps=20", "--set", "train.max_bad_steps=3", "--set", every];
        more.extend(DIVERGES.iter().flat_map(|setting| ["--set", *setting]));
        let told = error(resume(&run, &more));
        assert!(told.contains("the training has diverged") && told.contains("step-00000004"), "{told}");
        assert!(!checkpoint(&run, 5).exists() && !checkpoint(&run, 8).exists());
        assert!(fs::read(checkpoint(&run, 4).join("training.safetensors")).unwrap() == good);
    }
    let again = ["train.learning_rate=1e-4", "train.max_grad_norm=1", "train.steps=6"];
    ok(resume(&run, &again.iter().flat_map(|setting| ["--set", *setting]).collect::<Vec<_>>()));
    assert_eq!(losses(&run)[..4], finite);
    assert!(losses(&run).len() == 6 && losses(&run).iter().all(|(_, loss)| loss.is_some()));
}

#[test]
fn a_run_that_ends_without_a_finite_loss_is_a_failure() {
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let more = [&DIVERGES[..], &["train.checkpoint_every=100"]].concat();
    let told = error(train(&run, 3, &more));
    assert!(told.contains("the validation loss after the last step is not finite"), "{told}");
    assert!(losses(&run)[1..].iter().all(|(_, loss)| loss.is_none()), "{:?}", losses(&run));
    assert!(!run.join("summary.json").exists() && !run.join("control").exists() && !checkpoint(&run, 3).exists());
}

#[test]
fn a_failed_start_names_the_key_and_leaves_nothing() {
    let scratch = TempDir::new().unwrap();
    let pictures = scratch.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    for n in 0..60 {
        fs::copy("../tests/pictures/scene.png", pictures.join(format!("{n}.png"))).unwrap();
    }
    let run = scratch.path().join("run");
    let path = format!("data.source.path={}", pictures.display());
    let folder = ["data.source.kind=folder", path.as_str()];
    let told = error(train(&run, 1, &folder));
    assert!(told.contains("data.source.uncaptioned = true"), "{told}");
    assert!((1..=5).contains(&told.matches("skipping a sample").count()), "{told}");
    assert!(!run.exists());
    // In a folder that was there before, what was in it stays.
    fs::create_dir(&run).unwrap();
    fs::write(run.join("notes.txt"), "mine").unwrap();
    error(train(&run, 1, &folder));
    assert!(run.join("notes.txt").is_file() && !run.join("config.toml").exists());
    ok(train(&run, 1, &[&folder[..], &["data.source.uncaptioned=true"]].concat()));
}

#[test]
fn a_warm_up_longer_than_the_run_is_told() {
    let output = spire(&["train", "configs/tiny.toml", "--dry-run", "--set", "train.warmup_steps=900"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ok(output);
    assert!(told.contains("train.warmup_steps = 900 is not below train.steps = 800"), "{told}");
}
