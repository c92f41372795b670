//! The outputs of a running training: terminal, `metrics.jsonl`, TensorBoard and sheets of samples.
//!
//! Steps count from 0 in `metrics.jsonl` and in TensorBoard: step n is the one that starts when n steps are done. What is
//! measured right after it, such as the validation loss, belongs to it too.

use anyhow::Result;
use image::RgbImage;
use serde::Serialize;
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

    /// Prints a line on the terminal.
    pub fn print(&self, text: &str) {
        self.progress.print(text);
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
