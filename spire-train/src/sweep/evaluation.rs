//! The evaluation of a sweep's cells: one `spire eval`, with a method for each cell and each way of restoring.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use spire_core::atomic_write::write_atomic;
use spire_core::checksum::sha256;
use spire_core::settings;
use spire_eval::evaluation::{EvalConfig, MethodKind, Results};
use spire_model::base;
use spire_model::device::kind;
use spire_model::weights::checksum::{checksum, checksum_of};
use walkdir::{DirEntry, WalkDir};

use super::cells::{Cell, row_of_seed};
use super::config::SweepConfig;
use super::running;

/// The evaluation `file` with `cells` instead of its methods that are models. It writes into `output/evaluation`.
pub fn of_cells(file: &EvalConfig, sweep: &SweepConfig, output: &Path, cells: &[&Cell]) -> EvalConfig {
    let mut config = file.clone();
    config.output = Some(output.join("evaluation"));
    if let Some(first) = sweep.devices.first() {
        // Devices of several kinds round differently.
        let alike = sweep.devices.iter().filter(|device| kind(device) == kind(first));
        (config.device, config.devices) = (None, alike.cloned().collect());
    }
    config.methods.retain(|method| method.kind != MethodKind::Model);
    // The sheet shows one seed.
    let of_first = |cell: &&&Cell| Some(cell.seed) == sweep.seeds.first().copied();
    let shown = cells.iter().filter(of_first).flat_map(|cell| cell.rows().map(|row| row_of_seed(&row, cell.seed)));
    config.sheet.methods = shown.collect();
    for cell in cells {
        for (row, method) in cell.rows().zip(&cell.methods) {
            let mut method = method.clone();
            method.name = row_of_seed(&row, cell.seed);
            method.run = Some(cell.config.run.dir.clone());
            config.methods.push(method);
        }
    }
    config.against = config.against.filter(|against| config.methods.iter().any(|method| method.name == *against));
    config
}

/// Measures `cells` with `spire eval` in a separate process. If nothing has changed since the last complete evaluation, its
/// results are kept: not the settings, nor any weights or test set, nor the program's version.
///
/// # Errors
/// The process fails without results, or a file can't be written or read.
pub fn evaluate(
    config: &EvalConfig,
    cells: &[&Cell],
    output: &Path,
    program: &Path,
    interrupted: &AtomicBool,
) -> Result<Results> {
    let file = output.join("evaluation.toml");
    let results = output.join("evaluation/results.json");
    let text = settings::resolved(config)?;
    let bases: BTreeSet<&Path> = cells.iter().map(|cell| cell.config.model.base.as_path()).collect();
    let controls: Vec<PathBuf> = cells.iter().map(|cell| cell.run().control()).collect();
    let weights = weights_key(&text, config, &bases, &controls)?;
    let key_file = output.join("evaluation/key");
    if fs::read_to_string(&key_file).is_ok_and(|there| there == with_test_sets(&weights, config))
        && let Some(read) = read(&results)?
    {
        return Ok(read);
    }
    write_atomic(&file, text.as_bytes())?;
    let path = output.join("evaluation.log");
    let log = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
    let arguments = ["eval".to_owned(), file.display().to_string()];
    tracing::info!("measuring: {}; {}", running::command_line(&arguments), path.display());
    let before = modified(&results);
    let mut process = Command::new(program);
    process.args(&arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = running::wait(process, interrupted, running::Stop::Kill, || ())?;
    // It fails if a method could not be measured, and still writes the results of the others.
    match read(&results)? {
        Some(read) if status.success() => {
            // A missing test set is made by the evaluation.
            write_atomic(&key_file, with_test_sets(&weights, config).as_bytes())?;
            Ok(read)
        }
        Some(read) if modified(&results) != before => Ok(read),
        _ => bail!("{}", running::reason(&String::from_utf8_lossy(&fs::read(&path)?), status)),
    }
}

fn read(path: &Path) -> Result<Option<Results>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

/// SHA-256 over what the results depend on besides the test sets: the configuration, the weights of bases, branches and
/// metrics, and the version.
fn weights_key(text: &str, config: &EvalConfig, bases: &BTreeSet<&Path>, controls: &[PathBuf]) -> Result<String> {
    let mut parts = vec![format!("spire {}", env!("CARGO_PKG_VERSION")), text.to_owned()];
    for base in bases {
        parts.push(base::checksum(&base::locate(base)?)?);
    }
    for control in controls {
        parts.push(checksum(control, &[""])?);
    }
    for folder in [&config.clip, &config.judge] {
        parts.push(checksum(folder, &["", "image_encoder", "text_encoder", "tokenizer"])?);
    }
    parts.push(checksum_of(files_below(&config.weights))?);
    Ok(sha256(parts.join("\n").as_bytes()))
}

/// The key with the checksums of the test sets.
fn with_test_sets(weights: &str, config: &EvalConfig) -> String {
    let sums =
        config.benchmarks.iter().map(|benchmark| fs::read(benchmark.folder.join("SHA256SUMS")).unwrap_or_default());
    let sums: Vec<String> = sums.map(|sums| sha256(&sums)).collect();
    format!("{weights}\n{}\n", sums.join("\n"))
}

/// The files in a folder and its subfolders, in order; none if it does not exist.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = WalkDir::new(folder).sort_by_file_name().into_iter().filter_map(Result::ok);
    entries.map(DirEntry::into_path).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use spire_eval::evaluation::BenchmarkChoice;

    use super::*;

    #[test]
    fn the_key_changes_with_all_that_results_depend_on() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| {
            fs::create_dir_all(place(name).parent().unwrap()).unwrap();
            fs::write(place(name), text).unwrap();
        };
        let files = [
            "base/unet/diffusion_pytorch_model.safetensors",
            "control/diffusion_pytorch_model.safetensors",
            "clip/model.safetensors",
            "judge/config.json",
            "weights/alex.pth",
            "set/SHA256SUMS",
        ];
        files.iter().for_each(|file| write(file, "first"));
        let benchmark = BenchmarkChoice { folder: place("set"), ..BenchmarkChoice::default() };
        let config = EvalConfig {
            clip: place("clip"),
            judge: place("judge"),
            weights: place("weights"),
            benchmarks: vec![benchmark],
            ..EvalConfig::default()
        };
        let base = place("base");
        let now = |text: &str| {
            let weights = weights_key(text, &config, &BTreeSet::from([base.as_path()]), &[place("control")]).unwrap();
            with_test_sets(&weights, &config)
        };
        let mut known = BTreeSet::from([now("a"), now("b")]);
        assert_eq!(now("a"), now("a"));
        for file in files {
            write(file, "second");
            assert!(known.insert(now("a")), "{file}");
        }
    }
}
