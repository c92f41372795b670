//! Several processes that train one run, started by `mpirun`.
#![cfg(all(feature = "mpi", target_os = "linux"))]

mod common;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{command, error, ok, spire};
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

/// The time limit of a test. Each takes some seconds on two cores.
const HANGS_AFTER: Duration = Duration::from_secs(240);

/// The arguments of a small run. The learning rate is constant, so that a run can continue to any number of steps.
fn run(dir: &Path, steps: u32, set: &[&str]) -> Vec<String> {
    let mut args = vec!["train".to_owned(), "configs/tiny.toml".to_owned()];
    let dir = format!("run.dir={}", dir.display());
    let steps = format!("train.steps={steps}");
    let own = [
        &dir,
        &steps,
        "train.batch_size=4",
        "train.accumulate=1",
        "train.threads=1",
        "train.schedule=constant",
        "train.warmup_steps=0",
        "train.checkpoint_every=2",
        "train.validate_every=3",
        "evaluate.samples=0",
        "evaluate.rows=1",
        "evaluate.validation_samples=3",
        "evaluate.sampling.steps=1",
    ];
    for set in own.iter().chain(set) {
        args.extend(["--set".to_owned(), (*set).to_owned()]);
    }
    args
}

fn resume(dir: &Path, steps: u32, accumulate: u32) -> Vec<String> {
    let [steps, accumulate] = [format!("train.steps={steps}"), format!("train.accumulate={accumulate}")];
    ["train", "--resume", dir.to_str().unwrap(), "--set", &steps, "--set", &accumulate].map(str::to_owned).to_vec()
}

