//! The state of a run: models, the trained branch, the position in the data, and how a checkpoint stores them.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};
use spire_core::atomic_write::write_atomic;
use spire_core::interruption::ends_at_once;
use spire_core::settings;
use spire_data::encoded::Encoded;
use spire_data::loader::{Loader, Samples};
use spire_eval::clip_space::ImageSpace;
use spire_eval::evaluation::Scorer;
use spire_model::base::{Base, Parts, portable_name};
use spire_model::control::{Control, ControlConfig};
use spire_model::model_file::ModelFile;
use spire_model::scheduler::NoiseSchedule;
use spire_model::weights;

use super::figures;
use super::fixed_pictures::FixedPictures;
use super::held_out::{held_out, training_samples};
use super::latents::Latents;
use super::start::initial_control;
use crate::checkpoint::{Checkpoint, Guard};
use crate::config::RunConfig;
use crate::distributed::{Buckets, Ranks};
use crate::encoding;
use crate::optim::learner::{AVERAGE, Learner};
use crate::run_folder::RunFolder;

/// The files of a checkpoint besides the learner's. With the configuration it opens as a control branch.
const CONFIG: &str = "config.json";
const COUNTERS: &str = "state.json";

/// `state.json` of a checkpoint.
#[derive(Debug, Deserialize, Serialize)]
struct Counters {
    /// Optimiser steps done.
    step: u64,
    /// The number of the next training sample.
    position: u64,
    /// Samples per step over all ranks; missing in checkpoints of early versions.
    samples_per_step: Option<usize>,
}

/// Everything that a training step reads or changes, on one rank.
pub(crate) struct TrainingState<'a> {
    pub(super) ranks: &'a Ranks,
    /// The device of the frozen model, without autodiff.
    pub device: Device,
    /// The frozen text-to-image model.
    pub(super) base: Base,
    /// Its parts that steps need.
    pub(super) parts: Parts,
    pub(super) schedule: NoiseSchedule,
    pub control_config: ControlConfig,
    /// The trained branch, and the number of steps done.
    pub learner: Learner<Control>,
    pub(super) loader: Loader,
    pub(super) held_out: Samples,
    /// CLIP's image space, for the Fréchet distance.
    pub(super) image_space: Option<ImageSpace>,
    pub(super) latents: Latents,
    /// The networks of the figures on restored held-out pictures, if these are measured.
    pub(super) scorer: Option<Scorer>,
    /// The pictures of `[[validate.pictures]]`.
    pub(super) fixed_pictures: FixedPictures,
    /// How gradients travel between ranks; known after the first backward pass.
    pub(super) buckets: Option<Buckets>,
}

impl<'a> TrainingState<'a> {
    /// Loads the models and opens the data. The state is that of `checkpoint`, or the start of a run.
    pub fn open(config: &RunConfig, ranks: &'a Ranks, checkpoint: Option<&Checkpoint>) -> Result<Self> {
        let _phase = ends_at_once("the training has not started yet");
        ranks.agree_on_text("the configuration", &settings::resolved(config)?)?;
        let device = spire_model::device::device(&ranks.device(&config.run.device))?;
        config.model.check_precision(&device)?;
        let training = device.clone().autodiff();
        let samples = training_samples(config)?;
        let parts = encoding::parts(config, samples.encoded().map(Encoded::manifest));
        let held_out = held_out(config)?;
        let fixed_pictures = FixedPictures::open(&config.validate.pictures)?;
        let scorer = figures::load(&config.validate, &device)?;
        let (mut base, mut control_config, mut control) = ranks.one_by_one(|| {
            device.seed(config.run.seed);
            let base = config.model.load_parts(&device, parts)?;
            let (control_config, control) = initial_control(&config.model, &base, &training)?;
            anyhow::Ok((base, control_config, control))
        })?;
        base.guide_by(config.evaluate.sampling.clip_guidance.as_ref())?;
        base.prompts.keep_at_most(config.model.text_cache_bytes());
        config.check_size(base.side_multiple())?;
        if let Some(checkpoint) = checkpoint {
            // A run that an earlier version began goes on with the range that its branch has learned.
            control_config.conditioning_range = ControlConfig::read(&checkpoint.dir)?.conditioning_range;
            control = control.with_range(control_config.conditioning_range());
        }
        let mut learner = Learner::new(control, config.train.optimizer(ranks.count()));
        let mut position = 0;
        if let Some(checkpoint) = checkpoint {
            learner = learner.resumed(checkpoint)?;
            let counters: Counters = serde_json::from_slice(&checkpoint.read(COUNTERS)?)?;
            position = counters.position;
            let (before, now) = (counters.samples_per_step, ranks.count() * config.train.samples_per_step());
            if let Some(before) = before.filter(|before| *before != now && ranks.is_first()) {
                tracing::warn!("from step {} on a step has {now} samples; before it had {before}", learner.step);
            }
        }
        let image_space =
            config.model.image_encoder().map(|tower| ImageSpace::load_tower(&tower, &device)).transpose()?;
        Ok(Self {
            schedule: NoiseSchedule::new(&base.scheduler)?,
            loader: Loader::slice(Arc::new(samples), position, ranks.slice(config.train.samples_per_step()))?,
            latents: Latents::keeping(config.kept_latent_bytes()),
            ranks,
            device,
            base,
            parts,
            control_config,
            learner,
            held_out,
            image_space,
            scorer,
            fixed_pictures,
            buckets: None,
        })
    }

