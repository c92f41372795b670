//! The outputs of a running training: terminal, `metrics.jsonl`, TensorBoard and sheets of samples.
//!
//! Steps count from 0 in `metrics.jsonl` and in TensorBoard: step n is the one that starts when n steps are done. What is
//! measured right after it, such as the validation loss, belongs to it too.

use anyhow::{Context, Result};
use image::RgbImage;
use serde::Serialize;
use spire_core::progress::print;
use spire_core::settings;
use spire_core::sheet::save_png;

use super::hyperparameters;
use super::metrics::{MetricsLog, StepMetrics};
use super::progress::Progress;
use super::tensorboard::TensorBoard;
use crate::run_folder::RunFolder;

/// The open logs of a run, and the terminal.
pub struct Journal {
    folder: RunFolder,
    log: MetricsLog,
    board: TensorBoard,
    progress: Progress,
}

impl Journal {
    /// Opens the logs of a run of `total` steps whose next step is `next_step`. TensorBoard shows its configuration.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn open(folder: &RunFolder, total: u64, next_step: u64, config: &impl Serialize) -> Result<Self> {
        let log = MetricsLog::open(folder.metrics(), next_step)?;
        let mut board = TensorBoard::create(&folder.tensorboard(), next_step)?;
        board.text("config", &settings::resolved(config)?, next_step)?;
        board.hyperparameters(hyperparameters::flat(config)?, next_step)?;
        let progress = Progress::new(total, next_step, (total / 100).max(1));
        Ok(Self { folder: folder.clone(), log, board, progress })
    }

    /// Records a finished step.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.log.append(metrics)?;
        for (tag, value) in [
            ("train/loss", Some(metrics.loss)),
            ("train/learning_rate", Some(metrics.learning_rate)),
            ("train/grad_norm", Some(metrics.grad_norm)),
            ("train/images_per_second", Some(metrics.images_per_second)),
            ("train/data_wait", metrics.data_wait),
        ] {
            if let Some(value) = value {
                self.board.scalar(tag, value as f32, metrics.step)?;
            }
        }
        for (name, value) in &metrics.more {
            if let Some(value) = value {
                // validation_loss is validation/loss there.
                self.board.scalar(&name.replacen('_', "/", 1), *value as f32, metrics.step)?;
            }
        }
        self.progress.step(metrics);
        Ok(())
    }

    /// Records a sheet of held-out samples, drawn after step `step`. Its file is named by the number of steps done.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn sheet(&mut self, step: u64, sheet: &RgbImage) -> Result<()> {
        save_png(sheet, &self.folder.samples().join(format!("step-{:08}.png", step + 1)))?;
        self.board.image("samples", sheet, step)?;
        Ok(())
    }

    /// Records a sheet of the fixed pictures, drawn after step `step`. Its file is named as that of [`Self::sheet`].
    ///
    /// # Errors
    /// A file can't be written.
    pub fn fixed_pictures(&mut self, step: u64, sheet: &RgbImage) -> Result<()> {
        let folder = self.folder.validation();
        std::fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
        save_png(sheet, &folder.join(format!("step-{:08}.png", step + 1)))?;
        self.board.image("validation/pictures", sheet, step)?;
        Ok(())
    }

    /// Records figures of the evaluation at the end, which follows step `step`.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn evaluation<'a>(&mut self, step: u64, figures: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        for (name, value) in figures {
            self.board.scalar(&format!("evaluation/{name}"), value as f32, step)?;
        }
        Ok(())
    }

    /// Checks that the run folder still has what was recorded.
    ///
    /// # Errors
    /// As [`MetricsLog::check`].
    pub fn check(&self) -> Result<()> {
        Ok(self.log.check()?)
    }

    /// Prints a line on the terminal.
    pub fn print(&self, text: &str) {
        print(text);
    }

    /// Leaves the progress bar as it is: all steps are done.
    pub fn finish_steps(&self) {
        self.progress.finish();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.progress.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::logging::metrics;
    use crate::logging::tensorboard::tests::events;

    /// The points of a curve as TensorBoard reads them: a start hides that step and later ones in earlier files.
    fn curve(folder: &RunFolder, tag: &str) -> BTreeMap<i64, f32> {
        let mut files: Vec<_> =
            std::fs::read_dir(folder.tensorboard()).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let mut points = BTreeMap::new();
        for event in files.iter().flat_map(|file| events(file)) {
            if event.has_session_log() {
                points.retain(|step, _| *step < event.get_step());
            }
            for value in event.get_summary().get_value().iter().filter(|value| value.get_tag() == tag) {
                let there = points.insert(event.get_step(), value.get_simple_value());
                assert_eq!(there, None, "step {} is there twice", event.get_step());
            }
        }
        points
    }

    #[test]
    fn tensorboard_and_metrics_have_the_same_steps_after_a_resume() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(dir.path());
        let config = BTreeMap::from([("steps", 7)]);
        for (first, last) in [(0, 5), (3, 7)] {
            let mut journal = Journal::open(&folder, 7, first, &config).unwrap();
            for step in first..last {
                let mut metrics = StepMetrics { step, loss: (10 + step) as f64, ..StepMetrics::default() };
                if step == 2 || step == 6 {
                    metrics.more.insert("validation_loss".into(), Some(0.5));
                    metrics.more.insert("validation_psnr".into(), Some(20.0));
                }
                journal.step(&metrics).unwrap();
            }
        }
        let expected: BTreeMap<i64, f32> = (0..7).map(|step| (step, (10 + step) as f32)).collect();
        assert_eq!(curve(&folder, "train/loss"), expected);
        let logged = metrics::read(&folder.metrics()).unwrap();
        assert_eq!(
            logged.iter().map(|line| (line.step as i64, line.loss as f32)).collect::<BTreeMap<_, _>>(),
            expected
        );
        assert_eq!(curve(&folder, "validation/loss"), BTreeMap::from([(2, 0.5), (6, 0.5)]));
        assert_eq!(curve(&folder, "validation/psnr"), BTreeMap::from([(2, 20.0), (6, 20.0)]));
    }
}
