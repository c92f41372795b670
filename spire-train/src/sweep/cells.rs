//! A cell of a sweep: one variant trained with one seed. What its folder holds, and its progress.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use spire_core::atomic_write::write_atomic;
use spire_core::settings::{self, Difference};
use spire_eval::evaluation::MethodConfig;

use crate::config::RunConfig;
use crate::logging::metrics::{self, StepMetrics};
use crate::run_folder::RunFolder;

/// A variant with a seed.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The variant's name.
    pub variant: String,
    /// Its seed.
    pub seed: u64,
    /// What the variant changes, `key = value`.
    pub changes: Vec<String>,
    /// The configuration in full; `run.dir` is the cell's folder.
    pub config: RunConfig,
    /// How the evaluation restores with its run. Each method makes a row; a single method may have no name.
    pub methods: Vec<MethodConfig>,
}

/// The progress of a cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Not started.
    ToDo,
    /// Training has started and is not complete.
    CutOff {
        /// The step of the newest intact checkpoint, from which it continues; 0 without one.
        step: u64,
    },
    /// Training ended with an error.
    Failed {
        /// The error.
        reason: String,
    },
    /// Training is complete and `summary.json` is written.
    Done,
}

/// A process that trained a cell: a line of `attempts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Steps done at its start.
    pub from_step: u64,
    /// Steps done at its end.
    pub to_step: u64,
    /// Its duration.
    pub seconds: f64,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
}

/// How an [`Attempt`] ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// All steps are done and the summary is written.
    Finished,
    /// It was interrupted.
    Interrupted,
    /// It ended with an error.
    Failed {
        /// The error.
        reason: String,
    },
}

/// The name of the row of a variant that restores with a method.
pub fn row(variant: &str, method: &str) -> String {
    format!("{variant}, {method}")
}

/// The name of a row for one seed, in the evaluation.
pub fn row_of_seed(row: &str, seed: u64) -> String {
    format!("{row}, seed {seed}")
}

impl Cell {
    /// "Add, seed 1"
    pub fn name(&self) -> String {
        format!("{}, seed {}", self.variant, self.seed)
    }

    /// The names of its rows in the table, one for each method.
    pub fn rows(&self) -> impl Iterator<Item = String> {
        self.methods.iter().map(|method| match method.name.as_str() {
            "" => self.variant.clone(),
            name => row(&self.variant, name),
        })
    }

    /// A file in its folder.
    fn file(&self, name: &str) -> PathBuf {
        self.config.run.dir.join(name)
    }

    /// Its run folder.
    pub fn run(&self) -> RunFolder {
        RunFolder::at(&self.config.run.dir)
    }

    /// The configuration from which its training starts. The trainer writes `config.toml` beside it.
    pub fn config_file(&self) -> PathBuf {
        self.file("cell.toml")
    }

    /// The output of its processes.
    pub fn log(&self) -> PathBuf {
        self.file("log.txt")
    }

    /// The commands of its processes, one per line.
    pub fn commands(&self) -> PathBuf {
        self.file("command.txt")
    }

    fn attempts_file(&self) -> PathBuf {
        self.file("attempts.jsonl")
    }

    /// Its progress, read from its folder.
    pub fn state(&self) -> State {
        if self.run().summary().is_file() {
            return State::Done;
        }
        if let Some(Attempt { end: End::Failed { reason }, .. }) = self.attempts().pop() {
            return State::Failed { reason };
        }
        match self.run().config_file().is_file() {
            true => State::CutOff { step: self.checkpoint_step() },
            false => State::ToDo,
        }
    }

    /// The step of its newest intact checkpoint. If all are damaged, the trainer reports it.
    fn checkpoint_step(&self) -> u64 {
        self.run().checkpoints(1).latest().ok().flatten().map_or(0, |checkpoint| checkpoint.step)
    }

