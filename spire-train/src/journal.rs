//! What a run says of itself as it goes: a line on the terminal, `metrics.jsonl`, TensorBoard, sheets of samples.

use anyhow::Result;
use image::RgbImage;

use crate::metrics_log::{MetricsLog, StepMetrics};
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::sheet::save_png;
use crate::tensorboard::TensorBoard;

/// The open files of a run, and its terminal.
pub struct Journal {
    folder: RunFolder,
    log: MetricsLog,
    board: TensorBoard,
    progress: Progress,
}

impl Journal {
    /// Of a run of `total` steps that is about to take step `next_step`.
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

    /// The step just done.
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

    /// The validation after `steps` steps.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn validation(&mut self, steps: u64, loss: f64, sheet: &RgbImage) -> Result<()> {
        save_png(sheet, &self.folder.samples().join(format!("step-{steps:08}.png")))?;
        self.board.image("samples", sheet, steps)?;
        self.board.scalar("validation/loss", loss as f32, steps)?;
        Ok(())
    }

    /// A word on the terminal.
    pub fn say(&self, text: &str) {
        self.progress.say(text);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.progress.finish();
    }
}
