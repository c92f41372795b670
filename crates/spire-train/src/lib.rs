//! Training: run configuration, pretraining of the small prior ([`pretrain`]), the control branch's trainer, checkpoints and logs.

pub mod checkpoint;
pub mod ema;
pub mod learning_rate;
pub mod metrics_log;
pub mod optimizer;
pub mod pretrain;
pub mod progress;
pub mod settings;
pub mod sheet;
pub mod tensorboard;
