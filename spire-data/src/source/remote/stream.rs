//! A tar shard that is read while it arrives.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use spire_core::atomic_write::AtomicFile;
use tar::Archive;

use super::cache::Cache;
use super::objects::Body;
use super::{ASKED_AGAIN, Objects};
use crate::source::tar_index::{Entry, Extensions, TarIndex, check_uncompressed, each_sample};
use crate::source::tar_shards::ReadAt;

/// A shard on its way. Dropping it ends the transfer.
pub(super) struct Stream {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// More samples have arrived, or the shard has ended.
    grown: Condvar,
    /// What has arrived, or the shard in the cache. It is there before the first sample is.
    file: OnceLock<Mutex<File>>,
    /// Nobody reads the shard any more.
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    samples: Vec<Entry>,
    end: Option<End>,
}

/// How a shard ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// Why what follows can't be read; `None` at the end of the archive.
    pub damage: Option<String>,
    /// Whether the store, or the disk here, may be in order later; otherwise the archive itself is damaged.
    passing: bool,
    at: Instant,
}

impl Stream {
    /// Begins to fetch a shard, or takes it from the cache. `report` is called once, at the end, with the number of samples.
    pub fn start(
        objects: &Arc<Objects>,
        address: &str,
        extensions: &Extensions,
        cache: Option<&Arc<Cache>>,
        report: impl FnOnce(usize, &End) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let fetch = Fetch {
            shared: Arc::clone(&shared),
            objects: Arc::clone(objects),
            address: address.to_owned(),
            extensions: extensions.clone(),
            cache: cache.map(Arc::clone),
        };
        std::thread::Builder::new().name("shard".to_owned()).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| fetch.run()));
            let (damage, passing) = ended.unwrap_or_else(|_| (Some("it is damaged".to_owned()), false));
            let end = End { damage, passing, at: Instant::now() };
            let mut state = fetch.shared.state();
            state.end = Some(end.clone());
            let samples = state.samples.len();
            drop(state);
            fetch.shared.grown.notify_all();
            if !fetch.shared.stop.load(Ordering::Relaxed) {
                report(samples, &end);
            }
        })?;
        Ok(Self { shared })
    }

    /// The sample at `place`, as soon as it has arrived. If the shard has fewer: how many, and how it ended.
    pub fn sample(&self, place: usize) -> Result<Entry, (usize, End)> {
        let mut state = self.shared.state();
        loop {
            match (state.samples.get(place), &state.end) {
                (Some(entry), _) => return Ok(entry.clone()),
                (None, Some(end)) => return Err((state.samples.len(), end.clone())),
                (None, None) => state = self.shared.grown.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Waits for the whole shard; the number of its samples, and how it ended.
    pub fn whole(&self) -> (usize, End) {
        match self.sample(usize::MAX) {
            Ok(_) => unreachable!("a vector has no such element"),
            Err(end) => end,
        }
    }

    /// Whether the store failed, long enough ago to ask it again.
    pub fn may_be_asked_again(&self) -> bool {
        self.shared.state().end.as_ref().is_some_and(|end| end.passing && end.at.elapsed() > ASKED_AGAIN)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl ReadAt for Stream {
    fn read_at(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let Some(file) = self.shared.file.get() else { return Ok(vec![]) };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        (&mut *file).take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, samples: impl IntoIterator<Item = Entry>) {
        self.state().samples.extend(samples);
        self.grown.notify_all();
    }
}

/// The work of a stream's thread.
struct Fetch {
    shared: Arc<Shared>,
    objects: Arc<Objects>,
    address: String,
    extensions: Extensions,
    cache: Option<Arc<Cache>>,
}

impl Fetch {
    /// Why the shard ended, if not with the archive, and whether that may pass.
    fn run(&self) -> (Option<String>, bool) {
        match self.fetch() {
            Ok(ended) => ended,
            Err(message) => (Some(message), true),
        }
    }

    fn fetch(&self) -> Result<(Option<String>, bool), String> {
        if let Some(cache) = &self.cache {
            let identity = self.objects.identity(&self.address)?;
            if let Some(file) = cache.find(&cache.key(&self.address, &identity)) {
                return self.read_cached(file).map_err(|error| error.to_string());
            }
        }
        let body = self.objects.body(&self.address)?;
        let spool = match &self.cache {
            Some(cache) => Spool::kept(cache.create(&cache.key(&self.address, &body.identity))?),
            None => Spool::unnamed(),
        };
        let (mut spool, reader) = spool.map_err(|error| Spool::failed(self.cache.is_some(), &error))?;
        // The cell is empty: only this thread fills it.
        let _ = self.shared.file.set(Mutex::new(reader));
        spool.shared = Some(Arc::clone(&self.shared));
        let mut tee = Tee { body, spool, chunk: Bytes::new(), shared: &self.shared, failed: None };
        let damage = tee.walk(&self.extensions);
        if let Some(failed) = tee.failed.take() {
            return Err(failed);
        }
        // What comes after the end of the archive belongs to the file.
        if let (Some(cache), None) = (&self.cache, &damage) {
            let rest = io::copy(&mut tee, &mut io::sink());
            rest.map_err(|error| tee.failed.take().unwrap_or_else(|| error.to_string()))?;
            if let Spool { kept: Some(file), .. } = tee.spool {
                file.finish().map_err(|error| error.to_string())?;
                cache.make_room();
            }
        }
        Ok((damage, false))
    }

    fn read_cached(&self, file: File) -> io::Result<(Option<String>, bool)> {
        let index = TarIndex::of(file.try_clone()?, &self.extensions)?;
        let _ = self.shared.file.set(Mutex::new(file));
        self.shared.add(index.samples);
        Ok((index.damage, false))
    }
}

/// Where a shard is written while it arrives: a file of the cache, or else one without a name, which is that of `shared`.
struct Spool {
    kept: Option<AtomicFile>,
    shared: Option<Arc<Shared>>,
    at: u64,
}

impl Spool {
    /// With the handle that the samples are read from.
    fn kept(file: AtomicFile) -> io::Result<(Self, File)> {
        let reader = file.reader()?;
        Ok((Self { kept: Some(file), shared: None, at: 0 }, reader))
    }

    fn unnamed() -> io::Result<(Self, File)> {
        Ok((Self { kept: None, shared: None, at: 0 }, tempfile::tempfile()?))
    }

    fn failed(cached: bool, error: &io::Error) -> String {
        match cached {
            true => format!("the cache in the user's cache folder: {error} (data.source.cache_megabytes)"),
            false => format!("the folder for temporary files, {} (TMPDIR): {error}", std::env::temp_dir().display()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append(bytes).map_err(|error| io::Error::other(Self::failed(self.kept.is_some(), &error)))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.kept {
            file.write_all(bytes)?;
            return file.flush();
        }
        let Some(file) = self.shared.as_ref().and_then(|shared| shared.file.get()) else { return Ok(()) };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.at))?;
        file.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Gives the bytes that arrive to the reader of the archive, after they are on the disk.
struct Tee<'a> {
    body: Body,
    spool: Spool,
    chunk: Bytes,
    shared: &'a Shared,
    /// Why no more bytes came.
    failed: Option<String>,
}

impl Tee<'_> {
    /// Finds the samples; why the rest could not be read.
    fn walk(&mut self, extensions: &Extensions) -> Option<String> {
        let shared = self.shared;
        let start = self.fill().and_then(|()| check_uncompressed(&self.chunk));
        if let Err(error) = start {
            return Some(error.to_string());
        }
        match Archive::new(self).entries() {
            Ok(entries) => each_sample(entries, extensions, |sample| shared.add([sample])),
            Err(error) => Some(error.to_string()),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let stopped = || Err(io::Error::other("it is not needed any more"));
        let next = if self.shared.stop.load(Ordering::Relaxed) { stopped() } else { self.body.chunk() };
        let next = next.and_then(|chunk| self.spool.write(&chunk).map(|()| chunk));
        self.chunk = next.inspect_err(|error| self.failed = Some(error.to_string()))?;
        Ok(())
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.fill()?;
        }
        let part = self.chunk.split_to(buffer.len().min(self.chunk.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}
