//! The configuration of a training run: one section per component, every key with a default. [`spire_core::settings`]
//! reads it.

mod checks;
mod evaluate;
mod model;
mod train;
mod validate;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use spire_core::settings::Keys;
use spire_data::degrade::{DegradationConfig, ParameterizedConfig};
use spire_data::loader::DataConfig;
use spire_data::source::SourceKind;
use spire_model::device;
use spire_model::restore::SamplingConfig;
use toml::{Table, Value};

pub use evaluate::EvaluateSection;
pub use model::ModelSection;
pub(crate) use model::default_embedding_channels;
pub use train::TrainSection;
pub use validate::{FixedPicture, ValidateSection};

use crate::optim::backward::Computation;

/// Everything on which a run depends.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Run folder, seed and device.
    pub run: RunSection,
    /// The frozen model and the control branch.
    pub model: ModelSection,
    /// Clean pictures and captions.
    pub data: DataConfig,
    /// How they are degraded.
    pub degradation: DegradationConfig,
    /// The training loop.
    pub train: TrainSection,
    /// What is measured and drawn while it trains.
    pub validate: ValidateSection,
    /// Held-out samples, and the evaluation at the end.
    pub evaluate: EvaluateSection,
}

/// `[run]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// The run folder.
    pub dir: PathBuf,
    /// Seed of the order, degradations, noise and initial weights.
    pub seed: u64,
    /// `flex` (the CPU), `cuda:0`, `vulkan`, …; several devices (`cuda:0, cuda:1`) share the samples of every step.
    pub device: String,
}

impl Default for RunSection {
    fn default() -> Self {
        Self { dir: "runs/default".into(), seed: 0, device: "flex".into() }
    }
}

impl Default for RunConfig {
    fn default() -> Self {
        let data = DataConfig::default();
        let degradation = DegradationConfig {
            parameterized: ParameterizedConfig::for_size(data.size),
            ..DegradationConfig::default()
        };
        Self {
            run: RunSection::default(),
            model: ModelSection::default(),
            data,
            degradation,
            train: TrainSection::default(),
            validate: ValidateSection::default(),
            evaluate: EvaluateSection::default(),
        }
    }
}

impl Keys for RunConfig {
    /// The ranges of blur and downsampling follow `data.size`.
    fn fill_in(settings: &mut Table) {
        let size = settings.get("data").and_then(|data| data.get("size")).and_then(Value::as_integer);
        let size = size.map_or(DataConfig::default().size, |size| usize::try_from(size).unwrap_or(0));
        let ranges = ParameterizedConfig::for_size(size);
        let section =
            |table: &mut Table, name: &str| -> Value { table.remove(name).unwrap_or_else(|| Table::new().into()) };
        let mut degradation = section(settings, "degradation");
        if let Value::Table(pipelines) = &mut degradation {
            let mut parameterized = section(pipelines, "parameterized");
            if let Value::Table(keys) = &mut parameterized {
                keys.entry("blur_sigma").or_insert_with(|| ranges.blur_sigma.to_vec().into());
                keys.entry("downsample_factor").or_insert_with(|| ranges.downsample_factor.to_vec().into());
            }
            pipelines.insert("parameterized".into(), parameterized);
        }
        settings.insert("degradation".into(), degradation);
    }
}

/// The share of the data that a new run holds out by default.
const HELD_OUT_SHARE: f64 = 0.02;

impl RunConfig {
    /// The configuration of a new run. One of a run that began without a held-out share keeps training on all pictures.
    pub(crate) fn with_held_out_share(mut self) -> Self {
        self.evaluate.held_out_share.get_or_insert(HELD_OUT_SHARE);
        self
    }

    /// The share of the training source that is held out, if it is split.
    pub(crate) fn held_out_share(&self) -> Option<f64> {
        let split = self.evaluate.source.is_none() && self.data.source.kind != SourceKind::World;
        self.evaluate.held_out_share.filter(|&share| split && share > 0.0)
    }

    /// Batches that a device computes at the same time.
    pub(crate) fn train_threads(&self) -> usize {
        let on_cpu = self.devices().all(|name| device::kind(name) == "flex");
        device::threads(self.train.threads, on_cpu, self.devices().count())
    }

