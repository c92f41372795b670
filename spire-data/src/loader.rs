//! The threads that prepare training samples ahead of time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use spire_core::message::of_panic;

pub use crate::config::DataConfig;
pub use crate::crop::Crop;
use crate::order::Slice;
use crate::samples::SampleResult;
pub use crate::samples::{LoaderError, Part, Samples, TrainingSample};
use crate::source::SourceConfig;

/// After an interruption, a source may take this long to give the next sample before it counts as blocked.
const PATIENCE: Duration = Duration::from_secs(2);

/// Training samples in order, prepared ahead of time by threads. The iterator never ends; dropping it stops the
/// threads.
pub struct Loader {
    samples: Arc<Samples>,
    start: u64,
    slice: Slice,
    /// Number of samples taken.
    taken: u64,
    workers: Vec<Worker>,
    /// Whether a thread may wait for the source for ever.
    blocked: bool,
}

/// A thread that prepares every `workers`-th sample and waits while its channel is full.
struct Worker {
    prepared: Receiver<SampleResult>,
    /// A sample that came and is not taken yet.
    waiting: Option<SampleResult>,
    thread: JoinHandle<()>,
}

impl Loader {
    /// Starts the threads; the first sample is number `start`.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn new(samples: Arc<Samples>, start: u64) -> Result<Self, LoaderError> {
        Self::slice(samples, start, Slice::WHOLE)
    }

    /// As [`new`](Self::new) for one rank of a distributed run: the samples of `slice` in the sequence from `start`.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn slice(samples: Arc<Samples>, start: u64, slice: Slice) -> Result<Self, LoaderError> {
        let count = samples.config.workers;
        let slice = of_lanes(slice, &samples.config.source);
        // A worker holds one sample itself; the channel holds the rest of its share.
        let waiting = samples.config.prefetch.checked_div(count).unwrap_or(0).saturating_sub(1);
        let mut loader = Self { samples, start, slice, taken: 0, workers: Vec::with_capacity(count), blocked: false };
        for worker in 0..count {
            let (give, prepared) = sync_channel(waiting);
            let samples = Arc::clone(&loader.samples);
            let thread = std::thread::Builder::new().name(format!("loader-{worker}")).spawn(move || {
                for i in (worker as u64..).step_by(count) {
                    if give.send(make(&samples, start + slice.nth(i))).is_err() {
                        break;
                    }
                }
            })?;
            loader.workers.push(Worker { prepared, waiting: None, thread });
        }
        Ok(loader)
    }

    /// The number of the next sample; after whole batches of a slice, the first of all ranks. A checkpoint stores it to
    /// continue from here with any number of ranks.
    pub fn position(&self) -> u64 {
        self.start + self.slice.batches(self.taken)
    }

    /// The next `size` samples.
    ///
    /// # Errors
    /// One of them could not be made; see [`LoaderError`].
    pub fn batch(&mut self, size: usize) -> Result<Vec<TrainingSample>, LoaderError> {
        self.take(size).collect()
    }

    /// As [`batch`](Self::batch); `None` if `interrupted` is set and the source is blocked: it gives no sample for two
    /// seconds. Then no sample counts as taken. A source that the calling thread reads itself can't be left.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    pub fn batch_unless(
        &mut self,
        interrupted: &AtomicBool,
        size: usize,
    ) -> Result<Option<Vec<TrainingSample>>, LoaderError> {
        let before = self.taken;
        let mut batch = Vec::with_capacity(size);
        for _ in 0..size {
            if !self.wait_unless(interrupted) {
                self.taken = before;
                self.blocked = true;
                return Ok(None);
            }
            batch.extend(self.next().transpose()?);
        }
        Ok(Some(batch))
    }

    /// Counts the last `count` samples as not taken. The position is then the one before them, but this loader does not
    /// give them again.
    pub fn put_back(&mut self, count: usize) {
        self.taken = self.taken.saturating_sub(count as u64);
    }

    /// Waits for the next sample; false if the source is blocked after an interruption.
    fn wait_unless(&mut self, interrupted: &AtomicBool) -> bool {
        let workers = self.workers.len() as u64;
        let Some(next) = self.taken.checked_rem(workers) else { return true };
        let worker = &mut self.workers[next as usize];
        let mut since = None;
        while worker.waiting.is_none() {
            match worker.prepared.recv_timeout(Duration::from_millis(100)) {
                Ok(sample) => worker.waiting = Some(sample),
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => {
                    let asked = interrupted.load(Ordering::Relaxed);
                    if asked && since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// The underlying sequence.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }
}

/// Never ends. The next call continues after a sample that could not be prepared.
impl Iterator for Loader {
    type Item = SampleResult;

    fn next(&mut self) -> Option<SampleResult> {
        let i = self.taken;
        self.taken += 1;
        if self.workers.is_empty() {
            return Some(make(&self.samples, self.start + self.slice.nth(i)));
        }
        let next = i % self.workers.len() as u64;
        let worker = &mut self.workers[next as usize];
        worker.waiting.take().or_else(|| worker.prepared.recv().ok())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Close all channels first, so that the threads stop together.
        let (channels, threads): (Vec<_>, Vec<_>) =
            self.workers.drain(..).map(|worker| (worker.prepared, worker.thread)).unzip();
        drop(channels);
        if self.blocked {
            return;
        }
        for thread in threads {
            // The threads do not panic: `make` catches panics of a sample.
            let _ = thread.join();
        }
    }
}

/// The slice of a rank that reads its own lanes of the shards.
fn of_lanes(slice: Slice, source: &SourceConfig) -> Slice {
    let (lanes, ranks) = (source.lanes as u64, slice.ranks());
    // The first rank speaks for all.
    if ranks > 1 && slice.nth(0) == 0 && source.is_remote() && !lanes.is_multiple_of(ranks) {
        tracing::warn!(
            "each of the {ranks} ranks fetches all shards: set data.source.lanes to a multiple of {ranks}, and each fetches its own"
        );
    }
    if lanes > 1 { slice.interleaved() } else { slice }
}

fn make(samples: &Samples, n: u64) -> SampleResult {
    catch_unwind(AssertUnwindSafe(|| samples.sample(n)))
        .unwrap_or_else(|panic| Err(LoaderError::Panic { n, message: of_panic(panic.as_ref()).to_owned() }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Picture;
    use crate::degrade::DegradationConfig;
    use crate::degrade::Pipeline;
    use crate::prompt::REMOVE_ALL;
    use crate::source::{CocoSource, FolderSource};
    use crate::source::{Pair, Pixels, Sample, SampleError, Source, SourceError};
    use std::path::Path;
    use std::sync::atomic::AtomicUsize;

    /// Gradients of one colour each; index 13 panics.
    struct Shades {
        len: usize,
        reads: AtomicUsize,
    }

    impl Shades {
        fn of(len: usize) -> Arc<Self> {
            Arc::new(Self { len, reads: AtomicUsize::new(0) })
        }
    }

    impl Source for Shades {
        fn len(&self) -> usize {
            self.len
        }

        fn name(&self, index: usize) -> String {
            format!("shade {index}")
        }

        fn read(&self, index: usize) -> Result<Sample, SampleError> {
            assert_ne!(index, 13, "shade 13 is unlucky");
            self.reads.fetch_add(1, Ordering::SeqCst);
            let mut picture = Picture::filled(20, 14, [index as f32 / self.len as f32, 0.5, 0.2]);
            picture.data.iter_mut().enumerate().for_each(|(i, value)| *value *= (i % 20) as f32 / 20.0);
            let captions = vec![format!("one {index}"), format!("two {index}"), format!("three {index}")];
            Ok(Sample { name: self.name(index), picture: Pixels::Values(picture), captions, pair: None })
        }
    }

    fn config(workers: usize) -> DataConfig {
        DataConfig { size: 12, crop: Crop::Random, prompt_dropout: 0.3, workers, prefetch: 6, ..Default::default() }
    }

    fn samples(source: Arc<dyn Source>, workers: usize) -> Arc<Samples> {
        Arc::new(Samples::new(source, config(workers), DegradationConfig::default(), 7).unwrap())
    }

    fn take(samples: Arc<Samples>, start: u64, count: usize) -> Vec<TrainingSample> {
        Loader::new(samples, start).unwrap().batch(count).unwrap()
    }

    #[test]
    fn the_sequence_does_not_depend_on_the_workers() {
        let alone = take(samples(Shades::of(10), 0), 0, 25);
        assert_eq!(alone.iter().map(|sample| sample.n).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
        for workers in [1, 3, 9] {
            assert_eq!(take(samples(Shades::of(10), workers), 0, 25), alone, "{workers} workers");
        }
        let other = Samples::new(Shades::of(10), config(0), DegradationConfig::default(), 8).unwrap();
        assert_ne!(other.sample(0).unwrap().degraded, alone[0].degraded);
    }

    #[test]
    fn half_of_the_pictures_are_mirrored_before_they_are_degraded() {
        let plain = config(0);
        let flipping = DataConfig { horizontal_flip: true, ..config(0) };
        assert!(!flipping.has_fixed_pictures());
        let [plain, flipped] = [plain, flipping].map(|config| {
            let samples = Samples::new(Shades::of(10), config, DegradationConfig::default(), 7).unwrap();
            (0..40).map(|n| samples.sample(n).unwrap()).collect::<Vec<_>>()
        });
        let mut mirrored = 0;
        for (plain, flipped) in plain.iter().zip(&flipped) {
            if plain.clean == flipped.clean {
                assert_eq!(plain.degraded, flipped.degraded);
                continue;
            }
            let rows = |picture: &Picture| picture.data.chunks_exact(12).map(<[f32]>::to_vec).collect::<Vec<_>>();
            let reversed = rows(&flipped.clean).into_iter().map(|row| row.into_iter().rev().collect::<Vec<_>>());
            assert!(reversed.eq(rows(&plain.clean)));
            assert_eq!(plain.restoration, flipped.restoration);
            mirrored += 1;
        }
        assert!((10..30).contains(&mirrored), "{mirrored}");
    }

    /// The clean picture at half its size, and a prompt for every other pair.
    struct Pairs(Shades);

    impl Source for Pairs {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn name(&self, index: usize) -> String {
            self.0.name(index)
        }

        fn read(&self, index: usize) -> Result<Sample, SampleError> {
            let sample = self.0.read(index)?;
            let picture = crate::degrade::resize(&sample.picture.to_picture(), 10, 7, crate::degrade::Filter::Area);
            let restoration = index.is_multiple_of(2).then(|| "Remove rain".to_owned());
            let pair = Pair { picture: Pixels::Values(picture), factor: 2, restoration };
            Ok(Sample { pair: Some(pair), ..sample })
        }
    }

    #[test]
    fn a_pair_is_cut_and_mirrored_as_one_and_not_degraded() {
        let config = DataConfig { horizontal_flip: true, ..config(0) };
        let shades = || Shades { len: 10, reads: AtomicUsize::new(0) };
        let pairs = Samples::new(Arc::new(Pairs(shades())), config, DegradationConfig::default(), 7).unwrap();
        for n in 0..40 {
            let sample = pairs.sample(n).unwrap();
            assert_eq!((sample.pipeline, sample.steps.len(), sample.operations.len()), (Pipeline::Pair, 0, 0));
            let prompt = if sample.index.is_multiple_of(2) { "Remove rain" } else { REMOVE_ALL };
            assert_eq!(sample.restoration, prompt);
            // The shades are ramps: at half the size they lose little, and a shifted or mirrored half would differ a lot.
            let apart = sample.clean.data.iter().zip(&*sample.degraded.data).map(|(a, b)| (a - b).abs());
            let apart = apart.fold(0.0, f32::max);
            assert!(apart < 0.06, "sample {n}: {apart}");
        }
    }

    #[test]
    fn at_most_max_samples_are_used_and_every_pass_has_each_once() {
        let few = DataConfig { max_samples: Some(4), ..config(0) };
        let samples = Samples::new(Shades::of(10), few, DegradationConfig::default(), 7).unwrap();
        assert_eq!(samples.epoch_len(), 4);
        let pass = |first: u64| -> std::collections::BTreeSet<String> {
            (first..first + 4).map(|n| samples.sample(n).unwrap().name).collect()
        };
        assert_eq!(pass(0).len(), 4);
        assert_eq!(pass(0), pass(4));
        let more = DataConfig { max_samples: Some(99), ..config(0) };
        assert_eq!(Samples::new(Shades::of(10), more, DegradationConfig::default(), 7).unwrap().epoch_len(), 10);
    }

    #[test]
    fn pictures_that_are_too_small_or_too_long_are_skipped_and_named() {
        // Shades are of 20 by 14 pixels.
        for (config, key) in [
            (DataConfig { min_side: 15, ..config(0) }, "data.min_side"),
            (DataConfig { max_aspect: Some(1.4), ..config(0) }, "data.max_aspect"),
        ] {
            let samples = Samples::new(Shades::of(3), config, DegradationConfig::default(), 7).unwrap();
            assert!(matches!(samples.sample(0), Err(LoaderError::AllBroken { tried: 3, .. })));
            let skipped = samples.skipped();
            assert_eq!(skipped.len(), 3);
            assert!(skipped[0].reason.contains("20×14") && skipped[0].reason.contains(key), "{skipped:?}");
        }
        let fitting = DataConfig { min_side: 14, max_aspect: Some(1.5), ..config(0) };
        let samples = Samples::new(Shades::of(3), fitting, DegradationConfig::default(), 7).unwrap();
        assert!(samples.sample(0).is_ok() && samples.skipped().is_empty());
    }

    #[test]
    fn a_loader_that_starts_later_continues_the_same_sequence() {
        let all = take(samples(Shades::of(10), 2), 0, 25);
        for workers in [0, 2] {
            let mut loader = Loader::new(samples(Shades::of(10), workers), 11).unwrap();
            assert_eq!(loader.position(), 11);
            assert_eq!(loader.batch(14).unwrap(), all[11..]);
            assert_eq!(loader.position(), 25);
        }
    }

    /// Gives its first samples, then nothing more.
    struct Blocking(Shades);

    impl Source for Blocking {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn name(&self, index: usize) -> String {
            self.0.name(index)
        }

        fn read(&self, index: usize) -> Result<Sample, SampleError> {
            while self.0.reads.load(Ordering::SeqCst) >= 8 {
                std::thread::park();
            }
            self.0.read(index)
        }
    }

    #[test]
    fn an_interruption_ends_waiting_for_a_blocked_source() {
        let shades = Shades { len: 10, reads: AtomicUsize::new(0) };
        let mut loader = Loader::new(samples(Arc::new(Blocking(shades)), 1), 0).unwrap();
        let interrupted = AtomicBool::new(true);
        // What is prepared already is given in any case.
        assert_eq!(loader.batch_unless(&interrupted, 3).unwrap().unwrap().len(), 3);
        assert_eq!(loader.position(), 3);
        let started = Instant::now();
        assert_eq!(loader.batch_unless(&interrupted, 8).unwrap(), None);
        assert!((2..20).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
        assert_eq!(loader.position(), 3, "an incomplete batch is not taken");
        // Dropping it does not wait for the blocked thread.
        drop(loader);
    }

    #[test]
    fn a_batch_without_an_interruption_is_that_of_the_sequence() {
        let all = take(samples(Shades::of(10), 0), 0, 9);
        for workers in [0, 2] {
            let mut loader = Loader::new(samples(Shades::of(10), workers), 0).unwrap();
            for part in all.chunks(3) {
                assert_eq!(loader.batch_unless(&AtomicBool::new(false), 3).unwrap().unwrap(), part);
            }
        }
    }

    #[test]
    fn each_pass_visits_each_sample_once() {
        let visited = take(samples(Shades::of(10), 2), 10, 10);
        assert_eq!(visited.iter().map(|sample| sample.index).collect::<BTreeSet<_>>().len(), 10);
    }

    #[test]
    fn ranks_share_the_batches_of_one_process() {
        let all = take(samples(Shades::of(10), 0), 6, 24);
        for ranks in [2, 3] {
            for (rank, workers) in (0..ranks).zip([0, 1, 2]) {
                let slice = Slice::new(12, rank, ranks).unwrap();
                let mut loader = Loader::slice(samples(Shades::of(10), workers), 6, slice).unwrap();
                let share = 12 / ranks;
                for batch in [0, 12] {
                    assert_eq!(loader.position(), 6 + batch as u64);
                    assert_eq!(loader.batch(share).unwrap(), all[batch + rank * share..][..share], "{rank} of {ranks}");
                }
            }
        }
    }

    #[test]
    fn captions_are_drawn_and_dropped() {
        let all = take(samples(Shades::of(10), 0), 0, 200);
        let dropped = all.iter().filter(|sample| sample.semantic.is_empty()).count();
        assert!((35..=85).contains(&dropped), "{dropped} of 200 dropped at 0.3");
        assert!(all.iter().all(|sample| sample.semantic.is_empty() || sample.semantic == sample.caption));
        for word in ["one", "two", "three"] {
            assert!(all.iter().any(|sample| sample.caption == format!("{word} {}", sample.index)));
        }
        for (prompt_dropout, kept) in [(0.0, 20), (1.0, 0)] {
            let config = DataConfig { prompt_dropout, ..config(0) };
            let samples = Samples::new(Shades::of(10), config, DegradationConfig::default(), 7).unwrap();
            assert_eq!((0..20).filter(|&n| !samples.sample(n).unwrap().semantic.is_empty()).count(), kept);
        }
    }

    #[test]
    fn each_pass_crops_and_degrades_differently() {
        let all = take(samples(Shades::of(2), 0), 0, 40);
        let visits: Vec<_> = all.iter().filter(|sample| sample.index == 0).collect();
        assert_eq!(visits.len(), 20);
        assert!(visits.iter().any(|sample| sample.clean != visits[0].clean));
        assert!(visits.iter().any(|sample| sample.restoration != visits[0].restoration));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let refused = |config, degradation| {
            Samples::new(Shades::of(10), config, degradation, 0).err().expect("should be refused").to_string()
        };
        for (key, wrong) in [
            ("data.size", DataConfig { size: 0, ..config(0) }),
            ("data.max_aspect", DataConfig { max_aspect: Some(0.5), ..config(0) }),
            ("data.max_samples", DataConfig { max_samples: Some(0), ..config(0) }),
            ("data.prompt_dropout", DataConfig { prompt_dropout: 1.1, ..config(0) }),
            ("data.prompt_dropout", DataConfig { prompt_dropout: f64::NAN, ..config(0) }),
            ("data.workers", DataConfig { workers: usize::MAX, ..config(0) }),
            ("data.prefetch", DataConfig { prefetch: usize::MAX, ..config(0) }),
        ] {
            let message = refused(wrong, DegradationConfig::default());
            assert!(message.starts_with(key), "{message}");
        }
        let degradation = DegradationConfig { parameterized_share: 2.0, ..Default::default() };
        assert!(refused(config(0), degradation).starts_with("degradation.parameterized_share"));
        let none = Samples::new(Shades::of(0), config(0), DegradationConfig::default(), 0);
        assert!(matches!(none.err().unwrap(), LoaderError::Source(SourceError::Empty { .. })));
    }

    fn write_png(dir: &Path, name: &str, red: f32) {
        Picture::filled(16, 16, [red, 0.0, 0.0]).save_png(dir.join(name)).unwrap();
    }

    /// Three good pictures and five that are broken, each in its own way.
    fn partly_broken() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["good0", "good1", "good2", "latin1", "blank", "silent"] {
            write_png(dir.path(), &format!("{name}.png"), 0.5);
            std::fs::write(dir.path().join(format!("{name}.txt")), "a red square").unwrap();
        }
        std::fs::write(dir.path().join("latin1.txt"), b"caf\xe9").unwrap();
        std::fs::write(dir.path().join("blank.txt"), b"").unwrap();
        std::fs::remove_file(dir.path().join("silent.txt")).unwrap();
        for (name, bytes) in [("zero", &b""[..]), ("garbage", &b"\x89PNG\r\n\x1a\nno more"[..])] {
            std::fs::write(dir.path().join(format!("{name}.png")), bytes).unwrap();
            std::fs::write(dir.path().join(format!("{name}.txt")), "a broken picture").unwrap();
        }
        dir
    }

    #[test]
    fn broken_samples_are_replaced_and_counted_once() {
        let dir = partly_broken();
        let open = |workers| samples(Arc::new(FolderSource::open(dir.path(), None).unwrap()), workers);
        let alone = open(0);
        let sequence = take(Arc::clone(&alone), 0, 40);
        assert!(sequence.iter().all(|sample| sample.name.starts_with("good") && sample.caption == "a red square"));
        assert_eq!(sequence.iter().map(|sample| &sample.name).collect::<BTreeSet<_>>().len(), 3);
        let skipped: Vec<_> = alone.skipped().into_iter().map(|skipped| skipped.name).collect();
        assert_eq!(skipped, ["blank.png", "garbage.png", "latin1.png", "silent.png", "zero.png"]);
        assert!(alone.skipped().iter().all(|skipped| skipped.reason.contains(skipped.name.split('.').next().unwrap())));

        let together = open(3);
        assert_eq!(take(Arc::clone(&together), 0, 40), sequence);
        assert_eq!(together.skipped(), alone.skipped());
        assert_eq!(take(open(2), 17, 23), sequence[17..]);
    }

    #[test]
    fn only_broken_samples_are_an_error_that_names_some() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..130 {
            std::fs::write(dir.path().join(format!("{index}.png")), b"").unwrap();
            std::fs::write(dir.path().join(format!("{index}.txt")), "zero bytes").unwrap();
        }
        for (keep, tried) in [(130, 100), (2, 2)] {
            for index in keep..130 {
                std::fs::remove_file(dir.path().join(format!("{index}.png"))).unwrap();
            }
            let source = Arc::new(FolderSource::open(dir.path(), None).unwrap());
            for workers in [0, 2] {
                let mut loader = Loader::new(samples(Arc::clone(&source) as _, workers), 0).unwrap();
                let error = loader.batch(4).unwrap_err();
                assert!(
                    matches!(&error, LoaderError::AllBroken { tried: t, skipped } if *t == tried && skipped.len() == tried)
                );
                let message = error.to_string();
                assert!(message.contains(&format!("every one of the {tried} pictures")), "{message}");
                assert!(message.contains("0.png") && message.contains("not a readable picture"), "{message}");
            }
        }
    }

    #[test]
    fn only_pictures_without_captions_are_an_error_that_names_the_key() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..7 {
            write_png(dir.path(), &format!("{index}.png"), 0.5);
        }
        let open = |uncaptioned| {
            let source = FolderSource::open(dir.path(), None).unwrap().uncaptioned(uncaptioned);
            Loader::new(samples(Arc::new(source), 0), 0).unwrap().batch(2)
        };
        let error = open(false).unwrap_err();
        assert!(matches!(&error, LoaderError::NoCaptions { tried: 7, skipped } if skipped.len() == 7));
        let message = error.to_string();
        assert!(message.contains("none of the 7") && message.contains("data.source.uncaptioned = true"), "{message}");
        assert_eq!(open(true).unwrap().len(), 2);
        // A broken file is another fault.
        std::fs::write(dir.path().join("7.png"), b"").unwrap();
        std::fs::write(dir.path().join("7.txt"), "zero bytes").unwrap();
        assert!(matches!(open(false).unwrap_err(), LoaderError::AllBroken { tried: 8, .. }));
    }

    #[test]
    fn coco_pictures_without_captions_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        write_png(dir.path(), "a.png", 0.1);
        write_png(dir.path(), "b.png", 0.9);
        let json = r#"{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"},
            {"id": 3, "file_name": "gone.png"}], "annotations": [{"id": 1, "image_id": 2, "caption": "bright"},
            {"id": 2, "image_id": 2, "caption": "red"}, {"id": 3, "image_id": 3, "caption": "gone"}]}"#;
        let annotations = dir.path().join("captions.json");
        std::fs::write(&annotations, json).unwrap();
        let samples = samples(Arc::new(CocoSource::open(dir.path(), annotations).unwrap()), 2);
        let all = take(Arc::clone(&samples), 0, 30);
        assert!(all.iter().all(|sample| sample.name == "b.png"));
        assert_eq!(all.iter().map(|sample| sample.caption.as_str()).collect::<BTreeSet<_>>(), ["bright", "red"].into());
        assert_eq!(samples.skipped().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a.png", "gone.png"]);
    }

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        for workers in [0, 2] {
            let results: Vec<_> = Loader::new(samples(Shades::of(14), workers), 0).unwrap().take(14).collect();
            let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
            assert_eq!(errors.len(), 1);
            assert!(errors[0].to_string().contains("shade 13 is unlucky"), "{}", errors[0]);
        }
    }

    #[test]
    fn at_most_prefetch_samples_are_prepared_ahead() {
        for (workers, prefetch, most) in [(1, 6, 6), (3, 6, 6), (3, 0, 3), (2, 5, 5)] {
            let shades = Shades::of(10);
            let config = DataConfig { prefetch, ..config(workers) };
            let samples = Samples::new(Arc::clone(&shades) as _, config, DegradationConfig::default(), 7).unwrap();
            let mut loader = Loader::new(Arc::new(samples), 0).unwrap();
            loader.batch(4).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(60));
            let ahead = shades.reads.load(Ordering::SeqCst) - 4;
            assert!(ahead <= most, "{ahead} samples ahead with {workers} workers and a prefetch of {prefetch}");
        }
    }

    #[test]
    fn dropping_a_loader_ends_its_threads() {
        for taken in [0, 1, 5] {
            let samples = samples(Shades::of(10), 3);
            let mut loader = Loader::new(Arc::clone(&samples), 0).unwrap();
            loader.batch(taken).unwrap();
            drop(loader);
            assert_eq!(Arc::strong_count(&samples), 1, "a thread still holds the samples");
        }
    }
}
