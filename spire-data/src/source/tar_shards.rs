//! What tar shards in files and in stores have in common.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::tar_index::Entry;
use super::{SampleError, Skipped};
use crate::order::ShardOrder;

/// The tar shards of a source, by number.
pub(super) trait TarShards: Send + Sync {
    /// The number of samples of each shard.
    fn lens(&self) -> Vec<usize>;

    /// What was skipped when the shards were opened.
    fn left_out(&self) -> Vec<Skipped> {
        Vec::new()
    }

    /// The name of a sample, [`Found::name`] if it can be found.
    fn name(&self, shard: usize, place: usize) -> String;

    /// What is held out from training together with this sample; see [`Source::group`](super::Source::group).
    fn group(&self, shard: usize, place: usize) -> String {
        self.name(shard, place)
    }

    /// Finds the sample at `place` of a shard.
    fn find(&self, shard: usize, place: usize) -> Result<Found, SampleError>;

    /// Sample `n` of the sequence of `seed` will be read soon, and those after it.
    fn prepare(&self, _order: &ShardOrder, _seed: u64, _n: u64) {}
}

/// A sample in its shard.
pub(super) struct Found {
    pub name: String,
    /// The path or address of the shard.
    pub path: PathBuf,
    pub entry: Entry,
    /// The shard's bytes.
    pub bytes: Arc<dyn ReadAt>,
}

/// Bytes that are read at any position.
pub(super) trait ReadAt {
    /// `length` bytes from `offset` on; fewer if there are no more.
    fn read_at(&self, offset: u64, length: u64) -> io::Result<Vec<u8>>;
}
