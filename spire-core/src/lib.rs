//! The foundation of the other crates: pictures in memory and in PNG files, random streams, checksums, atomic writes
//! and parallel loops. Nothing here depends on Burn or on another crate of the workspace.

pub mod atomic_write;
pub mod buffer;
pub mod checksum;
mod jpeg_end;
pub mod parallel;
pub mod picture;
pub mod png_text;
pub mod rng;

pub use picture::{Picture, PictureError};
