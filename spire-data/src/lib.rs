//! Samples for text-driven image restoration: where pictures and captions come from ([`source`], [`world`]), how they
//! are degraded ([`degrade`]), which restoration prompt undoes a degradation ([`prompt`]), and in which order they reach
//! the trainer ([`loader`]). Nothing here knows of tensors.

pub mod benchmark;
pub mod degrade;
pub mod loader;
pub mod order;
pub mod prompt;
pub mod source;
pub mod stats;
pub mod world;

pub use spire_core::{Picture, PictureError, buffer, checksum, parallel, picture, png_text, rng};
