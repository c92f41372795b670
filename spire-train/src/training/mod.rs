//! Training of the control branch (paper sections 3.3, 3.4 and 4.1).
//!
//! | file | what |
//! |---|---|
//! | `launch.rs` | how a run begins and continues: folder, lock, checkpoint |
//! | `train.rs` | the training loop: steps, validation, checkpoints |
//! | `state.rs` | what changes during training, and how it is saved |
//! | `step.rs` | one optimiser step |
//! | `objective.rs` | the loss (paper Eq. 1) |
//! | `latents.rs` | latents of clean pictures, computed beforehand or kept |
//! | `held_out.rs`, `validation.rs`, `quality.rs` | held-out pictures: restored, their loss, their figures at the end |
//! | `figures.rs`, `fixed_pictures.rs` | figures and pictures while a run trains |
//! | `model_card.rs` | the README.md of the trained branch |
//! | `opening.rs`, `summary.rs` | what a run says at its start; `summary.json` |
//! | `start.rs` | models on disk, and the initial control branch |
//!
//! Everything random in a step depends on the seed and on the sample's number alone. A run that continues from a
//! checkpoint therefore repeats, bit for bit, what the uninterrupted run would have done.

mod figures;
mod fixed_pictures;
pub(crate) mod held_out;
mod latents;
mod launch;
mod model_card;
pub(crate) mod objective;
mod opening;
mod quality;
pub(crate) mod start;
pub(crate) mod state;
mod step;
mod summary;
mod train;
mod validation;

pub use launch::{CheckpointChoice, Continuation, resume, train};
pub use train::Outcome;
