//! Tar shards in a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Objects;
use super::cache::Cache;
use super::stream::{End, Stream};
use crate::order::ShardOrder;
use crate::source::prefetch::NewBlocks;
use crate::source::shards::{Reading, Recent};
use crate::source::sizes::{self, LIST, MOST_BYTES};
use crate::source::tar_index::Extensions;
use crate::source::tar_shards::{Found, TarShards};
use crate::source::{SampleError, SourceError};

/// Tar shards in a store.
pub(super) struct RemoteShards {
    objects: Arc<Objects>,
    addresses: Vec<String>,
    extensions: Extensions,
    lens: Vec<usize>,
    /// Whether every shard is only taken to have so many samples.
    assumed: bool,
    ahead: usize,
    cache: Option<Arc<Cache>>,
    streams: Recent<Result<Arc<Stream>, String>>,
    blocks: NewBlocks,
    /// Whether it was said that a shard has another number of samples.
    other_number: Arc<AtomicBool>,
}

impl RemoteShards {
    /// Finds out which shards there are and how many samples each has.
    pub fn open(pattern: &str, extensions: Extensions, reading: &Reading) -> Result<Self, SourceError> {
        let objects = Arc::new(Objects::default());
        let addresses = objects.expand(pattern)?;
        let cache = reading.cache_megabytes.map(Cache::open).transpose()?.map(Arc::new);
        let published = match reading.samples_per_shard {
            Some(_) => None,
            None => sizes::published(&addresses, |list| objects.small(list, MOST_BYTES))?,
        };
        let mut shards = Self {
            objects,
            extensions,
            assumed: published.is_none(),
            lens: vec![],
            ahead: reading.shards_ahead,
            cache,
            streams: Recent::new(1),
            blocks: NewBlocks::default(),
            other_number: Arc::default(),
            addresses,
        };
        shards.lens = match (published, reading.samples_per_shard) {
            (Some(lens), _) => lens,
            (None, Some(len)) => vec![len; shards.addresses.len()],
            (None, None) => vec![shards.first_len()?; shards.addresses.len()],
        };
        // The shards of three blocks: a thread may still be in the one before. And those ahead, and one that a block ends in.
        let mean = (shards.lens.iter().sum::<usize>() / shards.lens.len().max(1)).max(1);
        let of_block = reading.shuffle_buffer.div_ceil(mean).max(reading.lanes);
        let streams = Recent::new(3 * of_block + reading.lanes * (reading.shards_ahead + 1));
        let counted = std::mem::replace(&mut shards.streams, streams);
        counted.into_items().for_each(|(shard, stream)| shards.streams.with(shard, || stream, |_| ()));
        Ok(shards)
    }

    /// The number of samples of the first shard.
    fn first_len(&self) -> Result<usize, SourceError> {
        let address = self.addresses[0].clone();
        tracing::info!(
            address,
            "there is no {LIST} beside the shards: the first is read, and the others are taken to have as many samples"
        );
        let failed = |message| SourceError::Store { address: address.clone(), message };
        let (len, End { damage, .. }) = self.stream(0).map_err(failed)?.whole();
        match damage {
            Some(damage) => Err(failed(format!("after {len} samples: {damage}"))),
            None if len == 0 => Err(failed("it has no samples".to_owned())),
            None => Ok(len),
        }
    }

    fn stream(&self, shard: usize) -> Result<Arc<Stream>, String> {
        let address = &self.addresses[shard];
        let assumed = self.lens.get(shard).copied().filter(|_| self.assumed);
        let start = || {
            let other_number = Arc::clone(&self.other_number);
            let named = address.clone();
            let report = move |len: usize, end: &End| match (&end.damage, assumed) {
                (Some(reason), _) => {
                    tracing::warn!(shard = named, reason, "skipping a shard's samples after the first {len}");
                }
                (None, Some(assumed)) if len != assumed && !other_number.swap(true, Ordering::Relaxed) => {
                    let effect = if len > assumed { "the others are never read" } else { "some are read twice a pass" };
                    tracing::warn!(
                        shard = named,
                        "it has {len} samples, and every shard is taken to have {assumed}: {effect}. Put a {LIST} beside the shards, \
                         or set data.source.samples_per_shard to the largest number"
                    );
                }
                _ => {}
            };
            let stream = Stream::start(&self.objects, address, &self.extensions, self.cache.as_ref(), report);
            stream.map(Arc::new).map_err(|error| format!("no thread could be started: {error}"))
        };
        let stream = self.streams.with(shard, start, Clone::clone);
        if stream.as_ref().map_or(true, |stream| stream.may_be_asked_again()) {
            self.streams.forget(shard);
        }
        stream
    }
}

impl TarShards for RemoteShards {
    fn lens(&self) -> Vec<usize> {
        self.lens.clone()
    }

    fn name(&self, shard: usize, place: usize) -> String {
        format!("{}/{place}", self.addresses[shard])
    }

    /// A shard is held out as a whole: otherwise few held-out samples would need all shards.
    fn group(&self, shard: usize, _place: usize) -> String {
        self.addresses[shard].clone()
    }

    fn find(&self, shard: usize, place: usize) -> Result<Found, SampleError> {
        let path = PathBuf::from(&self.addresses[shard]);
        let failed = |message: String| SampleError::Io { path: path.clone(), source: io::Error::other(message) };
        let stream = self.stream(shard).map_err(failed)?;
        let entry = stream.sample(place).or_else(|(len, End { damage, .. })| match damage {
            None if self.assumed && len > 0 => {
                stream.sample(place % len).map_err(|_| failed("it has changed".to_owned()))
            }
            None => Err(failed(format!("it has {len} samples, and {LIST} says {}", self.lens[shard]))),
            Some(damage) => Err(failed(format!("after {len} samples: {damage}"))),
        })?;
        Ok(Found { name: self.name(shard, place), path: path.clone(), entry, bytes: stream })
    }

    fn prepare(&self, order: &ShardOrder, seed: u64, n: u64) {
        if !self.blocks.is_new(order, n) {
            return;
        }
        for shard in order.upcoming(seed, n, self.ahead) {
            // A failure shows when a sample is read.
            let _ = self.stream(shard);
        }
    }
}
