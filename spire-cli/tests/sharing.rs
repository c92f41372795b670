//! Restorations and evaluations that several devices and several processes share; without GPUs, on the CPU twice.

mod common;
#[path = "common/published.rs"]
mod published;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use common::{command, error, ok, spire};
use published::publish;
use spire_core::Picture;
use spire_core::folder_lock::FolderLock;
use tempfile::TempDir;

/// An evaluation of five pictures, in batches of two, by every kind of model that restores.
fn configuration(scratch: &Path) -> String {
    publish(scratch);
    let recipe = scratch.join("recipe.toml");
    let tiny = fs::read_to_string("../configs/benchmarks/tiny-parameterized.toml").unwrap();
    fs::write(&recipe, tiny.replace("count = 256", "count = 5")).unwrap();
    let own = "base = \"assets/tiny\"\ncontrol = \"assets/tiny/control\"";
    let generative = |name: &str, kind: &str, settings: &str| {
        let weights = scratch.join(kind);
        format!(
            "[[methods]]\nname = \"{name}\"\nkind = \"{kind}\"\nweights = \"{}\"\n\
             settings = {{ steps = 1, shortest_side = 64{settings} }}\n",
            weights.display()
        )
    };
    let text = format!(
        "name = \"five\"\nagainst = \"Own\"\nbatch_size = 2\nmetrics = [\"psnr\", \"ssim\"]\n[sampling]\nsteps = 2\n\
         [[benchmarks]]\ntitle = \"Five\"\nfolder = \"{set}\"\nrecipe = \"{recipe}\"\n\
         [[methods]]\nname = \"Degraded\"\nkind = \"input\"\n\
         [[methods]]\nname = \"Own\"\n{own}\n\
         [[methods]]\nname = \"SwinIR\"\nkind = \"swinir\"\nweights = \"tests/reference/swinir-real\"\n{diffbir}{edited}{stablesr}",
        set = scratch.join("five").display(),
        recipe = recipe.display(),
        diffbir = generative("DiffBIR", "diffbir", ""),
        edited = generative("DiffBIR + SDEdit", "diffbir", ", strength = 0.5"),
        stablesr = generative("StableSR", "stablesr", ""),
    );
    let config = scratch.join("eval.toml");
    fs::write(&config, text).unwrap();
    config.display().to_string()
}

