//! The playground: a web page and an interface for programs that restore pictures with trained models (`spire serve`).
//!
//! | module | content |
//! |---|---|
//! | [`models`] | the loaded models, and what clients may know of them |
//! | `jobs` | what a client orders, the fair queue, the store of results |
//! | `worker` | the thread that owns the models and restores, one picture at a time |
//! | `web` | routes, uploads, access, the page |
//!
//! One thread computes; all others only wait for the network. Pictures are kept in memory, within bounds, until they expire.

mod jobs;
pub mod models;
mod web;
mod worker;

pub use web::{ServeSettings, serve};
