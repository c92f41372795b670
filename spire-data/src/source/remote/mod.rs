//! Shards in object stores and on web servers, through the crate `object_store` (cargo feature `object-store`).
//!
//! # How tar shards are read
//! A shard is fetched by one request, front to back, into a file, and its index is built from the bytes as they pass. A sample
//! can be read as soon as its bytes have arrived; from then on a shard is read as one on a disk is. So no index pass comes before
//! the training, and the order stays that of [`ShardOrder`](crate::order::ShardOrder): the n-th sample is a function of the seed
//! and n, and a run resumes at n without the shards before. The alternative, to walk the headers by range requests and to fetch
//! each sample on its own, needs several requests a sample: at 20 ms each that is slower than a disk by orders of magnitude.
//!
//! The order needs the number of samples of each shard before they are read. It comes from a `sizes.json` beside the
//! shards ([`sizes`](super::sizes)), or every shard is taken to have as many as the first.
//!
//! # How Parquet is read
//! Of each file the footer is fetched when it is opened, and later the columns that are used of one row group at a time.
//!
//! # What is bounded
//! The order says which shards come next ([`ShardOrder::upcoming`](crate::order::ShardOrder::upcoming)). Those of the current and the
//! next shuffle block are fetched, and a few more; what was used longest ago goes. Tar shards are on the disk: in a file
//! without a name that vanishes with the process, or in a cache of bounded size. Row groups are in memory.
//!
//! # What fails
//! Requests are repeated with growing pauses. A transfer that breaks off goes on where it stopped. When that does not help, the
//! samples of the shard count as broken for a minute, as those of a lost file do, and others take their place.

#[cfg(feature = "object-store")]
mod cache;
#[cfg(feature = "object-store")]
mod objects;
#[cfg(feature = "object-store")]
mod remote_shards;
#[cfg(feature = "object-store")]
mod remote_table;
#[cfg(feature = "object-store")]
mod stream;

use super::SourceError;
use std::time::Duration;

use super::shards::Reading;
use super::tar_index::Extensions;
use super::tar_shards::TarShards;

#[cfg(feature = "object-store")]
use objects::Objects;
#[cfg(feature = "object-store")]
pub(super) use remote_table::{RemoteTable, tables};

/// What a store did not give is asked for again after this time.
pub(super) const ASKED_AGAIN: Duration = Duration::from_secs(60);

/// The beginnings of addresses.
const SCHEMES: [&str; 8] = ["s3://", "s3a://", "gs://", "az://", "abfs://", "abfss://", "https://", "http://"];

/// Whether a pattern lists objects in a store, not files.
pub(super) fn is_address(pattern: &str) -> bool {
    SCHEMES.iter().any(|scheme| pattern.starts_with(scheme))
}

/// Checks that no key is set that is for tar shards in a store.
pub(super) fn check_others(reading: &Reading) -> Result<(), SourceError> {
    let Reading { samples_per_shard, cache_megabytes, .. } = reading;
    let set = [("samples_per_shard", samples_per_shard.is_some()), ("cache_megabytes", cache_megabytes.is_some())];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        Some((key, _)) => Err(SourceError::StoreOnly { key }),
        None => Ok(()),
    }
}

/// Opens the tar shards of a pattern of addresses.
#[cfg(feature = "object-store")]
pub(super) fn open_tar(
    pattern: &str,
    extensions: Extensions,
    reading: &Reading,
) -> Result<Box<dyn TarShards>, SourceError> {
    Ok(Box::new(remote_shards::RemoteShards::open(pattern, extensions, reading)?))
}

/// Says what a build that can read them is made with.
#[cfg(not(feature = "object-store"))]
pub(super) fn open_tar(pattern: &str, _: Extensions, _: &Reading) -> Result<Box<dyn TarShards>, SourceError> {
    Err(SourceError::NoStores { pattern: pattern.to_owned() })
}