    /// The moving average in the precision in which it samples and is evaluated.
    pub(super) fn branch(&self, config: &RunConfig) -> Control {
        weights::cast(self.learner.average.clone(), config.model.control_precision)
    }

    /// Writes a checkpoint, on the rank that writes.
    pub(super) fn save(&self, checkpoints: &mut Guard, score: Option<f64>, samples_per_step: usize) -> Result<()> {
        let (step, position) = (self.learner.step, self.loader.position());
        let counters = Counters { step, position, samples_per_step: Some(samples_per_step) };
        let first = [CONFIG].into_iter().map(|name| Ok((name, self.control_config.to_json()?)));
        let last = [COUNTERS].into_iter().map(|name| Ok((name, serde_json::to_vec_pretty(&counters)?)));
        checkpoints.save(step, first.chain(self.learner.files()).chain(last), score)
    }

    /// Writes the trained branch into `control/`, in diffusers' layout, and what restoring needs to know beside it.
    pub(super) fn write_model(&self, config: &RunConfig, folder: &RunFolder) -> Result<()> {
        let control = folder.control();
        std::fs::create_dir_all(&control).with_context(|| format!("can't create {}", control.display()))?;
        write_atomic(&control.join(CONFIG), &self.control_config.to_json()?)?;
        write_atomic(&control.join(AVERAGE), &weights::to_bytes(&self.learner.average, DType::F32)?)?;
        let model = ModelFile {
            base: portable_name(&config.model.base),
            precision: config.model.precision,
            control_precision: config.model.control_precision,
            long_prompts: config.model.long_prompts,
            variant: config.model.variant.clone(),
            sampling: config.evaluate.sampling.clone().with_quality_written_out(),
            trained: toml::Table::try_from(&config.degradation.parameterized)?,
        };
        write_atomic(&folder.model_file(), model.to_toml()?.as_bytes())?;
        Ok(())
    }

    /// The number of source pictures that could not be used on any rank. All ranks call it.
    pub(super) fn skipped_pictures(&self) -> usize {
        let own: Vec<_> = self.loader.samples().skipped().iter().map(|skipped| format!("{skipped:?}")).collect();
        let all = self.ranks.all_gather(&own.join("\n"));
        all.iter().flat_map(|skipped| skipped.lines()).collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use spire_core::shard::Shard;

    use super::*;
    use crate::encoding::{EncodeSettings, encode};

    #[test]
    fn steps_from_encoded_data_hold_neither_vae_nor_text_tower() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = RunConfig::default();
        config.model.base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
        config.data.source.count = 4;
        config.degradation.parameterized_share = 0.0;
        let settings = EncodeSettings {
            folder: Some(dir.path().to_owned()),
            crops: 1,
            texts: true,
            captions_by: None,
            shard: Shard::WHOLE,
            pictures_per_file: 3,
        };
        encode(config.clone(), &settings).unwrap();
        let ranks = Ranks::alone();
        let prepared = |config: &RunConfig| {
            let mut state = TrainingState::open(config, &ranks, None).unwrap();
            let batches = state.batches(2, 1, &AtomicBool::new(false)).unwrap().unwrap();
            let batch = state.prepare(&batches, config).unwrap().swap_remove(0);
            (state, [batch.noisy.into_data(), batch.target.into_data()], [batch.semantic, batch.restoration])
        };
        let (from_pictures, latents, texts) = prepared(&config);
        assert_eq!(from_pictures.parts, Parts::ALL);
        config.data.encoded = Some(dir.path().to_owned());
        let (mut state, encoded_latents, encoded_texts) = prepared(&config);
        assert_eq!(state.parts, Parts { vae: false, text: false });
        assert!(state.base.vae.is_none());
        latents.iter().zip(&encoded_latents).for_each(|(one, other)| one.assert_eq(other, true));
        for (one, other) in texts.into_iter().zip(encoded_texts) {
            one.into_data().assert_eq(&other.into_data(), true);
        }
        state.base.hold(Parts::ALL).unwrap();
        assert!(state.base.vae.is_some());
        state.base.prompts.encode(&["a prompt that was not encoded"]);
        state.base.hold(state.parts).unwrap();
        assert!(state.base.vae.is_none());
    }
}
