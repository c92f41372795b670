//! `spire sweep` with the real program: a variant that fails, a second call, a sweep that is killed.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::{command, error, ok, spire};
use serde_json::Value;
use spire_core::folder_lock::FolderLock;
use tempfile::TempDir;

/// Two variants with two seeds; the second variant loses its weights in its first step.
fn configuration(scratch: &Path, steps: u32) -> PathBuf {
    let path = scratch.join("sweep.toml");
    let text = format!(
        "name = \"two\"\nbase = \"configs/tiny.toml\"\noutput = \"{output}\"\nseeds = [1, 2]\n\
         [set]\ntrain.steps = {steps}\ntrain.batch_size = 2\ntrain.checkpoint_every = 1\ntrain.validate_every = 1000\n\
         train.warmup_steps = 0\ntrain.max_bad_steps = 1\nevaluate.samples = 2\nevaluate.rows = 1\n\
         evaluate.validation_samples = 1\nevaluate.sampling.steps = 1\n\
         [[variants]]\nname = \"Addition\"\nset = {{ model.fusion = \"add\" }}\n\
         [[variants]]\nname = \"Broken\"\nset = {{ train.learning_rate = 1e30, train.max_grad_norm = 1e30 }}\n",
        output = scratch.join("out").display(),
    );
    fs::write(&path, text).unwrap();
    path
}

fn arguments<'a>(config: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["sweep", config.to_str().unwrap()], more].concat()
}

fn output(config: &Path, more: &[&str]) -> Output {
    spire(&arguments(config, more))
}

