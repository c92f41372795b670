//! Sweeps: train variants of a configuration with several seeds, and compare them in one table.
//!
//! ```text
//! sweeps/NAME/
//!   runs/VARIANT/seed-N/   a run folder with cell.toml, command.txt, log.txt, attempts.jsonl
//!   evaluation/            what `spire eval evaluation.toml` writes, if the sweep has an [evaluation]
//!   results.md, .csv, .tex, .json, curves.svg
//! ```

mod cells;
mod config;
mod curves;
mod differences;
mod evaluation;
mod expansion;
mod plan;
mod progress_table;
mod results;
mod running;
mod statistics;
mod tables;
mod trends;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use spire_core::atomic_write::write_atomic;
use spire_core::folder_lock::FolderLock;
use spire_core::message::with_causes;
use spire_core::settings;
use spire_eval::evaluation::{EvalConfig, MethodKind, Table};

use cells::Cell;
pub use cells::State;
use config::SweepConfig;
use results::SweepResults;

/// A sweep with its cells; all of their configurations are valid.
#[derive(Debug)]
pub struct Sweep {
    /// Its configuration.
    pub config: SweepConfig,
    /// The folder for results.
    pub output: PathBuf,
    /// The folder for runs, which several sweeps may share.
    pub runs: PathBuf,
    /// Each variant with each seed.
    pub cells: Vec<Cell>,
    /// The configuration of the evaluation, without the cells.
    evaluation: Option<EvalConfig>,
}

impl Sweep {
    /// Reads the sweep at `path`. `overrides` of its keys (`set.train.steps=100`) have the form that [`settings::load`]
    /// accepts.
    ///
    /// # Errors
    /// The file, the base configuration or the evaluation does not read; or a variant does not fit the base. The error
    /// names file, line and key.
    pub fn open(path: &Path, overrides: &[String]) -> Result<Self> {
        let config: SweepConfig = settings::load(path, overrides)?;
        config.validate().with_context(|| path.display().to_string())?;
        let output = config.output.clone().unwrap_or_else(|| Path::new("sweeps").join(&config.name));
        let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let runs = config.runs.clone().unwrap_or_else(|| output.join("runs"));
        let cells = expansion::expand(&config, path, &text, &runs)?;
        let mut sweep = Self { config, output, runs, cells, evaluation: None };
        if let Some(evaluation) = &sweep.config.evaluation {
            sweep.evaluation = Some(expansion::evaluation_of(evaluation, path, &text)?);
            if let Some(whole) = sweep.evaluation_of(&sweep.cells.iter().collect::<Vec<_>>()) {
                let file = evaluation.file.display();
                whole.validate().with_context(|| format!("{}: evaluation by {file}", path.display()))?;
            }
        }
        sweep.check_reference().with_context(|| path.display().to_string())?;
        Ok(sweep)
    }

    /// Checks that the table has the row `against`.
    fn check_reference(&self) -> Result<()> {
        let Some(against) = &self.config.against else { return Ok(()) };
        let first = self.config.seeds.first();
        let cells = self.cells.iter().filter(|cell| Some(&cell.seed) == first);
        let rows: Vec<String> = match &self.evaluation {
            Some(evaluation) => {
                let others = evaluation.methods.iter().filter(|method| method.kind != MethodKind::Model);
                others.map(|method| method.name.clone()).chain(cells.flat_map(Cell::rows)).collect()
            }
            None => cells.map(|cell| cell.variant.clone()).collect(),
        };
        ensure!(rows.contains(against), "against: the table has no row \"{against}\"; its rows are {rows:?}");
        Ok(())
    }

    /// Trains all incomplete cells with the program at `program`, each in its own process. Cells that failed before are
    /// trained again only with `retry`. Then runs the evaluation, if there is one. Failures are part of the results.
    ///
    /// # Errors
    /// A cell began with another configuration; another process runs this sweep; the folder can't be written.
    pub fn run(&self, program: &Path, retry: bool, interrupted: &AtomicBool) -> Result<SweepResults> {
        let _locks = [FolderLock::take(&self.output)?, FolderLock::take(&self.runs)?];
        check_unchanged(&self.cells)?;
        self.train(&self.cells, program, retry, interrupted)?;
        self.results(program, interrupted)
    }

