//! `metrics.jsonl`: one line of JSON per training step, in the order of the steps, also after kills and resumes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use spire_core::atomic_write::{WriteError, write_atomic};

/// The metrics of one step. Numbers have enough digits to read back as the same `f64`. NaN and infinity become `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimiser step, from 0.
    pub step: u64,
    /// Mean training loss over the step's batch.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// The learning rate of the step.
    #[serde(deserialize_with = "null_is_nan")]
    pub learning_rate: f64,
    /// Global L2 norm of the gradients before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Training images per second, over this step.
    #[serde(deserialize_with = "null_is_nan")]
    pub images_per_second: f64,
    /// Share of the step's time that was spent waiting for samples, from 0 to 1; `None` if it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_wait: Option<f64>,
    /// Other metrics that only some steps have, such as `validation_loss`.
    #[serde(flatten)]
    pub more: BTreeMap<String, Option<f64>>,
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Why the log could not be written or read.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// An operating system error.
    #[error("{path}: {source}")]
    Io {
        /// The log.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Something else removed or changed the log.
    #[error(
        "{path} was removed or changed by something else while the run went on, so the run stops; if its config.toml is still \
         there, continue it from its last checkpoint with --resume"
    )]
    Changed {
        /// The log.
        path: PathBuf,
    },
    /// The log could not be shortened.
    #[error(transparent)]
    Rewrite(#[from] WriteError),
}

/// The log of one run, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    /// Bytes of the file, as far as this process wrote it.
    bytes: u64,
}

impl MetricsLog {
    /// Opens the log of a run whose next step is `next_step`, or creates it. Lines of that step and later steps are
    /// removed, and so is an incomplete last line that a kill left. A warning says if earlier steps are missing.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub fn open(path: impl Into<PathBuf>, next_step: u64) -> Result<Self, MetricsError> {
        let path = path.into();
        let io = |source| MetricsError::Io { path: path.clone(), source };
        let text = read_or_empty(&path).map_err(io)?;
        let kept: String = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter(|line| parse(line).is_some_and(|metrics| metrics.step < next_step))
            .collect();
        if kept != text {
            write_atomic(&path, kept.as_bytes())?;
        }
        let (there, done) = (kept.lines().count() as u64, next_step);
        if there < done {
            tracing::warn!(
                "{} has {there} of the {done} steps that are done: it was damaged or removed. The figures of the others are \
                 lost; the run itself goes on from its checkpoint",
                path.display()
            );
        }
        let file = File::options().create(true).append(true).open(&path).map_err(io)?;
        Ok(Self { path, file, bytes: kept.len() as u64 })
    }

    /// Appends one line with a single write, so that a kill of this process does not lose it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), MetricsError> {
        let io = |source: io::Error| MetricsError::Io { path: self.path.clone(), source };
        let mut line = serde_json::to_string(metrics).map_err(|error| io(error.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(io)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Checks that the file in the run folder is still the one that this process writes, with all of its lines: an open file
    /// takes lines even after the folder was removed.
    ///
    /// # Errors
    /// It was removed or changed.
    pub fn check(&self) -> Result<(), MetricsError> {
        match fs::metadata(&self.path) {
            Ok(found) if found.len() == self.bytes => Ok(()),
            _ => Err(MetricsError::Changed { path: self.path.clone() }),
        }
    }
}

/// All complete lines of the log at `path`, in order; empty if the file does not exist.
///
/// # Errors
/// The file can't be read.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>, MetricsError> {
    let text = read_or_empty(path).map_err(|source| MetricsError::Io { path: path.to_owned(), source })?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<StepMetrics> {
    serde_json::from_str(line).ok()
}

fn read_or_empty(path: &Path) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn metrics(step: u64, loss: f64) -> StepMetrics {
        StepMetrics { step, loss, learning_rate: 1e-4, grad_norm: 0.5, images_per_second: 12.25, ..Default::default() }
    }

    fn log_path() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        (dir, path)
    }

    #[test]
    fn one_line_per_step_with_the_documented_keys() {
        let (_guard, path) = log_path();
        let mut log = MetricsLog::open(&path, 0).unwrap();
        log.append(&StepMetrics { data_wait: Some(0.015), ..metrics(0, f64::from(0.1_f32)) }).unwrap();
        log.append(&StepMetrics { more: [("psnr".to_owned(), Some(21.5))].into(), ..metrics(1, 0.25) }).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"step\":0,\"loss\":0.10000000149011612,\"learning_rate\":0.0001,\"grad_norm\":0.5,\"images_per_second\":12.25,\"data_wait\":0.015}\n\
             {\"step\":1,\"loss\":0.25,\"learning_rate\":0.0001,\"grad_norm\":0.5,\"images_per_second\":12.25,\"psnr\":21.5}\n"
        );
        assert_eq!(read(&path).unwrap()[1].more["psnr"], Some(21.5));
    }

    #[test]
    fn a_loss_of_nan_is_null_and_reads_back_as_nan() {
        let (_guard, path) = log_path();
        MetricsLog::open(&path, 0).unwrap().append(&metrics(0, f64::NAN)).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("\"loss\":null"));
        assert!(read(&path).unwrap()[0].loss.is_nan());
    }

    #[test]
    fn a_resumed_log_equals_one_that_was_never_interrupted() {
        let (_guard, path) = log_path();
        let mut log = MetricsLog::open(&path, 0).unwrap();
        for step in 0..6 {
            log.append(&metrics(step, 1.0 / (step + 3) as f64)).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        drop(log);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":6,\"lo").unwrap();

        let mut log = MetricsLog::open(&path, 4).unwrap();
        assert_eq!(read(&path).unwrap().len(), 4);
        for step in 4..6 {
            log.append(&metrics(step, 1.0 / (step + 3) as f64)).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_log_that_is_removed_or_emptied_is_noticed() {
        let (_guard, path) = log_path();
        let mut log = MetricsLog::open(&path, 0).unwrap();
        log.append(&metrics(0, 0.5)).unwrap();
        log.check().unwrap();
        fs::write(&path, "").unwrap();
        log.append(&metrics(1, 0.5)).unwrap();
        assert!(log.check().unwrap_err().to_string().contains("metrics.jsonl was removed or changed"));
        let mut log = MetricsLog::open(&path, 2).unwrap();
        log.append(&metrics(2, 0.5)).unwrap();
        log.check().unwrap();
        fs::remove_file(&path).unwrap();
        log.append(&metrics(3, 0.5)).unwrap();
        assert!(log.check().is_err());
    }

    #[test]
    fn a_torn_last_line_is_dropped_even_if_it_is_valid_json() {
        let (_guard, path) = log_path();
        let line = serde_json::to_string(&metrics(0, 1.0)).unwrap();
        fs::write(&path, &line).unwrap();
        MetricsLog::open(&path, 9).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn lines_that_do_not_parse_are_dropped() {
        let (_guard, path) = log_path();
        fs::write(&path, b"\xff\xfe\n[1]\n{}\n").unwrap();
        MetricsLog::open(&path, 9).unwrap().append(&metrics(9, 1.0)).unwrap();
        assert_eq!(read(&path).unwrap(), [metrics(9, 1.0)]);
    }

    proptest! {
        #[test]
        fn the_printed_loss_reads_back_bit_for_bit(loss in any::<f64>().prop_filter("finite", |loss| loss.is_finite())) {
            let line = serde_json::to_string(&metrics(0, loss)).unwrap();
            let printed = line.split("\"loss\":").nth(1).unwrap().split(',').next().unwrap();
            prop_assert_eq!(printed.parse::<f64>().unwrap().to_bits(), loss.to_bits());
        }
    }
}