fn run(scratch: &Path, cell: &str) -> PathBuf {
    scratch.join("out/runs").join(cell)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn attempts(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("attempts.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_failed_variant_does_not_affect_the_other_and_a_second_call_trains_nothing() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let config = configuration(scratch, 3);
    let plan = ok(output(&config, &["--dry-run"]));
    assert!(plan.contains("2 variants, 2 seeds, 4 cells; 4 to train, 1 at a time: time unknown"), "{plan}");
    assert!(plan.contains("Addition, seed 1") && plan.contains("model.fusion = \"add\""), "{plan}");
    let unknown = error(output(&config, &["--set", "against=addition"]));
    assert!(
        unknown.contains("the table has no row \"addition\"; its rows are [\"Addition\", \"Broken\"]"),
        "{unknown}"
    );
    assert!(!scratch.join("out").exists());

    let first = output(&config, &[]);
    let printed = String::from_utf8(first.stdout.clone()).unwrap();
    let told = error(first);
    assert!(told.contains("Broken, seed 1: failed: the weights are lost"), "{told}");
    assert!(printed.contains("| Broken | 0/2 (a) | – |"), "{printed}");

    // The row is the mean over the two runs.
    let summaries = [1, 2].map(|seed| json(&run(scratch, &format!("addition/seed-{seed}/summary.json"))));
    let found = summaries.map(|summary| summary["held_out"]["restored"]["psnr"].as_f64().unwrap());
    assert_ne!(found[0], found[1]);
    let mean = (found[0] + found[1]) / 2.0;
    assert!(printed.contains(&format!("| Addition | 2/2 | {mean:.2} ± ")), "{printed}");
    let results = json(&scratch.join("out/results.json"));
    assert_eq!(results["columns"][0]["name"], "PSNR");
    let psnr = &results["rows"][0]["figures"][0];
    let near = |key: &str, value: f64| (psnr[key].as_f64().unwrap() - value).abs() < 1e-9;
    // The standard error of two values is half their difference.
    assert!(near("mean", mean) && near("standard_error", (found[0] - found[1]).abs() / 2.0), "{psnr}");
    assert_eq!(results["cells"][2]["state"], "failed");
    for file in ["results.md", "results.csv", "results.tex", "curves.svg"] {
        assert!(fs::metadata(scratch.join("out").join(file)).unwrap().len() > 100, "{file}");
    }
    // The recorded command works.
    let command = fs::read_to_string(run(scratch, "addition/seed-1/command.txt")).unwrap();
    assert_eq!(command, format!("spire train {}\n", run(scratch, "addition/seed-1/cell.toml").display()));

    let changed = |run: &Path| -> SystemTime { fs::metadata(run.join("summary.json")).unwrap().modified().unwrap() };
    let before = changed(&run(scratch, "addition/seed-1"));
    let again = output(&config, &[]);
    assert_eq!(String::from_utf8(again.stdout.clone()).unwrap(), printed);
    assert!(!error(again).contains("training"));
    assert_eq!(changed(&run(scratch, "addition/seed-1")), before);
    for (cell, count) in [("addition/seed-1", 1), ("broken/seed-2", 1)] {
        assert_eq!(attempts(&run(scratch, cell)).len(), count);
    }

    // Runs of two configurations never share a table.
    let other = error(output(&config, &["--set", "set.train.batch_size=3"]));
    assert!(other.contains("addition/seed-1: train.batch_size: 2, now 3"), "{other}");
}

#[test]
fn the_cells_are_trained_as_tasks_of_an_array_job_and_collected() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let config = configuration(scratch, 2);
    let list = ok(output(&config, &["--list"]));
    assert!(list.starts_with("0  Addition, seed 1  to do") && list.contains("\n3  Broken, seed 2    to do"), "{list}");

    // Tasks share the folders; the whole sweep can't run beside them.
    let tasks = ["0", "1"].map(|cell| {
        let arguments = arguments(&config, &["--cell", cell]);
        command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    });
    for mut task in tasks {
        assert!(task.wait().unwrap().success());
    }
    let other = FolderLock::share(&scratch.join("out")).unwrap();
    let failed = error(output(&config, &["--cell", "2"]));
    assert!(failed.contains("cell 2 failed (--retry trains it again): the weights are lost"), "{failed}");
    let used = error(output(&config, &["--collect"]));
    assert!(used.contains("out is in use by process"), "{used}");
    drop(other);

    let collected = output(&config, &["--collect"]);
    let printed = String::from_utf8(collected.stdout.clone()).unwrap();
    error(collected);
    assert!(printed.contains("| Addition | 2/2 | ") && printed.contains("| Broken | 0/2 (a) | – |"), "{printed}");
    assert!(!run(scratch, "broken/seed-2").exists(), "collecting trains nothing");
    let none = error(output(&config, &["--cell", "4"]));
    assert!(none.contains("there is no cell 4: the sweep has the cells 0 to 3"), "{none}");
}

/// Starts a sweep and waits until its only cell has done `steps` steps.
fn started(arguments: &[&str], cell: &Path, steps: u64) -> Child {
    let mut sweep = command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !cell.join(format!("checkpoints/step-{steps:08}")).exists() {
        assert!(start.elapsed() < Duration::from_secs(300), "no step {steps} after five minutes");
        assert!(sweep.try_wait().unwrap().is_none(), "the sweep ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    sweep
}

#[cfg(unix)]
#[test]
fn an_interrupted_and_then_killed_sweep_continues() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let config = configuration(scratch, 40);
    let only = ["--set", "seeds=[4]", "--set", "variants=[]"];
    let arguments = arguments(&config, &only);
    let cell = run(scratch, "base/seed-4");

    let mut interrupted = started(&arguments, &cell, 2);
    let signal = Command::new("kill").args(["-INT", &interrupted.id().to_string()]).status().unwrap();
    assert!(signal.success());
    assert_eq!(interrupted.wait().unwrap().code(), Some(1));
    let attempt = attempts(&cell).pop().unwrap();
    assert_eq!(attempt["end"], "interrupted");
    let stopped = attempt["to_step"].as_u64().unwrap();
    let table = fs::read_to_string(scratch.join("out/results.md")).unwrap();
    assert!(table.contains(&format!("seed 4 was interrupted and continues at step {stopped}")), "{table}");
    let plan = ok(output(&config, &[&only[..], &["--dry-run"]].concat()));
    assert!(plan.contains(&format!("base, seed 4  continues at step {stopped} of 40  about ")), "{plan}");

    let mut killed = started(&arguments, &cell, stopped + 2);
    killed.kill().unwrap();
    killed.wait().unwrap();
    // The training notices that its sweep is gone and stops; a new sweep waits for that.
    ok(output(&config, &only));
    let attempt = attempts(&cell).pop().unwrap();
    assert_eq!((attempt["end"].as_str(), attempt["to_step"].as_u64()), (Some("finished"), Some(40)));
    assert!(attempt["from_step"].as_u64().unwrap() >= stopped + 2);
    let log = fs::read_to_string(cell.join("log.txt")).unwrap();
    assert_eq!(log.matches("stopped after step").count(), 2, "{log}");
    let commands = fs::read_to_string(cell.join("command.txt")).unwrap();
    assert_eq!(commands.matches("spire train --resume").count(), 2, "{commands}");
    let metrics = fs::read_to_string(cell.join("metrics.jsonl")).unwrap();
    let step = |line: &str| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap();
    assert_eq!(metrics.lines().map(step).collect::<Vec<u64>>(), (0..40).collect::<Vec<u64>>());
    assert!(ok(output(&config, &[&only[..], &["--dry-run"]].concat())).contains("nothing to train"));
}

#[test]
fn with_an_evaluation_the_table_has_its_figures() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let recipe = fs::read_to_string("../configs/benchmarks/tiny-parameterized.toml").unwrap();
    fs::write(scratch.join("recipe.toml"), recipe.replace("count = 256", "count = 4")).unwrap();
    let file = scratch.join("eval.toml");
    let text = format!(
        "metrics = [\"psnr\", \"ssim\"]\n[sampling]\nsteps = 1\n\
         [[benchmarks]]\ntitle = \"Four\"\nfolder = \"{four}\"\nrecipe = \"{recipe}\"\n\
         [[methods]]\nname = \"Degraded\"\nkind = \"input\"\n\
         [[methods]]\nname = \"Shipped\"\nbase = \"assets/tiny\"\ncontrol = \"assets/tiny/control\"\n",
        four = scratch.join("four").display(),
        recipe = scratch.join("recipe.toml").display(),
    );
    fs::write(&file, text).unwrap();
    let config = configuration(scratch, 2);
    let evaluation = format!(
        "[evaluation]\nfile = \"{}\"\n[[evaluation.methods]]\nname = \"blind\"\nsemantic = false\nrestoration = \"none\"\n\
         [[evaluation.methods]]\nname = \"told\"\n",
        file.display()
    );
    fs::write(&config, fs::read_to_string(&config).unwrap() + &evaluation).unwrap();
    let only = ["--set", "variants=[]"];
    let printed = ok(output(&config, &only));

    let measured = json(&scratch.join("out/evaluation/results.json"));
    let psnr = |name: &str| {
        let methods = measured["benchmarks"][0]["methods"].as_array().unwrap();
        let method = methods.iter().find(|method| method["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        method["figures"]["psnr"]["value"].as_f64().unwrap()
    };
    assert_eq!(measured["methods"].as_array().unwrap().len(), 5, "the file's own model stays out");
    for way in ["blind", "told"] {
        let [one, two] = [1, 2].map(|seed| psnr(&format!("base, {way}, seed {seed}")));
        let row = format!("| base, {way} | 2/2 | {:.2} ± ", (one + two) / 2.0);
        assert!(printed.replace("**", "").contains(&row), "{row} in {printed}");
    }
    assert!(printed.replace("**", "").contains(&format!("| Degraded | – | {:.2} |", psnr("Degraded"))), "{printed}");

    // Nothing is trained or measured again.
    let before = fs::metadata(scratch.join("out/evaluation/results.json")).unwrap().modified().unwrap();
    assert_eq!(ok(output(&config, &only)), printed);
    assert_eq!(fs::metadata(scratch.join("out/evaluation/results.json")).unwrap().modified().unwrap(), before);
}
