//! `[evaluate]`: held-out pictures, and the evaluation at the end of a run.

use serde::{Deserialize, Serialize};
use spire_data::source::SourceConfig;
use spire_model::restore::SamplingConfig;

/// `[evaluate]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateSection {
    /// Seed of the held-out samples: order, degradations, noise and, if the source draws scenes, the scenes.
    pub seed: u64,
    /// Source of the held-out pictures. By default: scenes that are drawn with `seed` if the training source draws
    /// scenes, or else a share of the training source.
    pub source: Option<SourceConfig>,
    /// Without `source`: the share of the training source that is held out, at least one picture; a new run has 0.02 by
    /// default. 0 measures training pictures, with a warning.
    pub held_out_share: Option<f64>,
    /// Held-out pictures of the evaluation at the end; 0 for no evaluation. By default as many as a tenth of the
    /// training's computation restores, from 8 to 256.
    pub samples: Option<usize>,
    /// Held-out pictures of the validation loss.
    pub validation_samples: usize,
    /// Rows of a sheet of samples.
    pub rows: usize,
    /// Pictures that are restored together.
    pub batch_size: usize,
    /// Parts of a batch that are restored in parallel. 0: one a core on a CPU, one on a GPU.
    pub threads: usize,
    /// Sampling settings.
    pub sampling: SamplingConfig,
}

impl Default for EvaluateSection {
    fn default() -> Self {
        Self {
            seed: 1_000_003,
            source: None,
            held_out_share: None,
            samples: None,
            validation_samples: 64,
            rows: 6,
            batch_size: 16,
            threads: 0,
            sampling: SamplingConfig::default(),
        }
    }
}
