//! One run of a sweep: what lies in its folder, and how far it is.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use spire_eval::evaluation::MethodConfig;
use toml::{Table, Value};

use crate::checkpoint::write_atomic;
use crate::config::RunConfig;
use crate::metrics_log::{self, StepMetrics};
use crate::run_folder::RunFolder;
use crate::settings;

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
    /// How its run restores where it is measured, each making a row; a single one may be without a name.
    pub methods: Vec<MethodConfig>,
}

/// How far a cell is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Nothing has been trained.
    ToDo,
    /// It ended before its end.
    CutOff {
        /// Where it goes on: the step of its newest sound checkpoint, 0 without one.
        step: u64,
    },
    /// Its training ended with an error.
    Failed {
        /// The error.
        reason: String,
    },
    /// Its figures are there.
    Done,
}

/// One process that trained a cell: a line of `attempts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Steps that were done when it began.
    pub from_step: u64,
    /// Steps that were done when it ended.
    pub to_step: u64,
    /// From its start to its end.
    pub seconds: f64,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
}

/// How an [`Attempt`] ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// All steps are done and the figures are written.
    Finished,
    /// It was asked to stop.
    Interrupted,
    /// With an error.
    Failed {
        /// The error.
        reason: String,
    },
}

/// The row of a variant that restores by a method.
pub fn row(variant: &str, method: &str) -> String {
    format!("{variant}, {method}")
}

impl Cell {
    /// "Add, seed 1"
    pub fn name(&self) -> String {
        format!("{}, seed {}", self.variant, self.seed)
    }

    /// The rows of its variant in the table, one for each of its methods.
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

    /// The run that the trainer makes in it.
    pub fn run(&self) -> RunFolder {
        RunFolder::at(&self.config.run.dir)
    }

    /// The configuration that its training starts from. (`config.toml` beside it is the trainer's.)
    pub fn config_file(&self) -> PathBuf {
        self.file("cell.toml")
    }

    /// What its processes said.
    pub fn log(&self) -> PathBuf {
        self.file("log.txt")
    }

    /// The command of each of its processes, a line each.
    pub fn commands(&self) -> PathBuf {
        self.file("command.txt")
    }

    fn attempts_file(&self) -> PathBuf {
        self.file("attempts.jsonl")
    }

    /// How far it is.
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

    /// Steps up to its newest sound checkpoint. Where all are damaged, the trainer says so.
    fn checkpoint_step(&self) -> u64 {
        self.run().checkpoints(1).latest().ok().flatten().map_or(0, |checkpoint| checkpoint.step)
    }

    /// The processes that trained it until now.
    pub fn attempts(&self) -> Vec<Attempt> {
        let text = fs::read_to_string(self.attempts_file()).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Keeps what became of a process.
    pub fn note(&self, attempt: &Attempt) -> Result<()> {
        let path = self.attempts_file();
        let line = format!("{}\n", serde_json::to_string(attempt)?);
        let append = || File::options().create(true).append(true).open(&path)?.write_all(line.as_bytes());
        append().with_context(|| format!("can't write {}", path.display()))
    }

    /// Every step of its log, in order.
    pub fn steps(&self) -> Result<Vec<StepMetrics>> {
        Ok(metrics_log::read(&self.run().metrics())?)
    }

    /// Makes its folder, with the configuration.
    pub fn prepare(&self) -> Result<()> {
        let dir = &self.config.run.dir;
        fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
        if !self.config_file().exists() {
            write_atomic(&self.config_file(), settings::resolved(&self.config)?.as_bytes())?;
        }
        Ok(())
    }

    /// What sets the configuration that it was begun with apart from this one, `key: THEN, now NOW`. Where it is written and
    /// on what device it is computed does not count.
    ///
    /// # Errors
    /// The configuration that it was begun with can't be read.
    pub fn differences(&self) -> Result<Vec<String>> {
        if !self.config_file().is_file() {
            return Ok(vec![]);
        }
        // Read as settings, so that a key that came with a later version has its default.
        let begun: RunConfig = settings::load(&self.config_file(), &[])?;
        let [begun, now] = [&begun, &self.config].map(|config| {
            let mut config = config.clone();
            (config.run.dir, config.run.device) = Default::default();
            Table::try_from(&config)
        });
        Ok(differences(&Value::Table(begun?), &Value::Table(now?), ""))
    }

    /// Seconds that a training sample took, all else that a run does included; `None` where nothing was measured.
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

    /// Samples that are still to be trained on.
    pub fn samples_left(&self) -> u64 {
        let done = match self.state() {
            State::Done => return 0,
            State::CutOff { step } => step,
            State::ToDo | State::Failed { .. } => 0,
        };
        self.config.train.steps.saturating_sub(done) * self.config.train.samples_per_step() as u64
    }
}

fn differences(then: &Value, now: &Value, key: &str) -> Vec<String> {
    match (then, now) {
        (Value::Table(then), Value::Table(now)) => {
            let mut keys: Vec<&String> = then.keys().chain(now.keys()).collect();
            keys.sort();
            keys.dedup();
            let below = |inner: &String| {
                let key = if key.is_empty() { inner.clone() } else { format!("{key}.{inner}") };
                match (then.get(inner), now.get(inner)) {
                    (Some(then), Some(now)) => differences(then, now, &key),
                    (Some(then), None) => vec![format!("{key}: {then}, now not set")],
                    (None, Some(now)) => vec![format!("{key}: not set, now {now}")],
                    (None, None) => vec![],
                }
            };
            keys.into_iter().flat_map(below).collect()
        }
        _ if then == now => vec![],
        _ => vec![format!("{key}: {then}, now {now}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let run = RunFolder::create(&cell.config).unwrap();
        assert_eq!(cell.state(), State::CutOff { step: 0 });
        run.checkpoints(1).save(60, [Ok::<_, crate::checkpoint::CheckpointError>(("x", vec![1]))], None).unwrap();
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
    fn a_changed_configuration_is_told_key_by_key() {
        let (_guard, mut cell) = cell();
        assert_eq!(cell.differences().unwrap(), Vec::<String>::new());
        cell.prepare().unwrap();
        cell.config.run.device = "cuda:1".into();
        assert_eq!(cell.differences().unwrap(), Vec::<String>::new());
        cell.config.train.steps = 7;
        cell.config.model.control = Some("c".into());
        assert_eq!(cell.differences().unwrap(), ["model.control: not set, now \"c\"", "train.steps: 100, now 7"]);
        // A file of an earlier version lacks a key.
        let text = fs::read_to_string(cell.config_file()).unwrap();
        fs::write(cell.config_file(), text.replace("max_bad_steps = 10\n", "")).unwrap();
        assert_eq!(cell.differences().unwrap().len(), 2);
    }

    #[test]
    fn the_time_of_a_sample_is_measured_or_unknown() {
        let (_guard, cell) = cell();
        assert_eq!(cell.seconds_per_sample(), None);
        cell.prepare().unwrap();
        let line = |step, images_per_second| StepMetrics { step, images_per_second, ..StepMetrics::default() };
        let mut log = metrics_log::MetricsLog::open(cell.run().metrics(), 0).unwrap();
        log.append(&line(0, 2.0)).unwrap();
        log.append(&line(1, 1.0)).unwrap();
        assert_eq!(cell.seconds_per_sample(), Some(0.75));
        cell.note(&attempt(0, 60, 300.0, End::Interrupted)).unwrap();
        cell.note(&attempt(60, 100, 500.0, End::Finished)).unwrap();
        assert_eq!(cell.seconds_per_sample(), Some(2.0));
    }
}