    /// The names in `run.device`.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.run.device.split(',').map(str::trim)
    }

    /// How gradients are computed.
    pub(crate) fn computation(&self) -> Computation {
        Computation {
            threads: self.train_threads(),
            devices: self.devices().count(),
            precision: self.model.control_precision,
            checkpointing: self.train.gradient_checkpointing,
        }
    }

    /// The number of held-out pictures of the evaluation at the end. By default it follows from the computation, counted
    /// in passes through the networks, and so does not depend on the machine.
    pub fn evaluated_pictures(&self) -> usize {
        // A sample is trained by a forward pass and a backward pass, which takes about two of these.
        const PASSES_OF_A_SAMPLE: f64 = 3.0;
        let SamplingConfig { steps, strength, guidance_scale, .. } = &self.evaluate.sampling;
        let passes_of_a_step = if *guidance_scale == 1.0 { 1.0 } else { 2.0 };
        let training = self.train.steps as f64 * self.train.samples_per_step() as f64 * PASSES_OF_A_SAMPLE;
        let affordable = 0.1 * training / (*steps as f64 * strength * passes_of_a_step);
        self.evaluate.samples.unwrap_or((affordable as usize).clamp(8, 256))
    }

    /// Memory for latents that a run may keep, in bytes; 0 if it has no use for them.
    pub(crate) fn kept_latent_bytes(&self) -> usize {
        let useful = self.data.has_fixed_pictures() && self.data.encoded.is_none();
        if useful { self.model.latent_cache_bytes() } else { 0 }
    }

    /// Checks that the model can halve pictures as often as it does.
    ///
    /// # Errors
    /// `data.size` is not a multiple of `side`.
    pub(crate) fn check_size(&self, side: usize) -> Result<()> {
        let size = self.data.size;
        ensure!(size.is_multiple_of(side), "data.size {size} is not a multiple of {side}, as this model needs");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spire_core::settings;
    use std::path::Path;

    #[test]
    fn blur_and_downsampling_follow_the_size_unless_they_are_set() {
        let strongest = |text: &str, sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            let config: RunConfig = settings::parse(text, Path::new("run.toml"), &sets).unwrap();
            let ranges = &config.degradation.parameterized;
            // What the run folder stores says the same for every size.
            let stored = settings::resolved(&config).unwrap().replace("size = 64", "size = 512");
            let read: RunConfig = settings::parse(&stored, Path::new("config.toml"), &[]).unwrap();
            assert_eq!(read.degradation, config.degradation);
            [ranges.blur_sigma[1], ranges.downsample_factor[1]]
        };
        assert_eq!(strongest("", &[]), [3.0, 4.0]);
        assert_eq!(strongest("", &["data.size=255"]), [3.0, 4.0]);
        assert_eq!(strongest("data.size = 256", &[]), [5.0, 8.0]);
        assert_eq!(strongest("[degradation]\nparameterized_share = 1.0", &["data.size=512"]), [5.0, 8.0]);
        assert_eq!(strongest("[degradation.parameterized]\nblur_sigma = [1.0, 9.0]", &[]), [9.0, 4.0]);
        for text in ["degradation = 3", "degradation.parameterized = 3", "data.size = 'x'", "data = 3"] {
            let read = settings::parse::<RunConfig>(text, Path::new("run.toml"), &[]);
            assert!(read.unwrap_err().to_string().contains("must be"), "{text}");
        }
        let defaults: RunConfig = settings::parse("", Path::new("run.toml"), &[]).unwrap();
        assert_eq!(settings::resolved(&defaults).unwrap(), settings::resolved(&RunConfig::default()).unwrap());
    }

    #[test]
    fn short_runs_are_evaluated_on_few_pictures_and_long_ones_on_256() {
        let evaluated = |steps: u64, samples: Option<usize>| {
            let mut config = RunConfig::default();
            (config.train.steps, config.evaluate.samples) = (steps, samples);
            config.evaluated_pictures()
        };
        // 16 samples a step; 50 steps with guidance a picture: 1000 steps pay for 48 pictures.
        assert_eq!([3, 1000, 10_000, u64::MAX].map(|steps| evaluated(steps, None)), [8, 48, 256, 256]);
        assert_eq!([0, 2, 1000].map(|samples| evaluated(3, Some(samples))), [0, 2, 1000]);
    }
}
