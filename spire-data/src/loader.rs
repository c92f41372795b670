//! The training sequence: which sample is the n-th, how it is cropped and degraded ([`Samples`]), and the threads that
//! prepare samples ahead of time ([`Loader`]).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rand::RngExt;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Picture;
use crate::degrade::{
    DegradationConfig, DegradeError, Degraded, Filter, InvalidSetting, Operation, Pipeline, Step, resize,
};
use crate::order::Slice;
use crate::rng::{Rng, rng};
use crate::source::{self, Pixels, Sample, SampleError, Skipped, Source, SourceConfig, SourceError};

/// The `[data]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Side in pixels of the square that every picture is cropped to.
    pub size: usize,
    /// How a picture is cropped.
    pub crop: Crop,
    /// Probability that the semantic prompt is dropped, in \[0, 1\].
    pub prompt_dropout: f64,
    /// Threads that prepare samples ahead of time; with 0 each sample is prepared on demand.
    pub workers: usize,
    /// Maximum number of prepared samples, at least `workers`.
    pub prefetch: usize,
    /// Where pictures and captions come from.
    pub source: SourceConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            size: 64,
            crop: Crop::Center,
            prompt_dropout: 0.1,
            workers: 2,
            prefetch: 32,
            source: SourceConfig::default(),
        }
    }
}

impl DataConfig {
    /// Checks every number. Paths are checked when the source is opened.
    ///
    /// # Errors
    /// The first setting that is out of range; the message names its key.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let check = |key: &str, value: &dyn ToString, good: bool, allowed: &str| {
            let wrong =
                || InvalidSetting { key: format!("data.{key}"), value: value.to_string(), allowed: allowed.to_owned() };
            good.then_some(()).ok_or_else(wrong)
        };
        check("size", &self.size, (1..=65_535).contains(&self.size), "from 1 to 65535")?;
        let probability = (0.0..=1.0).contains(&self.prompt_dropout);
        check("prompt_dropout", &self.prompt_dropout, probability, "from 0 to 1")?;
        check("workers", &self.workers, self.workers <= 1024, "at most 1024")?;
        check("prefetch", &self.prefetch, self.prefetch <= 65_536, "at most 65536")
    }
}

/// Which square of a picture is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// The largest square from the centre, resized.
    #[default]
    Center,
    /// A random square at the picture's own resolution; for a picture that is too small, the largest, enlarged.
    Random,
}

/// One training sample.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSample {
    /// Its position in the sequence.
    pub n: u64,
    /// Its position in the source.
    pub index: usize,
    /// Its name in the source.
    pub name: String,
    /// Width and height in pixels of the original picture.
    pub source_size: (usize, usize),
    /// The clean picture, `size` × `size`.
    pub clean: Picture,
    /// The degraded picture, of the same size.
    pub degraded: Picture,
    /// The semantic prompt for the model: the caption, or empty if it was dropped.
    pub semantic: String,
    /// What the picture shows.
    pub caption: String,
    /// The restoration prompt.
    pub restoration: String,
    /// The degradations that a prompt can name.
    pub steps: Vec<Step>,
    /// All operations.
    pub operations: Vec<Operation>,
    /// The degradation pipeline that was drawn.
    pub pipeline: Pipeline,
}

/// The training sequence could not be read.
#[derive(Debug, Error)]
pub enum LoaderError {
    /// The source could not be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A setting of `[data]` or `[degradation]` is out of range.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// Too many samples in a row are broken.
    #[error("every one of the {tried} pictures tried was broken, {}", first_few(.skipped))]
    AllBroken {
        /// Number of different pictures tried for one sample.
        tried: usize,
        /// The pictures.
        skipped: Vec<Skipped>,
    },
    /// A picture can't be degraded.
    #[error("{name} could not be degraded: {source}")]
    Degrade {
        /// The sample's name in the source.
        name: String,
        /// The cause.
        source: DegradeError,
    },
    /// A panic: a bug in the program.
    #[error("sample {n} could not be made: {message}")]
    Panic {
        /// The sample's position in the sequence.
        n: u64,
        /// The panic's message.
        message: String,
    },
    /// No thread could be started.
    #[error("a loader thread could not be started (data.workers): {0}")]
    Thread(#[from] std::io::Error),
}

fn first_few(skipped: &[Skipped]) -> String {
    let few: Vec<_> = skipped.iter().take(3).map(|skipped| format!("{} ({})", skipped.name, skipped.reason)).collect();
    format!("the first: {}", few.join("; "))
}

/// Number of different pictures tried for one sample before the source counts as broken.
const MOST_BROKEN: usize = 100;

/// Number of draws, including pictures known to be broken.
const MOST_DRAWN: usize = 2000;

/// A broken sample is replaced by one of this many that follow it, or of more if these are broken too: they come from
/// the same sources of a mixture in the same proportions, and lie nearby on the disk.
const REPLACED_WITHIN: u64 = 1000;

/// An endless sequence of training samples. Each is a function of only the seed and its position.
///
/// Every pass over the source is a permutation. A broken sample is replaced by another and recorded.
pub struct Samples {
    source: Arc<dyn Source>,
    degradation: DegradationConfig,
    config: DataConfig,
    seed: u64,
    skipped: Mutex<BTreeMap<usize, Skipped>>,
}

impl Samples {
    /// The sequence of `seed` over the source that the configuration names.
    ///
    /// # Errors
    /// The source does not open, or a setting is out of range.
    pub fn open(config: DataConfig, degradation: DegradationConfig, seed: u64) -> Result<Self, LoaderError> {
        let source = source::open(&config.source, config.size)?;
        Self::new(source, config, degradation, seed)
    }

