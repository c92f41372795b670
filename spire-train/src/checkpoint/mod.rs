//! Checkpoints that survive a kill at any moment. Each is a directory that one rename makes visible when it is
//! complete. Its manifest has checksums, which are verified when files are read.
//!
//! ```text
//! checkpoints/
//!   step-00000100/   manifest.json, training.safetensors, …
//!   step-00000200/
//!   .tmp-step-00000300/   incomplete: being written, or left by a kill
//! ```
//!
//! | file | what |
//! |---|---|
//! | `saved.rs` | one checkpoint and its manifest |
//! | `store.rs` | the checkpoints of a run: writing, choosing, removing |
//! | `retention.rs` | which ones are kept |
//! | `guard.rs` | which checkpoints of a running training are good |

mod error;
mod guard;
mod retention;
mod saved;
mod store;

pub(crate) use guard::Guard;
pub(crate) use saved::Checkpoint;
pub(crate) use store::CheckpointStore;
