//! The training sequence: which sample is the n-th, and how it is cropped and degraded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use rand::RngExt;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Picture;
use crate::degrade::{
    DegradationConfig, DegradeError, Degraded, Filter, InvalidSetting, Operation, Pipeline, Step, resize,
};
use crate::rng::{Rng, rng};
use crate::source::{
    self, HeldOut, HeldOutSource, Kept, Pixels, Sample, Skipped, Source, SourceConfig, SourceError, SourceKind, Subset,
};

/// The `[data]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Side in pixels of the square that every picture is cropped to.
    pub size: usize,
    /// How a picture is cropped.
    pub crop: Crop,
    /// Mirror every picture with probability 1/2. Captions stay as they are, also those that say left or right.
    pub horizontal_flip: bool,
    /// Pictures whose shorter side has fewer pixels are skipped.
    pub min_side: usize,
    /// Pictures whose longer side is more than this many times the shorter one are skipped; by default none.
    pub max_aspect: Option<f64>,
    /// Use only so many samples of the source, chosen by the seed; by default all.
    pub max_samples: Option<usize>,
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
            horizontal_flip: false,
            min_side: 0,
            max_aspect: None,
            max_samples: None,
            prompt_dropout: 0.1,
            workers: 2,
            prefetch: 32,
            source: SourceConfig::default(),
        }
    }
}

/// The most scenes that the illustrated world draws.
const MOST_SCENES: usize = 1_000_000_000;

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
        check("min_side", &self.min_side, self.min_side <= 65_535, "at most 65535")?;
        let aspect = self.max_aspect.unwrap_or(1.0);
        check("max_aspect", &aspect, aspect.is_finite() && aspect >= 1.0, "at least 1")?;
        let most = self.max_samples.unwrap_or(1);
        check("max_samples", &most, most > 0, "at least 1")?;
        let mixed = self.max_samples.is_some() && self.source.kind == SourceKind::Mixture;
        check(
            "max_samples",
            &most,
            !mixed,
            "left out for a mixture, whose weights decide how often a sample is drawn",
        )?;
        let probability = (0.0..=1.0).contains(&self.prompt_dropout);
        check("prompt_dropout", &self.prompt_dropout, probability, "from 0 to 1")?;
        let source = &self.source;
        check("source.count", &source.count, source.count <= MOST_SCENES, &format!("at most {MOST_SCENES}"))?;
        check("workers", &self.workers, self.workers <= 1024, "at most 1024")?;
        check("prefetch", &self.prefetch, self.prefetch <= 65_536, "at most 65536")
    }
}

impl DataConfig {
    /// Whether every pass has the same clean pictures, so that their latents may be kept.
    pub fn has_fixed_pictures(&self) -> bool {
        self.crop == Crop::Center && !self.horizontal_flip
    }