    /// The sequence of `seed` over `source`; `config.source` is ignored.
    ///
    /// # Errors
    /// The source is empty, or a setting is out of range.
    pub fn new(
        source: Arc<dyn Source>,
        config: DataConfig,
        degradation: DegradationConfig,
        seed: u64,
    ) -> Result<Self, LoaderError> {
        config.validate()?;
        degradation.validate()?;
        if source.is_empty() {
            return Err(SourceError::Empty { place: "the data's source".to_owned() }.into());
        }
        Ok(Self { source, degradation, config, seed, skipped: Mutex::default() })
    }

    /// Number of samples in one pass over the source.
    pub fn epoch_len(&self) -> usize {
        self.source.len()
    }

    /// The n-th sample.
    ///
    /// # Errors
    /// The picture and all its replacements are broken.
    pub fn sample(&self, n: u64) -> Result<TrainingSample, LoaderError> {
        let (index, Sample { name, picture, captions }) = self.read(n)?;
        let source_size = picture.size();
        let clean = cut(&picture, self.config.size, self.config.crop, &mut rng(self.seed, "crop", n));
        let caption = captions.choose(&mut rng(self.seed, "caption", n)).cloned().unwrap_or_default();
        let dropped = rng(self.seed, "prompt dropout", n).random_bool(self.config.prompt_dropout);
        let semantic = if dropped { String::new() } else { caption.clone() };
        let degraded = self.degradation.degrade(&clean, &mut rng(self.seed, "degradation", n));
        let Degraded { picture: degraded, prompt: restoration, steps, operations, pipeline } =
            degraded.map_err(|source| LoaderError::Degrade { name: name.clone(), source })?;
        Ok(TrainingSample {
            n,
            index,
            name,
            source_size,
            clean,
            degraded,
            semantic,
            caption,
            restoration,
            steps,
            operations,
            pipeline,
        })
    }

    /// What the source skipped when it was opened, and the broken samples found so far, each once, in the order of the
    /// source.
    pub fn skipped(&self) -> Vec<Skipped> {
        self.source.left_out().into_iter().chain(self.registry().values().cloned()).collect()
    }

    fn read(&self, n: u64) -> Result<(usize, Sample), LoaderError> {
        let len = self.source.len();
        let mut replacement = rng(self.seed, "replacement", n);
        let mut broken = BTreeSet::new();
        let mut index = self.source.nth(self.seed, n);
        for attempt in 0..MOST_DRAWN {
            if !broken.contains(&index) {
                match self.source.read(index) {
                    Ok(sample) => return Ok((index, sample)),
                    Err(error) => self.skip(index, &error),
                }
                broken.insert(index);
                if broken.len() == len.min(MOST_BROKEN) {
                    break;
                }
            }
            // Search farther away each time: a whole shard may be broken.
            let within = REPLACED_WITHIN << (attempt / 8).min(20);
            index = self.source.nth(self.seed, n + replacement.random_range(1..=within));
        }
        let registry = self.registry();
        let skipped = broken.iter().filter_map(|index| registry.get(index).cloned()).collect();
        Err(LoaderError::AllBroken { tried: broken.len(), skipped })
    }

