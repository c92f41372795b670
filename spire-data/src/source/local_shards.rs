//! Tar shards in files. With a list of their sizes beside them, the headers of a shard are read when its first sample is needed;
//! otherwise those of all shards at the start. What was read is cached (in the user's cache folder, `spire/shards`).

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spire_core::bounded_read;

use super::shards::{Recent, expand};
use super::sizes::{self, LIST, MOST_BYTES};
use super::tar_index::{Extensions, TarIndex};
use super::tar_shards::{Found, ReadAt, TarShards};
use super::{SampleError, Skipped, SourceError};
use crate::parallel::{self, in_order};

/// Tar shards in files.
pub(super) struct LocalShards {
    shards: Vec<PathBuf>,
    extensions: Extensions,
    lens: Vec<usize>,
    /// Whether the numbers of samples are from a list.
    listed: bool,
    left_out: Vec<Skipped>,
    indices: Recent<Result<TarIndex, (io::ErrorKind, String)>>,
    /// Whether it was said that a shard has more samples than listed.
    longer: AtomicBool,
}

/// Number of shards whose index is held in memory: about a megabyte per 10,000 samples.
const INDICES: usize = 16;

impl LocalShards {
    /// Finds out how many samples each shard has.
    pub fn open(pattern: &str, extensions: Extensions) -> Result<Self, SourceError> {
        let shards = expand(pattern)?;
        let paths: Vec<String> = shards.iter().map(|shard| shard.display().to_string()).collect();
        match sizes::published(&paths, read_list)? {
            Some(lens) => Ok(Self::of(shards, extensions, lens, true, vec![])),
            None => Ok(Self::scan(shards, extensions)),
        }
    }

    /// Reads the headers of all shards. One that can't be read is skipped with a warning.
    fn scan(shards: Vec<PathBuf>, extensions: Extensions) -> Self {
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
        Self::of(shards, extensions, lens, false, left_out)
    }

    fn of(
        shards: Vec<PathBuf>,
        extensions: Extensions,
        lens: Vec<usize>,
        listed: bool,
        left_out: Vec<Skipped>,
    ) -> Self {
        let indices = Recent::new(INDICES);
        Self { shards, extensions, lens, listed, left_out, indices, longer: AtomicBool::new(false) }
    }

    fn load(&self, shard: usize) -> Result<TarIndex, (io::ErrorKind, String)> {
        let path = &self.shards[shard];
        let index = TarIndex::load(path, &self.extensions).map_err(|error| (error.kind(), error.to_string()))?;
        let (found, expected) = (index.samples.len(), self.lens[shard]);
        if self.listed && found > expected && !self.longer.swap(true, Ordering::Relaxed) {
            let shard = path.display();
            tracing::warn!(%shard, "it has {found} samples, and {LIST} says {expected}: the others are never read. Correct the list, or remove it");
        }
        Ok(index)
    }

    /// The error of a shard without a sample at `place`.
    fn too_short(&self, shard: usize, index: &TarIndex) -> SampleError {
        let path = self.shards[shard].clone();
        match (&index.damage, self.listed) {
            (None, true) => {
                let (found, listed) = (index.samples.len(), self.lens[shard]);
                let message = format!("it has {found} samples, and {LIST} says {listed}");
                SampleError::Io { path, source: io::Error::other(message) }
            }
            // It has become shorter since it was indexed.
            _ => SampleError::CutShort { path, end: 0 },
        }
    }
}

/// A list of sizes; `None` if there is none.
fn read_list(path: &str) -> Result<Option<Vec<u8>>, String> {
    match bounded_read::read(Path::new(path), MOST_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|error| error.to_string()),
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
        let look = |loaded: &Result<TarIndex, (io::ErrorKind, String)>| match loaded {
            Ok(loaded) => (true, loaded.samples.get(place).cloned().ok_or_else(|| self.too_short(shard, loaded))),
            Err((kind, message)) => {
                let source = io::Error::new(*kind, message.clone());
                (false, Err(SampleError::Io { path: path.clone(), source }))
            }
        };
        let (is_indexed, found) = self.indices.with(shard, || self.load(shard), look);
        if !is_indexed {
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
