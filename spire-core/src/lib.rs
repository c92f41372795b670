//! What the other crates stand on: pictures in memory and in files, contact sheets, settings in TOML, progress bars,
//! messages, interruptions, random streams, checksums, atomic writes, bounded reads, locks on folders, parallel loops, and
//! the parts of several processes.
//! Nothing here depends on Burn or on another crate of the workspace.

pub mod atomic_write;
pub mod bounded_read;
pub mod buffer;
pub mod checksum;
mod exif;
pub mod folder_lock;
pub mod interruption;
mod jpeg_end;
pub mod machine;
pub mod message;
pub mod parallel;
pub mod picture;
pub mod picture_file;
pub mod png_text;
pub mod progress;
pub mod rng;
pub mod settings;
pub mod shard;
pub mod sheet;

pub use picture::{Picture, PictureError};
