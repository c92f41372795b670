//! What a model of other authors is to restore.

use spire_core::Picture;

/// One picture to restore.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The degraded picture.
    pub degraded: &'a Picture,
    /// Width and height of the restored picture.
    pub size: (usize, usize),
    /// The prompt that says what the picture shows; may be empty.
    pub semantic: &'a str,
    /// The seed of the noise.
    pub seed: u64,
}
