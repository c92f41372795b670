//! The settings of the section `[data]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::crop::Crop;
use crate::degrade::InvalidSetting;
use crate::source::{SourceConfig, SourceKind};

/// The most scenes that the illustrated world draws.
const MOST_SCENES: usize = 1_000_000_000;

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
    /// A folder of latents and text states that `spire data encode` wrote of these pictures.
    pub encoded: Option<PathBuf>,
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
            encoded: None,
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
        let scattered = self.max_samples.is_some() && self.source.is_remote();
        check(
            "max_samples",
            &most,
            !scattered,
            "left out for shards in a store, of which it would fetch all: name fewer shards in data.source.shards",
        )?;
        let probability = (0.0..=1.0).contains(&self.prompt_dropout);
        check("prompt_dropout", &self.prompt_dropout, probability, "from 0 to 1")?;
        let source = &self.source;
        check("source.count", &source.count, source.count <= MOST_SCENES, &format!("at most {MOST_SCENES}"))?;
        check("source.lanes", &source.lanes, (1..=1024).contains(&source.lanes), "from 1 to 1024")?;
        check("source.shards_ahead", &source.shards_ahead, source.shards_ahead <= 64, "at most 64")?;
        let per_shard = source.samples_per_shard.unwrap_or(1);
        check("source.samples_per_shard", &per_shard, (1..=1 << 32).contains(&per_shard), "from 1 to 4294967296")?;
        let cache = source.cache_megabytes.unwrap_or(1);
        check("source.cache_megabytes", &cache, (1..=1 << 40).contains(&cache), "at least 1")?;
        check("workers", &self.workers, self.workers <= 1024, "at most 1024")?;
        check("prefetch", &self.prefetch, self.prefetch <= 65_536, "at most 65536")
    }

    /// Whether every pass has the same clean pictures, so that their latents may be kept.
    pub fn has_fixed_pictures(&self) -> bool {
        self.crop == Crop::Center && !self.horizontal_flip
    }

    /// Why pictures of this size are skipped, if they are.
    pub(crate) fn unwanted(&self, (width, height): (usize, usize)) -> Option<String> {
        let (shorter, longer) = (width.min(height), width.max(height));
        if shorter < self.min_side {
            return Some(format!("{width}×{height} pixels: a side is below data.min_side"));
        }
        let most = self.max_aspect? * shorter as f64;
        (longer as f64 > most)
            .then(|| format!("{width}×{height} pixels: the sides differ more than data.max_aspect allows"))
    }
}