    fn skip(&self, index: usize, error: &SampleError) {
        self.registry().entry(index).or_insert_with(|| {
            let skipped = Skipped { name: self.source.name(index), reason: error.to_string() };
            tracing::warn!(name = skipped.name, reason = skipped.reason, "skipping a broken sample");
            skipped
        });
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Skipped>> {
        self.skipped.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Crops `picture` to a square and resizes it to `size` × `size`: reduced by area averaging, enlarged by bicubic
/// interpolation.
pub(crate) fn cut(picture: &Pixels, size: usize, crop: Crop, rng: &mut Rng) -> Picture {
    let (width, height) = picture.size();
    let shorter = width.min(height);
    let (side, left, top) = match crop {
        Crop::Center => (shorter, (width - shorter) / 2, (height - shorter) / 2),
        Crop::Random => {
            let side = shorter.min(size);
            (side, rng.random_range(0..=width - side), rng.random_range(0..=height - side))
        }
    };
    let square = picture.crop(left, top, side, side);
    if side == size {
        return square;
    }
    let filter = if side > size { Filter::Area } else { Filter::Bicubic };
    let mut scaled = resize(&square, size, size, filter);
    scaled.clamp();
    scaled
}

/// Training samples in order, prepared ahead of time by threads. The iterator never ends; dropping it stops the
/// threads.
pub struct Loader {
    samples: Arc<Samples>,
    start: u64,
    slice: Slice,
    /// Number of samples taken.
    taken: u64,
    workers: Vec<Worker>,
}

type Made = Result<TrainingSample, LoaderError>;

/// A thread that prepares every `workers`-th sample and waits while its channel is full.
struct Worker {
    made: Receiver<Made>,
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
        // A worker holds one sample itself; the channel holds the rest of its share.
        let waiting = samples.config.prefetch.checked_div(count).unwrap_or(0).saturating_sub(1);
        let mut loader = Self { samples, start, slice, taken: 0, workers: Vec::with_capacity(count) };
        for worker in 0..count {
            let (give, made) = sync_channel(waiting);
            let samples = Arc::clone(&loader.samples);
            let thread = std::thread::Builder::new().name(format!("loader-{worker}")).spawn(move || {
                for i in (worker as u64..).step_by(count) {
                    if give.send(make(&samples, start + slice.nth(i))).is_err() {
                        break;
                    }
                }
            })?;
            loader.workers.push(Worker { made, thread });
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

    /// The underlying sequence.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }
}

/// Never ends. The next call continues after a sample that could not be prepared.
impl Iterator for Loader {
    type Item = Made;

    fn next(&mut self) -> Option<Made> {
        let i = self.taken;
        self.taken += 1;
        if self.workers.is_empty() {
            return Some(make(&self.samples, self.start + self.slice.nth(i)));
        }
        let worker = i % self.workers.len() as u64;
        self.workers[worker as usize].made.recv().ok()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Close all channels first, so that the threads stop together.
        let (channels, threads): (Vec<_>, Vec<_>) =
            self.workers.drain(..).map(|worker| (worker.made, worker.thread)).unzip();
        drop(channels);
        for thread in threads {
            // The threads do not panic: `make` catches panics of a sample.
            let _ = thread.join();
        }
    }
}

fn make(samples: &Samples, n: u64) -> Made {
    catch_unwind(AssertUnwindSafe(|| samples.sample(n)))
        .unwrap_or_else(|panic| Err(LoaderError::Panic { n, message: panic_message(panic.as_ref()) }))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{CocoSource, FolderSource};
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
            Ok(Sample { name: self.name(index), picture: Pixels::Values(picture), captions })
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
    fn a_loader_that_starts_later_continues_the_same_sequence() {
        let all = take(samples(Shades::of(10), 2), 0, 25);
        for workers in [0, 2] {
            let mut loader = Loader::new(samples(Shades::of(10), workers), 11).unwrap();
            assert_eq!(loader.position(), 11);
            assert_eq!(loader.batch(14).unwrap(), all[11..]);
            assert_eq!(loader.position(), 25);
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

    #[test]
    fn a_center_crop_keeps_the_centre_and_resizes_it() {
        let mut draws = rng(0, "crop", 0);
        let mut wide = Picture::filled(30, 10, [1.0, 0.0, 0.0]);
        for y in 0..10 {
            wide.data[y * 30 + 10..y * 30 + 20].fill(0.25);
        }
        let wide = Pixels::Values(wide);
        for size in [4, 10, 16] {
            let cut = cut(&wide, size, Crop::Center, &mut draws);
            assert_eq!((cut.width, cut.height), (size, size));
            assert!(cut.plane(0).iter().all(|value| (value - 0.25).abs() < 1e-5), "size {size}");
        }
    }

    #[test]
    fn a_random_crop_keeps_the_resolution_and_reaches_every_place() {
        let mut ramp = Picture::filled(9, 8, [0.0; 3]);
        ramp.data.iter_mut().enumerate().for_each(|(i, value)| *value = (i % 72) as f32 / 72.0);
        let mut corners = BTreeSet::new();
        for n in 0..200 {
            let cut = cut(&Pixels::Values(ramp.clone()), 6, Crop::Random, &mut rng(0, "crop", n));
            let corner = (cut.data[0] * 72.0).round() as usize;
            assert_eq!(cut, ramp.crop(corner % 9, corner / 9, 6, 6));
            corners.insert(corner);
        }
        assert_eq!(corners.len(), 12);
        let small = cut(&Pixels::Values(ramp), 16, Crop::Random, &mut rng(0, "crop", 0));
        assert_eq!((small.width, small.height), (16, 16));
        assert!(small.data.iter().all(|value| (0.0..=1.0).contains(value)));
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
