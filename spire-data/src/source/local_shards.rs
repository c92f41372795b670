//! Tar shards in files. The headers are read once and cached (in the user's cache folder, `spire/shards`).

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use super::shards::{Recent, expand};
use super::tar_index::{Extensions, TarIndex};
use super::tar_shards::{Found, ReadAt, TarShards};
use super::{SampleError, Skipped, SourceError};
use crate::parallel::{self, in_order};

/// Tar shards in files.
pub(super) struct LocalShards {
    shards: Vec<PathBuf>,
    extensions: Extensions,
    lens: Vec<usize>,
    left_out: Vec<Skipped>,
    indices: Recent<Result<TarIndex, (io::ErrorKind, String)>>,
}

/// Number of shards whose index is held in memory: about a megabyte per 10,000 samples.
const INDICES: usize = 16;

impl LocalShards {
    /// Reads the headers of all shards. One that can't be read is skipped with a warning.
    pub fn open(pattern: &str, extensions: Extensions) -> Result<Self, SourceError> {
        let shards = expand(pattern)?;
        let mut lens = vec![];
        let mut left_out = vec![];
        let scanned = in_order(shards.len(), parallel::available(), |i| {
            let index = TarIndex::load(&shards[i], &extensions);
            let counted = index.map(|index| (index.samples.len(), index.damage));
            Ok::<_, Infallible>(counted.unwrap_or_else(|error| (0, Some(error.to_string()))))
        });
        for (shard, (len, damage)) in shards.iter().zip(scanned.unwrap_or_else(|never| match never {})) {
            lens.push(len);
            if let Some(damage) = damage {
                let reason = format!("after {len} samples: {damage}");
                tracing::warn!(shard = %shard.display(), reason, "skipping the rest of a broken shard");
                left_out.push(Skipped { name: shard.display().to_string(), reason });
            }
        }
        Ok(Self { shards, extensions, lens, left_out, indices: Recent::new(INDICES) })
    }
}

impl TarShards for LocalShards {
    fn lens(&self) -> Vec<usize> {
        self.lens.clone()
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.left_out.clone()
    }

    fn name(&self, shard: usize, place: usize) -> String {
        self.find(shard, place).map_or_else(|_| self.shards[shard].display().to_string(), |found| found.name)
    }

    fn find(&self, shard: usize, place: usize) -> Result<Found, SampleError> {
        let path = &self.shards[shard];
        let load = || TarIndex::load(path, &self.extensions).map_err(|error| (error.kind(), error.to_string()));
        let found = self.indices.with(shard, load, |loaded| match loaded {
            // Without an entry, the file has become shorter since it was indexed.
            Ok(loaded) => {
                loaded.samples.get(place).cloned().ok_or(SampleError::CutShort { path: path.clone(), end: 0 })
            }
            Err((kind, message)) => {
                Err(SampleError::Io { path: path.clone(), source: io::Error::new(*kind, message.clone()) })
            }
        });
        if matches!(found, Err(SampleError::Io { .. })) {
            // The disk may be available again for the next sample.
            self.indices.forget(shard);
        }
        let entry = found?;
        let name = format!("{}/{}", path.display(), entry.key);
        Ok(Found { name, path: path.clone(), entry, bytes: Arc::new(path.clone()) })
    }
}

/// A file by its path.
impl ReadAt for PathBuf {
    fn read_at(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(self)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
