//! Samples for text-driven image restoration: where pictures and captions come from ([`source`], [`world`]), how they
//! are degraded ([`degrade`]), which restoration prompt undoes a degradation ([`prompt`]), and in which order they reach
//! the trainer ([`loader`]). Nothing here knows of tensors.

pub mod degrade;
pub mod loader;
pub mod order;
pub mod prompt;
pub mod source;
pub mod stats;
pub mod testset;
pub mod world;

/// Former name of [`testset`].
pub mod benchmark {
    pub use crate::testset::*;
    pub use crate::testset::{TestSet as Benchmark, TestSetError as BenchmarkError};
}

pub use spire_core::{Picture, PictureError, buffer, checksum, parallel, picture, png_text, rng};