    /// Why pictures of this size are skipped, if they are.
    fn unwanted(&self, (width, height): (usize, usize)) -> Option<String> {
        let (shorter, longer) = (width.min(height), width.max(height));
        if shorter < self.min_side {
            return Some(format!("{width}×{height} pixels: a side is below data.min_side"));
        }
        let most = self.max_aspect? * shorter as f64;
        (longer as f64 > most)
            .then(|| format!("{width}×{height} pixels: the sides differ more than data.max_aspect allows"))
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

/// A part of the samples of a source. The hash of a sample's name decides to which part it belongs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// All samples.
    Whole,
    /// All but about this share of them, in \[0, 1\], which is held out; at least one is.
    Training(f64),
    /// That share.
    HeldOut(f64),
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
    /// Too many samples in a row have no caption, and nothing else is wrong with them.
    #[error(
        "none of the {tried} pictures tried has a caption, {}; write a .txt with a caption beside each picture, or name \
         the key of the captions (data.source.caption), or train without captions (data.source.uncaptioned = true, for \
         folders)",
        first_few(.skipped)
    )]
    NoCaptions {
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

/// Number of broken samples that a warning each names. More would bury what else is printed.
const MOST_WARNINGS: usize = 5;

/// Number of draws, including pictures known to be broken.
const MOST_DRAWN: usize = 2000;

/// A broken sample is replaced by one of this many that follow it, or of more if these are broken too: they come from
/// the same sources of a mixture in the same proportions, and lie nearby on the disk.
const REPLACED_WITHIN: u64 = 1000;

/// A sample, or why it could not be prepared.
pub(crate) type SampleResult = Result<TrainingSample, LoaderError>;

/// An endless sequence of training samples. Each is a function of only the seed and its position.
///
/// Every pass over the source is a permutation. A broken sample is replaced by another and recorded.
pub struct Samples {
    source: Arc<dyn Source>,
    degradation: DegradationConfig,
    pub(crate) config: DataConfig,
    seed: u64,
    skipped: Mutex<BTreeMap<usize, Broken>>,
}

/// A broken sample.
struct Broken {
    skipped: Skipped,
    /// Whether only its caption is missing.
    uncaptioned: bool,
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

    /// As [`open`](Self::open), over a part of the source. `None` if the source has too few samples to be split.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_part(
        config: DataConfig,
        degradation: DegradationConfig,
        seed: u64,
        part: Part,
    ) -> Result<Option<Self>, LoaderError> {
        let source = source::open(&config.source, config.size)?;
        let split = |share: f64| HeldOut::of(&*source, share);
        let whole = |source: Arc<dyn Source>| Self::new(source, config.clone(), degradation.clone(), seed);
        match part {
            Part::Whole => whole(source).map(Some),
            Part::HeldOut(share) => {
                let Some(held_out) = split(share) else { return Ok(None) };
                whole(Arc::new(HeldOutSource::new(source, held_out))).map(Some)
            }
            Part::Training(share) => {
                let Some(held_out) = split(share) else { return Ok(None) };
                let samples = whole(source)?;
                // After `max_samples`, so that it chooses the same samples as without a split.
                let kept = Kept::new(samples.source.clone(), held_out);
                Ok(kept.map(|kept| Self { source: Arc::new(kept), ..samples }))
            }
        }
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
        let source: Arc<dyn Source> = match config.max_samples {
            Some(most) if most < source.len() => Arc::new(Subset::new(source, most, seed)),
            _ => source,
        };
        if source.is_empty() {
            return Err(SourceError::Empty { place: "the data's source".to_owned() }.into());
        }
        Ok(Self { source, degradation, config, seed, skipped: Mutex::default() })
    }

    /// Number of samples in one pass over the source.
    pub fn epoch_len(&self) -> usize {
        self.source.pass_len()
    }

    /// The n-th sample.
    ///
    /// # Errors
    /// The picture and all its replacements are broken.
    pub fn sample(&self, n: u64) -> Result<TrainingSample, LoaderError> {
        let (index, Sample { name, picture, captions }) = self.read(n)?;
        let source_size = picture.size();
        let clean = cut(&picture, self.config.size, self.config.crop, &mut rng(self.seed, "crop", n));
        let flipped = self.config.horizontal_flip && rng(self.seed, "flip", n).random_bool(0.5);
        let clean = if flipped { mirrored(&clean) } else { clean };
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
        self.source
            .left_out()
            .into_iter()
            .chain(self.registry().values().map(|broken| broken.skipped.clone()))
            .collect()
    }

    fn read(&self, n: u64) -> Result<(usize, Sample), LoaderError> {
        let len = self.source.pass_len();
        let mut replacement = rng(self.seed, "replacement", n);
        let mut broken = BTreeSet::new();
        let mut index = self.source.nth(self.seed, n);
        for attempt in 0..MOST_DRAWN {
            if !broken.contains(&index) {
                match self.source.read(index) {
                    Ok(sample) => match self.config.unwanted(sample.picture.size()) {
                        None => return Ok((index, sample)),
                        Some(reason) => self.skip(index, reason, false),
                    },
                    Err(error) => self.skip(index, error.to_string(), error.is_missing_caption()),
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
        let found: Vec<&Broken> = broken.iter().filter_map(|index| registry.get(index)).collect();
        let (tried, skipped) = (broken.len(), found.iter().map(|broken| broken.skipped.clone()).collect());
        Err(match found.iter().all(|broken| broken.uncaptioned) {
            true => LoaderError::NoCaptions { tried, skipped },
            false => LoaderError::AllBroken { tried, skipped },
        })
    }

    fn skip(&self, index: usize, reason: String, uncaptioned: bool) {
        let mut registry = self.registry();
        if registry.contains_key(&index) {
            return;
        }
        let skipped = Skipped { name: self.source.name(index), reason };
        if registry.len() < MOST_WARNINGS {
            tracing::warn!(name = skipped.name, reason = skipped.reason, "skipping a sample");
        } else if registry.len() == MOST_WARNINGS {
            tracing::warn!("more samples are skipped without a warning; spire data stats lists them");
        }
        registry.insert(index, Broken { skipped, uncaptioned });
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Broken>> {
        self.skipped.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The picture with left and right exchanged.
fn mirrored(picture: &Picture) -> Picture {
    let rows = picture.data.chunks_exact(picture.width);
    let data: Vec<f32> = rows.flat_map(|row| row.iter().rev().copied()).collect();
    Picture { width: picture.width, height: picture.height, data: data.into() }
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
