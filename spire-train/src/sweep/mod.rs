//! Sweeps: variants of a configuration, each trained with several seeds, and one table of them.
//!
//! ```text
//! sweeps/NAME/
//!   runs/VARIANT/seed-N/   a run folder (crate::run_folder), and cell.toml, command.txt, log.txt, attempts.jsonl
//!   evaluation/            what `spire eval evaluation.toml` writes, where there is an [evaluation]
//!   results.md, .csv, .tex, .json, curves.svg
//! ```

mod cell;
mod config;
mod curves;
mod evaluation;
mod expansion;
mod results;
mod running;
mod statistics;
mod tables;
mod trends;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use spire_eval::evaluation::{EvalConfig, Table};

pub use cell::{Attempt, Cell, End, State};
pub use config::{SweepConfig, SweepEvaluation, TrendConfig, VariantConfig};
pub use results::{CellResult, Estimate, ResultColumn, ResultRow, SweepResults};
pub use trends::Trend;

use crate::checkpoint::write_atomic;
use crate::progress::clock;
use crate::settings;

/// A sweep whose cells are known and whose configurations are sound.
#[derive(Debug)]
pub struct Sweep {
    /// As in its file.
    pub config: SweepConfig,
    /// Where results are written.
    pub output: PathBuf,
    /// The runs' folder, which other sweeps may share.
    pub runs: PathBuf,
    /// Every variant with every seed.
    pub cells: Vec<Cell>,
    /// The evaluation's file, without the cells.
    evaluation: Option<EvalConfig>,
}

impl Sweep {
    /// Reads the sweep's file at `path`, with overrides of its keys (`set.train.steps=100`) as [`settings::load`] takes them.
    ///
    /// # Errors
    /// The file, the base configuration or the evaluation does not read, or a variant does not fit the base: each with file,
    /// line and key.
    pub fn open(path: &Path, overrides: &[String]) -> Result<Self> {
        let config: SweepConfig = settings::load(path, overrides)?;
        config.validate().with_context(|| path.display().to_string())?;
        let output = config.output.clone().unwrap_or_else(|| Path::new("sweeps").join(&config.name));
        let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let runs = config.runs.clone().unwrap_or_else(|| output.join("runs"));
        let cells = expansion::expand(&config, path, &text, &runs)?;
        let mut sweep = Self { config, output, runs, cells, evaluation: None };
        if let Some(evaluation) = &sweep.config.evaluation {
            sweep.evaluation = Some(expansion::lay_over(evaluation, path, &text)?);
            if let Some(whole) = sweep.evaluation_of(&sweep.cells.iter().collect::<Vec<_>>()) {
                let file = evaluation.file.display();
                whole.validate().with_context(|| format!("{}: evaluation by {file}", path.display()))?;
            }
        }
        Ok(sweep)
    }

    /// How many variants there are.
    fn variants(&self) -> usize {
        self.cells.len() / self.config.seeds.len()
    }

