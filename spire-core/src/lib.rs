//! What the other crates stand on: pictures in memory and in PNG files, contact sheets, settings in TOML, progress bars,
//! interruptions, random streams, checksums, atomic writes, locks on folders and parallel loops. Nothing here depends on
//! Burn or on another crate of the
//! workspace.

pub mod atomic_write;
pub mod buffer;
pub mod checksum;
pub mod folder_lock;
pub mod interruption;
mod jpeg_end;
pub mod machine;
pub mod parallel;
pub mod picture;
pub mod png_text;
pub mod progress;
pub mod rng;
pub mod settings;
pub mod sheet;

pub use picture::{Picture, PictureError};
