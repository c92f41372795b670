//! The benchmarks of a sweep's cells: one evaluation, with a method for each cell and each way of restoring.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use spire_eval::evaluation::{EvalConfig, MethodKind, Results};

use super::cell::Cell;
use super::{Sweep, running};
use crate::checkpoint::write_atomic;
use crate::settings;

/// What a row is called in the evaluation, for one seed.
pub fn of_seed(row: &str, seed: u64) -> String {
    format!("{row}, seed {seed}")
}

/// `file` with the cells in place of the methods that are models.
pub fn of_cells(file: &EvalConfig, sweep: &Sweep, cells: &[&Cell]) -> EvalConfig {
    let mut config = file.clone();
    config.output = Some(sweep.output.join("evaluation"));
    if let Some(device) = sweep.config.devices.first() {
        config.device.clone_from(device);
    }
    config.methods.retain(|method| method.kind != MethodKind::Model);
    // One seed's pictures say enough.
    let of_first = |cell: &&&Cell| Some(cell.seed) == sweep.config.seeds.first().copied();
    let shown = cells.iter().filter(of_first).flat_map(|cell| cell.rows().map(|row| of_seed(&row, cell.seed)));
    config.sheet.methods = shown.collect();
    for cell in cells {
        for (row, method) in cell.rows().zip(&cell.methods) {
            let mut method = method.clone();
            method.name = of_seed(&row, cell.seed);
            method.run = Some(cell.config.run.dir.clone());
            config.methods.push(method);
        }
    }
    config.against = config.against.filter(|against| config.methods.iter().any(|method| method.name == *against));
    config
}

/// Measures `cells`, by `spire eval` in a process of its own; what it measured of them before is kept.
///
/// # Errors
/// It failed without results, or the files can't be written or read.
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
    tracing::info!("measuring: {}; {}", running::shown(&arguments), path.display());
    let before = modified(&results);
    let mut process = Command::new(program);
    process.args(&arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = running::wait(process, interrupted, running::Stop::Kill)?;
    // Where a method could not be measured it ends with an error, and there are results all the same.
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

/// Whether the results were measured after all cells were trained.
fn is_newer(results: &Path, cells: &[&Cell]) -> bool {
    cells.iter().all(|cell| modified(&cell.run().summary()) <= modified(results))
}
