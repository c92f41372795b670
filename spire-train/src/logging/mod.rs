//! The logs of a run: `metrics.jsonl`, TensorBoard, the terminal and samples.

pub mod journal;
pub mod memory;
pub mod metrics;
pub mod progress;
pub mod tensorboard;