/// The bytes of every file in a folder but its lock, by path. Measurements are in the order in which threads were done with them; here
/// they are sorted.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(below) = folders.pop() {
        for path in fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "lock" {
                let mut bytes = fs::read(&path).unwrap();
                if path.parent().unwrap().parent().unwrap().ends_with("measured") {
                    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
                    lines.sort_unstable();
                    bytes = lines.concat();
                }
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

fn assert_equal(one: &Path, other: &Path) {
    let (one, other) = (files(one), files(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (path, bytes) in one {
        assert!(other[&path] == bytes, "{} differs", path.display());
    }
}

fn set(key: &str, value: &Path) -> String {
    format!("{key}={}", value.display())
}

#[test]
fn two_devices_and_two_processes_make_the_evaluation_of_one() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let config = configuration(scratch);
    let [one, two, parts] = ["one", "two", "parts"].map(|name| scratch.join(name));
    let evaluate = |output: &Path, more: &[&str]| {
        command(&["eval", &config, "--set", &set("output", output)]).args(more).output().unwrap()
    };
    // The test set is not there yet, and two processes would make it at the same time.
    let missing = error(evaluate(&parts, &["--shard", "1/2"]));
    assert!(missing.contains("spire benchmark make") && missing.contains("recipe.toml -o "), "{missing}");

    let alone = ok(evaluate(&one, &[]));
    assert_eq!(files(&one.join("restored")).len(), 25);
    let shared = ok(evaluate(&two, &["--set", "devices=[\"cpu\", \"cpu\"]"]));
    assert_eq!(shared.replace("two/report.html", "one/report.html"), alone);
    assert_equal(&one, &two);

    let processes = ["1/2", "2/2"].map(|part| {
        let mut process = command(&["eval", &config, "--shard", part, "--set", &set("output", &parts)]);
        // As `mpirun` sets it.
        process.env("OMPI_COMM_WORLD_SIZE", "2").stdout(Stdio::null());
        process.spawn().unwrap()
    });
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    assert!(!parts.join("results.json").exists());
    assert_equal(&one.join("restored"), &parts.join("restored"));
    let changed = || -> Vec<SystemTime> {
        let restored = parts.join("restored");
        files(&restored).keys().map(|path| restored.join(path).metadata().unwrap().modified().unwrap()).collect()
    };
    let before = changed();
    ok(evaluate(&parts, &[]));
    assert_eq!(changed(), before, "nothing is restored again");
    assert_equal(&one, &parts);

    // What a process left out, because it was killed, is restored in the end.
    fs::remove_file(parts.join("results.json")).unwrap();
    fs::remove_dir_all(parts.join("restored/five/diffbir")).unwrap();
    ok(evaluate(&parts, &["--shard", "2/2"]));
    assert_eq!(files(&parts.join("restored/five/diffbir")).len(), 2);
    // While a process measures, no other one restores.
    let lock = FolderLock::take(&parts).unwrap();
    assert!(error(evaluate(&parts, &["--shard", "1/2"])).contains("parts is in use by"));
    drop(lock);
    ok(evaluate(&parts, &["--set", "devices=[\"cpu\", \"cpu\", \"cpu\"]"]));
    assert_equal(&one, &parts);
}

#[test]
fn an_evaluation_says_which_devices_and_processes_it_can_not_have() {
    let scratch = TempDir::new().unwrap();
    let config = configuration(scratch.path());
    let output = scratch.path().join("out");
    let wrong = |more: &[&str]| {
        error(command(&["eval", &config, "--set", &set("output", &output)]).args(more).output().unwrap())
    };
    let several = "devices=[\"cpu\", \"cpu\"]";
    let printed = wrong(&["--set", several, "--set", "device=cpu"]);
    assert!(printed.contains("device and devices contradict each other"), "{printed}");
    for command in [&["--check"][..], &[], &["--shard", "1/2"]] {
        let printed = wrong(&[command, &["--set", "devices=[\"cpu\", \"abacus:1\"]"]].concat());
        assert!(printed.contains("device \"abacus:1\" is unknown"), "{printed}");
    }
    let printed = wrong(&["--set", "device=cpu,cpu"]);
    assert!(printed.contains("devices = ["), "{printed}");
    let printed = wrong(&["--shard", "3/2"]);
    assert!(printed.contains("not a part such as 1/8"), "{printed}");
    assert!(!output.exists() && !scratch.path().join("five").exists());

    let launched = command(&["eval", &config]).env("SLURM_STEP_NUM_TASKS", "2").output().unwrap();
    let printed = error(launched);
    assert!(printed.contains("SLURM_STEP_NUM_TASKS=2") && printed.contains("--shard"), "{printed}");

    // A model that can't be loaded is one error, not one of each device.
    let broken = scratch.path().join("broken.pth");
    fs::write(&broken, b"not a pickle").unwrap();
    let broken = format!("methods.2.weights={}", broken.display());
    let printed = wrong(&["--set", several, "--set", &broken, "--set", "benchmarks.0.recipe=none.toml"]);
    assert!(printed.contains("none.toml"), "{printed}");
    let printed = wrong(&["--set", several, "--set", &broken]);
    assert_eq!(printed.matches("broken.pth").count(), 1, "{printed}");
    let results = fs::read_to_string(output.join("results.json")).unwrap();
    assert!(results.contains("\"StableSR\"") && results.contains("broken.pth"));
}

#[test]
fn two_devices_and_two_processes_restore_the_folder_of_one() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let photos = scratch.join("photos");
    fs::create_dir_all(photos.join("below")).unwrap();
    for (i, name) in ["a", "b", "c", "below/d"].iter().enumerate() {
        let colour = [0.2 * i as f32, 0.5, 0.7];
        Picture::filled(40 + 8 * i, 48, colour).save_png(photos.join(name).with_extension("png")).unwrap();
    }
    let model = ["--steps", "2", "--restoration", "Deblur with sigma 2.0"];
    let network = ["--model", "swinir", "--weights", "tests/reference/swinir-lightweight"];
    let restore = |output: &str, more: &[&[&str]]| {
        let output = scratch.join(output).display().to_string();
        let arguments = ["restore", photos.to_str().unwrap(), "-o", &output];
        command(&arguments).args(more.concat()).output().unwrap()
    };
    for (name, options) in [("own", &model[..]), ("network", &network[..])] {
        let [one, two, parts] = ["one", "two", "parts"].map(|how| format!("{name}-{how}"));
        assert!(ok(restore(&one, &[options])).starts_with("4 restored"));
        assert!(ok(restore(&two, &[options, &["--device", "cpu,cpu"]])).starts_with("4 restored"));
        assert_equal(&scratch.join(&one), &scratch.join(&two));
        for (part, count) in [("1/3", 2), ("2/3", 1), ("3/3", 1)] {
            let printed = ok(restore(&parts, &[options, &["--shard", part]]));
            assert!(printed.starts_with(&format!("{count} restored, 0 existed already")), "{printed}");
        }
        assert_equal(&scratch.join(&one), &scratch.join(&parts));
    }

    // A broken picture is its own failure, not the device's.
    fs::write(photos.join("broken.png"), b"not a picture").unwrap();
    let output = restore("own-two", &[&model, &["--devices", "cpu, cpu"]]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("0 restored, 4 existed already, 1 failed"));
    let printed = error(output);
    assert!(printed.matches("broken.png: /").count() == 1 && !printed.contains("take over"), "{printed}");

    let printed = error(restore("x", &[&model, &["--device", "cpu,abacus:1"]]));
    assert!(printed.contains("device \"abacus:1\" is unknown"), "{printed}");
    assert!(!scratch.join("x").exists());
    let single = photos.join("a.png").display().to_string();
    let output = scratch.join("a.png").display().to_string();
    for option in [["--device", "cpu,cpu"], ["--shard", "1/2"]] {
        let printed = error(spire(&["restore", &single, "-o", &output, option[0], option[1]]));
        assert!(printed.contains("a.png") && printed.contains("for a folder of pictures"), "{printed}");
    }
}