fn alone(args: &[String]) -> Output {
    spire(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Starts two ranks, each with its working directory (by default the repository) and its arguments.
fn start(ranks: [(Option<&Path>, &[String]); 2]) -> Child {
    let program = command(&[]).get_program().to_owned();
    let mut mpirun = Command::new("mpirun");
    mpirun.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"] {
        mpirun.env(name, "1");
    }
    // Containers may forbid the fastest way to share memory.
    mpirun.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    for (i, (dir, args)) in ranks.into_iter().enumerate() {
        mpirun.args((i > 0).then_some(":")).args(["-n", "1"]);
        if let Some(dir) = dir {
            mpirun.arg("-wdir").arg(dir);
        }
        mpirun.arg(&program).args(args);
    }
    mpirun.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun is there")
}

fn two(args: &[String]) -> Output {
    finish(start([(None, args), (None, args)]))
}

/// The output of a process, which must end within the time limit.
fn finish(mut child: Child) -> Output {
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |pipe: &mut dyn Read| {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    };
    std::thread::scope(|scope| {
        let (stdout, stderr) = (scope.spawn(move || read(&mut out)), scope.spawn(move || read(&mut err)));
        let start = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if start.elapsed() > HANGS_AFTER => {
                    child.kill().unwrap();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        let status = status.unwrap_or_else(|| panic!("it hangs: {}", String::from_utf8_lossy(&stderr)));
        Output { status, stdout, stderr }
    })
}

/// Waits until the run of `child` has done `steps` steps.
fn wait_for(child: &mut Child, run: &Path, steps: usize) {
    let start = Instant::now();
    while metrics(run).len() < steps {
        assert!(start.elapsed() < HANGS_AFTER, "no {steps} steps after {HANGS_AFTER:?}");
        assert!(child.try_wait().unwrap().is_none(), "the run ended");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, rank: usize, signal: &str) {
    let says =
        |path: PathBuf, what: &str| fs::read(path).is_ok_and(|text| String::from_utf8_lossy(&text).contains(what));
    let parent = format!("PPid:\t{}\n", child.id());
    let rank = format!("OMPI_COMM_WORLD_RANK={rank}\0");
    let mut processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let process = processes.find(|at| says(at.join("status"), &parent) && says(at.join("environ"), &rank)).unwrap();
    assert!(Command::new("kill").arg(signal).arg(process.file_name().unwrap()).status().unwrap().success());
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn position(run: &Path, step: u32) -> u64 {
    let state = fs::read(run.join(format!("checkpoints/step-{step:08}/state.json"))).unwrap();
    serde_json::from_slice::<Value>(&state).unwrap()["position"].as_u64().unwrap()
}

fn weights(run: &Path) -> Vec<f32> {
    let bytes = fs::read(run.join("control/diffusion_pytorch_model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    let bytes = names.into_iter().flat_map(|name| tensors.tensor(name).unwrap().data().to_vec()).collect::<Vec<_>>();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// Compares losses, gradient norms and validation losses (if both runs have them) of every step, relatively.
fn assert_same_steps(one: &Path, other: &Path, tolerance: f64) {
    let (one, other) = (metrics(one), metrics(other));
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one["step"], other["step"]);
        let figures = |step: &Value| ["loss", "grad_norm", "validation_loss"].map(|key| step[key].as_f64());
        let [one, other] = [one, other].map(figures);
        assert!(one[0].is_some() && other[0].is_some());
        // A continued run has one more validation, at the step where it ended first.
        for (a, b) in one.into_iter().zip(other).filter_map(|(one, other)| Some((one?, other?))) {
            assert!((a - b).abs() <= tolerance * a.abs(), "{a} and {b}");
        }
    }
}

#[test]
fn two_ranks_take_the_steps_of_one_process_with_twice_the_batch() {
    let scratch = TempDir::new().unwrap();
    let [both, batch, accumulated] = ["both", "batch", "accumulated"].map(|name| scratch.path().join(name));
    let printed = ok(two(&run(&both, 6, &["train.bucket_megabytes=1"])));
    assert_eq!(printed.matches("steps 6, loss").count(), 1, "the first rank alone speaks: {printed}");
    let summary = fs::read_to_string(both.join("summary.json")).unwrap();
    assert!(summary.contains("\"ranks\": 2"), "{summary}");
    ok(alone(&run(&batch, 6, &["train.batch_size=8"])));
    ok(alone(&run(&accumulated, 6, &["train.accumulate=2"])));
    assert_same_steps(&both, &batch, 1e-4);
    assert_same_steps(&both, &accumulated, 1e-6);
    assert_eq!(position(&both, 6), 48);

    let (both, accumulated) = (weights(&both), weights(&accumulated));
    let distance = both.iter().zip(&accumulated).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let size = both.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>().sqrt();
    assert!(distance < 1e-6 * size, "{distance} of {size}");
}

#[test]
fn processes_with_two_devices_each_take_the_steps_of_one_with_four_times_the_batches() {
    let scratch = TempDir::new().unwrap();
    let [four, alone_dir] = ["four", "alone"].map(|name| scratch.path().join(name));
    let set = ["run.device=flex, flex", "train.bucket_megabytes=1"];
    let output = two(&run(&four, 4, &set));
    let opening = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "gradients summed by MPI over 2 processes, in the host's memory over the 2 devices of each\n";
    assert_eq!(opening.matches(expected).count(), 1, "{opening}");
    let printed = ok(output);
    assert_eq!(printed.matches("steps 4, loss").count(), 1, "the first rank alone speaks: {printed}");
    let summary = fs::read_to_string(four.join("summary.json")).unwrap();
    assert!(summary.contains("\"ranks\": 4"), "{summary}");
    ok(alone(&run(&alone_dir, 4, &["train.accumulate=4"])));
    assert_same_steps(&four, &alone_dir, 1e-6);
    assert_eq!(position(&four, 4), 64);
}

#[test]
fn a_failing_device_of_one_process_ends_all() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().join("run");
    let printed = error(two(&run(&dir, 4, &["run.device=flex,abacus:1"])));
    assert!(
        printed.contains("of 4 on ") && printed.contains(", abacus:1: device \"abacus:1\" is unknown"),
        "{printed}"
    );
    assert!(!dir.exists());
    let [first, second] = ["flex,flex", "flex"].map(|device| run(&dir, 4, &[&format!("run.device={device}")]));
    let printed = error(finish(start([(None, &first), (None, &second)])));
    assert!(
        printed.contains("run.device of rank 1") && printed.contains("\"flex\" there, \"flex,flex\" here"),
        "{printed}"
    );
    assert!(!dir.exists());
}

#[test]
fn a_run_continues_with_another_number_of_ranks() {
    let scratch = TempDir::new().unwrap();
    let [whole, fewer, more] = ["whole", "fewer", "more"].map(|name| scratch.path().join(name));
    ok(alone(&run(&whole, 8, &["train.accumulate=2"])));
    ok(two(&run(&fewer, 4, &[])));
    ok(alone(&resume(&fewer, 8, 2)));
    assert_same_steps(&whole, &fewer, 1e-5);
    ok(alone(&run(&more, 4, &["train.accumulate=2"])));
    ok(two(&resume(&more, 8, 1)));
    assert_same_steps(&whole, &more, 1e-5);

    assert_eq!(position(&more, 8), 64);
    let output = alone(&resume(&more, 10, 1));
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(printed.contains("a step has 4 samples; before it had 8"), "{printed}");
    ok(output);
    assert_eq!(position(&more, 10), 72);
}

#[test]
fn all_ranks_stop_if_one_is_interrupted() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().join("run");
    let args = run(&dir, 1_000_000, &["train.checkpoint_every=1000000", "train.validate_every=1000000"]);
    for (rank, name, device, samples) in [(1, "-TERM", "flex", 8), (0, "-INT", "flex", 8), (1, "-INT", "flex,flex", 16)]
    {
        let _ = fs::remove_dir_all(&dir);
        let args = [&args[..], &["--set".into(), format!("run.device={device}")]].concat();
        let mut child = start([(None, &args), (None, &args)]);
        wait_for(&mut child, &dir, 2);
        signal(&child, rank, name);
        let printed = ok(finish(child));
        let steps = metrics(&dir).len();
        assert!(printed.contains(&format!("stopped after step {steps};")), "{printed}");
        assert_eq!(position(&dir, steps as u32), samples * steps as u64);
    }
}

#[test]
fn a_killed_rank_ends_the_others_and_the_run_can_be_resumed() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().join("run");
    let args = run(&dir, 1_000_000, &["train.validate_every=1000000"]);
    let mut child = start([(None, &args), (None, &args)]);
    wait_for(&mut child, &dir, 5);
    signal(&child, 1, "-KILL");
    let printed = error(finish(child));
    assert!(printed.contains("rank 1") && printed.contains("signal 9"), "{printed}");

    let done = metrics(&dir).len() as u32;
    ok(two(&resume(&dir, done + 2, 1)));
    assert_eq!(metrics(&dir).len() as u32, done + 2);
}

#[test]
fn a_failing_rank_reports_its_error_and_ends_the_others() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().join("run");
    let good = fs::read("../tests/pictures/scene.png").unwrap();
    let places = ["first", "second"].map(|name| scratch.path().join(name));
    for (place, picture) in places.iter().zip([&good[..], &good[..200]]) {
        fs::create_dir_all(place.join("pictures")).unwrap();
        fs::write(place.join("pictures/a.png"), picture).unwrap();
        fs::write(place.join("pictures/a.txt"), "a cup of coffee").unwrap();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let base = format!("model.base={}", root.join("assets/tiny").display());
    let embedding = format!("model.embedding={}", root.join("assets/tiny/embedding").display());
    let mut args = run(&dir, 4, &[&base, &embedding, "data.source.kind=folder", "data.source.path=pictures"]);
    args[1] = root.join("configs/tiny.toml").display().to_string();
    let printed = error(finish(start([(Some(&places[0]), &args), (Some(&places[1]), &args)])));
    assert!(printed.contains("error: rank 1 of 2 on ") && printed.contains("a.png"), "{printed}");
    assert!(metrics(&dir).is_empty());
}

#[test]
fn ranks_with_different_configurations_do_not_start() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().join("run");
    let [first, second] = ["1e-3", "2e-3"].map(|rate| run(&dir, 4, &[&format!("train.learning_rate={rate}")]));
    let printed = error(finish(start([(None, &first), (None, &second)])));
    assert!(printed.contains("\"learning_rate = 0.002\" there, \"learning_rate = 0.001\" here"), "{printed}");
    assert!(!dir.exists());
}

#[test]
fn an_error_of_all_ranks_is_printed_once() {
    let scratch = TempDir::new().unwrap();
    let printed = error(two(&run(&scratch.path().join("run"), 4, &["train.batch_size=0"])));
    assert_eq!(printed.matches("train.batch_size must be at least 1").count(), 1, "{printed}");
}