    /// What would be run, and for how long: a line for each cell, and a sum.
    ///
    /// # Errors
    /// The configuration that a cell was begun with can't be read.
    pub fn plan(&self) -> Result<String> {
        let mut lines: Vec<[String; 4]> = vec![];
        let mut open = vec![];
        for cell in &self.cells {
            let mut time = String::new();
            let state = match cell.state() {
                _ if !cell.differences()?.is_empty() => {
                    format!("begun with another configuration: {}", cell.differences()?.join("; "))
                }
                State::Done => "done".to_owned(),
                State::Failed { reason } => format!("failed: {}", reason.lines().next().unwrap_or_default()),
                state @ (State::ToDo | State::CutOff { .. }) => {
                    let left = self.seconds_left(cell);
                    open.push(left);
                    time = about(left);
                    match state {
                        State::CutOff { step } => format!("goes on at step {step} of {}", cell.config.train.steps),
                        _ => "to do".to_owned(),
                    }
                }
            };
            lines.push([cell.name(), state, time, cell.changes.join(", ")]);
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
        let [first, second, third]: [usize; 3] = std::array::from_fn(width);
        let mut text = String::new();
        for [name, state, time, changes] in &lines {
            text += format!("{name:first$}  {state:second$}  {time:third$}  {changes}").trim_end();
            text.push('\n');
        }
        text += &format!("\n{} variants, {} seeds, {} cells", self.variants(), self.config.seeds.len(), lines.len());
        Ok(text + &self.sum(&open))
    }

    /// Cells that are trained at a time.
    fn at_a_time(&self) -> usize {
        self.config.devices.len().max(1) * self.config.parallel
    }

    fn sum(&self, times: &[Option<f64>]) -> String {
        if times.is_empty() {
            return "; nothing to train\n".to_owned();
        }
        let total = times.iter().copied().collect::<Option<Vec<f64>>>().map(|times| {
            let longest = times.iter().copied().fold(0.0, f64::max);
            (times.iter().sum::<f64>() / self.at_a_time() as f64).max(longest)
        });
        let then = if self.evaluation.is_some() { ", then the evaluation" } else { "" };
        format!("; {} to train, {} at a time: {}{then}\n", times.len(), self.at_a_time(), about(total))
    }

    /// How long a cell's training still takes, by the cells of its variant that were trained, or else by any; `None` where
    /// there are none.
    fn seconds_left(&self, cell: &Cell) -> Option<f64> {
        let measured = |like: &dyn Fn(&Cell) -> bool| {
            let times: Vec<f64> =
                self.cells.iter().filter(|other| like(other)).filter_map(Cell::seconds_per_sample).collect();
            (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64)
        };
        let seconds = measured(&|other| other.variant == cell.variant).or_else(|| measured(&|_| true))?;
        Some(seconds * cell.samples_left() as f64)
    }

    /// Trains what is not done, with the program at `program`: each cell in a process of its own. Cells that failed before are
    /// left, or trained again with `retry`. Then evaluates, where an evaluation is asked for. Whatever fails is in the results.
    ///
    /// # Errors
    /// A cell was begun with another configuration; another process runs this sweep; the folder can't be written.
    pub fn run(&self, program: &Path, retry: bool, interrupted: &AtomicBool) -> Result<SweepResults> {
        let _locks = [lock(&self.output)?, lock(&self.runs)?];
        self.check_unchanged()?;
        let mut open = vec![];
        for cell in &self.cells {
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
        let done: Vec<&Cell> = self.cells.iter().filter(|cell| cell.state() == State::Done).collect();
        let evaluated = match self.evaluation_of(&done).filter(|_| !done.is_empty()) {
            Some(_) if interrupted.load(Ordering::Relaxed) => {
                Some(Err("the sweep was interrupted before it".to_owned()))
            }
            Some(config) => {
                let evaluated = evaluation::evaluate(&config, &done, &self.output, program, interrupted);
                Some(evaluated.map_err(|error| format!("{error:#}")))
            }
            None => None,
        };
        SweepResults::collect(self, evaluated)
    }

    /// Runs of one sweep must be runs of one file: figures of two configurations in one row would be nobody's.
    fn check_unchanged(&self) -> Result<()> {
        let mut changed = vec![];
        for cell in &self.cells {
            let differences = cell.differences()?;
            if !differences.is_empty() {
                changed.push(format!("{}: {}", cell.config.run.dir.display(), differences.join("; ")));
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        bail!(
            "these were begun with another configuration; remove them, or set another output:\n  {}",
            changed.join("\n  ")
        )
    }

    fn evaluation_of(&self, cells: &[&Cell]) -> Option<EvalConfig> {
        let file = self.evaluation.as_ref()?;
        Some(evaluation::of_cells(file, self, cells))
    }

    /// Writes results and curves into the sweep's folder. Gives the tables as Markdown.
    ///
    /// # Errors
    /// A file can't be written, or the curves drawn.
    pub fn write(&self, results: &SweepResults) -> Result<String> {
        let mut tables = results.tables();
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

/// One process at a time writes into a folder; it is made if it is not there.
fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another sweep writes into {}: wait for it, or set another output or runs", folder.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
}

/// "about 1:02", or "time unknown"
fn about(seconds: Option<f64>) -> String {
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(time) => format!("about {}", clock(time)),
        None => "time unknown".to_owned(),
    }
}
