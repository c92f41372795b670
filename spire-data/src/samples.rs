//! The training sequence: which sample is the n-th, and how it is cropped and degraded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use rand::RngExt;
use rand::seq::IndexedRandom;
use thiserror::Error;

use crate::Picture;
use crate::config::DataConfig;
use crate::crop::{Square, mirrored};
use crate::degrade::{DegradationConfig, DegradeError, Degraded, InvalidSetting, Operation, Pipeline, Step};
use crate::encoded::{self, Encoded, EncodedData, EncodedError, EncodedSample, PictureToEncode};
use crate::order::replacement_distance;
use crate::prompt::REMOVE_ALL;
use crate::rng::rng;
use crate::source::{self, HeldOut, HeldOutSource, Kept, Sample, Skipped, Source, SourceError, Subset};

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
    /// What the restoration prompt asks for where that is not the clean picture
    /// ([`partial_probability`](crate::degrade::ParameterizedConfig::partial_probability),
    /// [`weaker_probability`](crate::degrade::ParameterizedConfig::weaker_probability)).
    pub target: Option<Picture>,
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
    /// What was computed beforehand, if the data is encoded.
    pub encoded: Option<EncodedSample>,
}

impl TrainingSample {
    /// What the restoration prompt asks for: the clean picture, or one with what it does not ask to undo.
    pub fn target(&self) -> &Picture {
        self.target.as_ref().unwrap_or(&self.clean)
    }
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
    /// What was computed beforehand can't be used.
    #[error(transparent)]
    Encoded(#[from] EncodedError),
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
    encoded: Option<Encoded>,
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
        Ok(Self { source, degradation, config, seed, encoded: None, skipped: Mutex::default() })
    }

    /// The same sequence with what was computed of its pictures beforehand. Random crops are then among the encoded ones.
    pub fn with_encoded(self, encoded: Encoded) -> Self {
        Self { encoded: Some(encoded), ..self }
    }

    /// What was computed beforehand, if the data is encoded.
    pub fn encoded(&self) -> Option<&Encoded> {
        self.encoded.as_ref()
    }

    /// Number of samples of the source, those included that are held out.
    pub fn source_len(&self) -> usize {
        self.source.len()
    }

    /// Number of samples in one pass over the source.
    pub fn epoch_len(&self) -> usize {
        self.source.pass_len()
    }

    /// The n-th sample.
    ///
    /// # Errors
    /// The picture and all its replacements are broken, or the picture is not the one that was encoded.
    pub fn sample(&self, n: u64) -> Result<TrainingSample, LoaderError> {
        let (index, Sample { name, picture, captions, pair }) = self.read(n)?;
        let (source_size, size) = (picture.size(), self.config.size);
        let mirror = self.config.horizontal_flip && rng(self.seed, "flip", n).random_bool(0.5);
        let (variant, mut draws) = match self.encoded.as_ref().map(|encoded| &encoded.manifest().data) {
            Some(data) => {
                let crop = encoded::drawn_crop(data, self.seed, n);
                (encoded::variant(crop, mirror, data), encoded::crop_rng(data, index, crop))
            }
            None => (0, rng(self.seed, "crop", n)),
        };
        let square = Square::draw(source_size, size, self.config.crop, &mut draws);
        let turned = |picture: Picture| if mirror { mirrored(&picture) } else { picture };
        let clean = turned(square.of(&picture, size));
        let caption = match self.encoded.as_ref().and_then(|encoded| encoded.caption(index)) {
            Some(chosen) => captions.get(chosen),
            None => captions.choose(&mut rng(self.seed, "caption", n)),
        };
        let caption = caption.cloned().unwrap_or_default();
        let dropped = rng(self.seed, "prompt dropout", n).random_bool(self.config.prompt_dropout);
        let semantic = if dropped { String::new() } else { caption.clone() };
        let Degraded { picture: degraded, prompt: restoration, target, steps, operations, pipeline } = match pair {
            Some(pair) => Degraded {
                picture: turned(square.of_smaller(&pair.picture, pair.factor, size)),
                prompt: pair.restoration.unwrap_or_else(|| REMOVE_ALL.to_owned()),
                target: None,
                steps: Vec::new(),
                operations: Vec::new(),
                pipeline: Pipeline::Pair,
            },
            None => {
                let degraded = self.degradation.degrade(&clean, &mut rng(self.seed, "degradation", n));
                degraded.map_err(|source| LoaderError::Degrade { name: name.clone(), source })?
            }
        };
        let encoded = self.encoded.as_ref();
        let encoded = encoded.map(|encoded| encoded.sample(index, variant, &name, &clean, [&semantic, &restoration]));
        Ok(TrainingSample {
            n,
            index,
            name,
            source_size,
            clean,
            degraded,
            target,
            semantic,
            caption,
            restoration,
            steps,
            operations,
            pipeline,
            encoded: encoded.transpose()?,
        })
    }

    /// Picture `index` of the source, cut as `data` says.
    ///
    /// # Errors
    /// It is broken, or smaller or longer than the configuration allows.
    pub fn to_encode(&self, index: usize, data: &EncodedData) -> Result<PictureToEncode, Skipped> {
        let skipped = |reason: String| Skipped { name: self.source.name(index), reason };
        let Sample { name, picture, captions, pair } =
            self.source.read(index).map_err(|error| skipped(error.to_string()))?;
        if let Some(reason) = self.config.unwanted(picture.size()) {
            return Err(skipped(reason));
        }
        let mut variants = vec![];
        for crop in 0..data.crops {
            let mut draws = encoded::crop_rng(data, index, crop);
            let plain = Square::draw(picture.size(), data.size, data.crop, &mut draws).of(&picture, data.size);
            let turned = data.horizontal_flip.then(|| mirrored(&plain));
            variants.extend([plain].into_iter().chain(turned));
        }
        let fingerprints = variants.iter().map(encoded::fingerprint).collect();
        let restoration = pair.and_then(|pair| pair.restoration).unwrap_or_else(|| REMOVE_ALL.to_owned());
        Ok(PictureToEncode { name, picture, variants, fingerprints, captions, restoration })
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
                        None if self.encoded.as_ref().is_some_and(|encoded| !encoded.has(index)) => {
                            let reason = "it could not be read when the pictures were encoded".to_owned();
                            self.skip(index, reason, false);
                        }
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
            let distance = replacement_distance(&mut replacement, within, self.source.lanes());
            index = self.source.nth(self.seed, n + distance);
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
