//! Training data for text-driven image restoration: sources of pictures and captions ([`source`], [`world`]),
//! captions by a model ([`captioning`]), degradations ([`degrade`]), restoration prompts ([`prompt`]), the order of samples
//! ([`order`]), their loader ([`loader`]) and what was computed of them before training ([`encoded`]). Nothing here depends on
//! tensors.

pub mod captioning;
mod config;
mod crop;
pub mod degrade;
pub mod encoded;
pub mod loader;
pub mod order;
pub mod prompt;
pub mod samples;
pub mod source;
pub mod stats;
pub mod testset;
pub mod world;

pub use spire_core::{Picture, PictureError, buffer, checksum, parallel, picture, png_text, rng};
