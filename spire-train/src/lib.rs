//! Training: run configuration, pretraining of the small prior ([`pretrain`]), the control branch's trainer, checkpoints and logs.

pub mod bench;
mod benchmark_sheet;
pub mod benchmarking;
pub mod checkpoint;
pub mod config;
pub mod dry_run;
pub mod ema;
pub mod evaluate;
pub mod journal;
pub mod learning_rate;
pub mod memory;
pub mod methods;
pub mod metrics_log;
pub mod optimizer;
pub mod parallel;
pub mod pretrain;
pub mod progress;
pub mod ranks;
pub mod restore_files;
pub mod run_folder;
pub mod settings;
pub mod sheet;
pub mod sweep;
pub mod tensorboard;
pub mod trained_model;
pub mod trainer;
pub mod walk;
