//! The evaluation of a sweep's cells: one `spire eval`, with a method for each cell and each way of restoring.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use spire_core::atomic_write::write_atomic;
use spire_core::settings;
use spire_eval::evaluation::{EvalConfig, MethodKind, Results};

use super::cells::{Cell, row_of_seed};
use super::config::SweepConfig;
use super::running;

/// The evaluation `file` with `cells` instead of its methods that are models. It writes into `output/evaluation`.
pub fn of_cells(file: &EvalConfig, sweep: &SweepConfig, output: &Path, cells: &[&Cell]) -> EvalConfig {
    let mut config = file.clone();
    config.output = Some(output.join("evaluation"));
    if let Some(device) = sweep.devices.first() {
        config.device.clone_from(device);
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

/// Measures `cells` with `spire eval` in a separate process. If nothing has changed since the last evaluation, its
/// results are kept.
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
    if fs::read_to_string(&file).is_ok_and(|there| there == text)
        && let Some(read) = read(&results)?.filter(|_| is_newer(&results, cells))
        && read.benchmarks.iter().all(|benchmark| benchmark.unmeasured.is_empty())
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
    let status = running::wait(process, interrupted, running::Stop::Kill)?;
    // It fails if a method could not be measured, and still writes the results of the others.
    match read(&results)? {
        Some(read) if status.success() || modified(&results) != before => Ok(read),
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

/// Whether the results are newer than all cells.
fn is_newer(results: &Path, cells: &[&Cell]) -> bool {
    cells.iter().all(|cell| modified(&cell.run().summary()) <= modified(results))
}
