//! The outputs of a running training: terminal, `metrics.jsonl`, TensorBoard and sheets of samples.

use anyhow::Result;
use image::RgbImage;
use spire_core::progress::print;
use spire_core::sheet::save_png;

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
    /// Opens the logs of a run of `total` steps whose next step is `next_step`.
    ///
    /// # Errors
    /// A file can't be read or written.
    pub fn open(folder: &RunFolder, total: u64, next_step: u64) -> Result<Self> {
        Ok(Self {
            folder: folder.clone(),
            log: MetricsLog::open(folder.metrics(), next_step)?,
            board: TensorBoard::create(&folder.tensorboard(), next_step)?,
            progress: Progress::new(total, next_step, (total / 100).max(1)),
        })
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
                self.board.scalar(tag, value as f32, metrics.step + 1)?;
            }
        }
        self.progress.step(metrics);
        Ok(())
    }

    /// Records a validation after `steps` steps.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn validation(&mut self, steps: u64, loss: f64, sheet: &RgbImage) -> Result<()> {
        save_png(sheet, &self.folder.samples().join(format!("step-{steps:08}.png")))?;
        self.board.image("samples", sheet, steps)?;
        self.board.scalar("validation/loss", loss as f32, steps)?;
        Ok(())
    }

    /// Prints a line on the terminal.
    pub fn print(&self, text: &str) {
        print(text);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.progress.finish();
    }
}