    /// The processes that have trained it.
    pub fn attempts(&self) -> Vec<Attempt> {
        let text = fs::read_to_string(self.attempts_file()).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Appends a process to `attempts.jsonl`.
    pub fn note(&self, attempt: &Attempt) -> Result<()> {
        let path = self.attempts_file();
        let line = format!("{}\n", serde_json::to_string(attempt)?);
        let append = || File::options().create(true).append(true).open(&path)?.write_all(line.as_bytes());
        append().with_context(|| format!("can't write {}", path.display()))
    }

    /// The metrics of its steps, in order.
    pub fn steps(&self) -> Result<Vec<StepMetrics>> {
        Ok(metrics::read(&self.run().metrics())?)
    }

    /// Creates its folder and writes its configuration.
    pub fn prepare(&self) -> Result<()> {
        let dir = &self.config.run.dir;
        fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
        if !self.config_file().exists() {
            write_atomic(&self.config_file(), settings::resolved(&self.config)?.as_bytes())?;
        }
        Ok(())
    }

    /// The differences between the configuration with which its training began and the current one, as `key: THEN, now
    /// NOW`. The run folder and the device are ignored.
    ///
    /// # Errors
    /// The configuration with which it began can't be read.
    pub fn differences(&self) -> Result<Vec<String>> {
        if !self.config_file().is_file() {
            return Ok(vec![]);
        }
        // Read as settings: a key that a later version added has its default.
        let begun: RunConfig = settings::load(&self.config_file(), &[])?;
        let [begun, now] = [&begun, &self.config].map(|config| {
            let mut config = config.clone();
            (config.run.dir, config.run.device) = Default::default();
            config
        });
        Ok(settings::differences(&begun, &now)?.iter().map(Difference::to_string).collect())
    }

    /// Seconds per training sample, including everything else that a run does; `None` if nothing was measured.
    pub fn seconds_per_sample(&self) -> Option<f64> {
        let measured = self.attempts();
        let seconds: f64 = measured.iter().map(|attempt| attempt.seconds).sum();
        let steps: u64 = measured.iter().map(|attempt| attempt.to_step.saturating_sub(attempt.from_step)).sum();
        if steps > 0 {
            return Some(seconds / (steps as f64 * self.config.train.samples_per_step() as f64));
        }
        let rates = self.steps().ok()?.into_iter().map(|step| step.images_per_second).filter(|rate| *rate > 0.0);
        let times: Vec<f64> = rates.map(|rate| 1.0 / rate).collect();
        (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64)
    }

    /// Training samples that remain.
    pub fn samples_left(&self) -> u64 {
        let done = match self.state() {
            State::Done => return 0,
            State::CutOff { step } => step,
            State::ToDo | State::Failed { .. } => 0,
        };
        self.config.train.steps.saturating_sub(done) * self.config.train.samples_per_step() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_folder::NewRun;
    use tempfile::TempDir;

    fn cell() -> (TempDir, Cell) {
        let scratch = TempDir::new().unwrap();
        let mut config = RunConfig::default();
        config.run.dir = scratch.path().join("seed-1");
        config.train.steps = 100;
        config.train.batch_size = 4;
        (scratch, Cell { variant: "A".into(), seed: 1, changes: vec![], config, methods: vec![] })
    }

    fn attempt(from_step: u64, to_step: u64, seconds: f64, end: End) -> Attempt {
        Attempt { from_step, to_step, seconds, end }
    }

    #[test]
    fn the_state_is_read_from_the_folder() {
        let (_guard, cell) = cell();
        assert_eq!((cell.state(), cell.samples_left()), (State::ToDo, 400));
        cell.prepare().unwrap();
        assert_eq!(cell.state(), State::ToDo);
        let new = NewRun::create(&cell.config).unwrap();
        let run = new.folder();
        assert_eq!(cell.state(), State::CutOff { step: 0 });
        run.checkpoints(1).save(60, [anyhow::Ok(("x", vec![1]))], None).unwrap();
        assert_eq!((cell.state(), cell.samples_left()), (State::CutOff { step: 60 }, 160));
        let failed = End::Failed { reason: "out of memory".into() };
        cell.note(&attempt(60, 70, 1.0, failed)).unwrap();
        assert_eq!(cell.state(), State::Failed { reason: "out of memory".into() });
        cell.note(&attempt(60, 80, 1.0, End::Interrupted)).unwrap();
        assert_eq!(cell.state(), State::CutOff { step: 60 });
        fs::write(run.summary(), "{}").unwrap();
        assert_eq!((cell.state(), cell.samples_left()), (State::Done, 0));
    }

    #[test]
    fn a_changed_configuration_is_listed_key_by_key() {
        let (_guard, mut cell) = cell();
        assert_eq!(cell.differences().unwrap(), Vec::<String>::new());
        cell.prepare().unwrap();
        cell.config.run.device = "cuda:1".into();
        assert_eq!(cell.differences().unwrap(), Vec::<String>::new());
        cell.config.train.steps = 7;
        cell.config.model.control = Some("c".into());
        assert_eq!(cell.differences().unwrap(), ["model.control: not set, now \"c\"", "train.steps: 100, now 7"]);
        // A file from an earlier version lacks a key.
        let text = fs::read_to_string(cell.config_file()).unwrap();
        fs::write(cell.config_file(), text.replace("max_bad_steps = 10\n", "")).unwrap();
        assert_eq!(cell.differences().unwrap().len(), 2);
    }

    #[test]
    fn the_time_per_sample_is_measured_or_unknown() {
        let (_guard, cell) = cell();
        assert_eq!(cell.seconds_per_sample(), None);
        cell.prepare().unwrap();
        let line = |step, images_per_second| StepMetrics { step, images_per_second, ..StepMetrics::default() };
        let mut log = metrics::MetricsLog::open(cell.run().metrics(), 0).unwrap();
        log.append(&line(0, 2.0)).unwrap();
        log.append(&line(1, 1.0)).unwrap();
        assert_eq!(cell.seconds_per_sample(), Some(0.75));
        cell.note(&attempt(0, 60, 300.0, End::Interrupted)).unwrap();
        cell.note(&attempt(60, 100, 500.0, End::Finished)).unwrap();
        assert_eq!(cell.seconds_per_sample(), Some(2.0));
    }
}
