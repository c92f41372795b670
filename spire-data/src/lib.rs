//! Samples for text-driven image restoration: where pictures and captions come from ([`source`], [`world`]), how they
//! are degraded ([`degrade`]), which restoration prompt undoes a degradation ([`prompt`]), and in which order they reach
//! the trainer ([`loader`]). Nothing here knows of tensors.

pub mod benchmark;
pub mod buffer;
pub mod checksum;
pub mod degrade;
mod jpeg_end;
pub mod loader;
pub mod order;
pub mod parallel;
pub mod picture;
pub mod png_text;
pub mod prompt;
pub mod rng;
pub mod source;
pub mod stats;
pub mod world;

pub use picture::{Picture, PictureError};
