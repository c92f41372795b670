//! Training of SPIRE's control branch.
//!
//! [`config`] is a run's configuration, [`training`] the training loop, [`run_folder`] what a run writes.
//! [`distributed`] trains on several GPUs, [`sweep`] trains variants of a configuration, [`speed`] counts and measures
//! the cost of a run. [`encoding`] computes latents and text states before training. [`pretrain`] made the small text-to-image model that the project ships.

mod checkpoint;
pub mod config;
pub mod distributed;
pub mod encoding;
mod logging;
mod optim;
pub mod pretrain;
pub mod run_folder;
pub mod speed;
mod starts;
pub mod sweep;
pub mod training;
