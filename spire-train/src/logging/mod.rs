//! The logs of a run: `metrics.jsonl`, TensorBoard, the terminal and samples.

mod hyperparameters;
pub mod journal;
pub mod memory;
pub mod metrics;
pub mod progress;
mod records;
pub mod tensorboard;