    /// Trains only cell number `number`, counted from 0, as one task of many on several machines that share the folder.
    /// [`collect`](Self::collect) then makes the results of all.
    ///
    /// # Errors
    /// There is no such cell, or it began with another configuration; a process runs the whole sweep; the folder can't be
    /// written.
    pub fn run_cell(&self, number: usize, program: &Path, retry: bool, interrupted: &AtomicBool) -> Result<State> {
        let cell = self.cells.get(number).with_context(|| {
            format!("there is no cell {number}: the sweep has the cells 0 to {}", self.cells.len() - 1)
        })?;
        let _locks = [FolderLock::share(&self.output)?, FolderLock::share(&self.runs)?];
        let cell = std::slice::from_ref(cell);
        check_unchanged(cell)?;
        self.train(cell, program, retry, interrupted)?;
        Ok(cell[0].state())
    }

    /// The results of the cells that are done, without training any. Runs the evaluation, if there is one.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn collect(&self, program: &Path, interrupted: &AtomicBool) -> Result<SweepResults> {
        let _locks = [FolderLock::take(&self.output)?, FolderLock::take(&self.runs)?];
        check_unchanged(&self.cells)?;
        self.results(program, interrupted)
    }

    fn train(&self, cells: &[Cell], program: &Path, retry: bool, interrupted: &AtomicBool) -> Result<()> {
        let mut open = vec![];
        for cell in cells {
            match cell.state() {
                State::Done => {}
                State::Failed { .. } if !retry => {}
                State::Failed { .. } => {
                    running::forget_failure(cell)?;
                    open.push(cell);
                }
                State::ToDo | State::CutOff { .. } => open.push(cell),
            }
        }
        running::run(&open, &self.config.devices, self.config.parallel, program, interrupted);
        Ok(())
    }

    fn results(&self, program: &Path, interrupted: &AtomicBool) -> Result<SweepResults> {
        let done: Vec<&Cell> = self.cells.iter().filter(|cell| cell.state() == State::Done).collect();
        let evaluated = match self.evaluation_of(&done).filter(|_| !done.is_empty()) {
            Some(_) if interrupted.load(Ordering::Relaxed) => {
                Some(Err("the sweep was interrupted before the evaluation".to_owned()))
            }
            Some(config) => {
                let evaluated = evaluation::evaluate(&config, &done, &self.output, program, interrupted);
                Some(evaluated.map_err(|error| with_causes(error.as_ref())))
            }
            None => None,
        };
        SweepResults::collect(&self.config, &self.cells, evaluated)
    }

    fn evaluation_of(&self, cells: &[&Cell]) -> Option<EvalConfig> {
        let file = self.evaluation.as_ref()?;
        Some(evaluation::of_cells(file, &self.config, &self.output, cells))
    }

    /// Writes results and curves into the sweep's folder. Returns the tables as Markdown.
    ///
    /// # Errors
    /// A file can't be written, or the curves can't be drawn.
    pub fn write(&self, results: &SweepResults) -> Result<String> {
        let mut tables = results.tables();
        tables.extend(results.difference_tables());
        let latex: Vec<String> = tables.iter().map(Table::latex).collect();
        tables.extend(results.trends_table());
        let tables = tables.iter().map(Table::markdown).collect::<Vec<_>>().join("\n");
        let cells = results.cells_table().markdown();
        let markdown = format!("{tables}\n![Loss curves](curves.svg)\n\n{cells}");
        write_atomic(&self.output.join("results.json"), serde_json::to_string_pretty(results)?.as_bytes())?;
        write_atomic(&self.output.join("results.md"), markdown.as_bytes())?;
        write_atomic(&self.output.join("results.tex"), latex.join("\n").as_bytes())?;
        write_atomic(&self.output.join("results.csv"), results.plain_table().csv().as_bytes())?;
        write_atomic(&self.output.join("curves.svg"), curves::draw(&self.cells)?.as_bytes())?;
        Ok(tables)
    }
}

/// Checks that no cell began with another configuration: otherwise a mean would mix experiments.
fn check_unchanged(cells: &[Cell]) -> Result<()> {
    let mut changed = vec![];
    for cell in cells {
        let differences = cell.differences()?;
        if !differences.is_empty() {
            changed.push(format!("{}: {}", cell.config.run.dir.display(), differences.join("; ")));
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    bail!(
        "these runs began with another configuration; remove them, or set another output:\n  {}",
        changed.join("\n  ")
    )
}
