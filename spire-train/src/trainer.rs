//! The training loop of the control branch (paper sections 3.3 and 4.1).
//!
//! Everything random in a step depends on the seed and the sample's position alone, so a run that goes on from a
//! checkpoint repeats, bit for bit, what the uninterrupted run would have done.
//!
//! Several [`Ranks`] share every step's samples and hold the same weights; the first of them writes.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spire_data::loader::{Crop, Loader, Samples, TrainingSample};
use spire_data::rng::rng;
use spire_eval::clip_space::ImageSpace;
use spire_model::base::{Base, locate};
use spire_model::control::{ConditioningEmbedding, Control, ControlConfig};
use spire_model::pictures;
use spire_model::restore::noise;
use spire_model::scheduler::NoiseSchedule;
use spire_model::spire::predict;
use spire_model::weights::{self, Precision, Tensors, fill};

use crate::checkpoint::{Checkpoint, CheckpointStore, write_atomic};
use crate::config::{ModelSection, RunConfig};
use crate::ema;
use crate::evaluate::{evaluate, held_out, sheet};
use crate::journal::Journal;
use crate::memory;
use crate::metrics_log::{self, StepMetrics};
use crate::optimizer::{Optimizer, grad_norm, number_parameters, weight_norm};
use crate::parallel::{gradients, gradients_of_all, order_of_gradients};
use crate::ranks::{Buckets, Ranks};
use crate::run_folder::RunFolder;
use crate::settings;

/// The files of a checkpoint. The moving average is under diffusers' names, so that a checkpoint opens as a control branch.
const AVERAGE: &str = "diffusion_pytorch_model.safetensors";
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "training.safetensors";
const OPTIMIZER: &str = "optimizer.burnpack";
const STATE: &str = "state.json";

/// What a checkpoint holds beside tensors.
#[derive(Debug, Deserialize, Serialize)]
struct State {
    /// Optimiser steps done.
    step: u64,
    /// The next training sample.
    position: u64,
    /// Samples of a step, of all ranks; older checkpoints do not say.
    samples_per_step: Option<usize>,
}

/// How a run ended.
#[derive(Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All steps are done and the figures are written.
    Finished,
    /// It was interrupted after this many steps; a checkpoint is written.
    Interrupted(u64),
}

/// Starts a new run, on all devices that the configuration names. All ranks call it with the same configuration, and stop
/// where one of them is interrupted.
///
/// # Errors
/// The configuration, the data or the model do not open; the run's folder exists; training fails; the ranks differ.
pub fn train(config: RunConfig, ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    ranks.on_each(&config.run.device, |ranks| train_as_rank(config.clone(), ranks, interrupted))
}

fn train_as_rank(config: RunConfig, ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    // One after the other: a model may have to be fetched first.
    let config = ranks.first_before_others(|| located(config))?;
    // Opened first, on all ranks: a run folder is not created for a run that can't start.
    let mut trainer = Trainer::new(&config, ranks, None)?;
    ranks.wait();
    let create = if ranks.is_first() { RunFolder::create } else { RunFolder::created_elsewhere };
    let folder = ranks.first_before_others(|| create(&config))?;
    trainer.run(&config, &folder, interrupted)
}

/// The configuration, validated, with the models that it names found, so that the run can be used from any folder.
pub(crate) fn located(mut config: RunConfig) -> Result<RunConfig> {
    config.validate()?;
    config.model.base = locate(&config.model.base)?;
    if let Some(control) = &mut config.model.control {
        *control = spire_model::control::locate(control)?;
    }
    for folder in [&mut config.model.image_encoder, &mut config.model.embedding].into_iter().flatten() {
        *folder = folder.canonicalize().with_context(|| format!("there is no model folder {}", folder.display()))?;
    }
    Ok(config)
}

/// Goes on with the run in `dir` from its newest sound checkpoint, with as many ranks as there are now.
///
/// # Errors
/// There is no run or no checkpoint; otherwise as [`train`].
pub fn resume(dir: &Path, overrides: &[String], ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    let (folder, config) = RunFolder::open(dir, overrides)?;
    config.validate()?;
    ranks.on_each(&config.run.device, |ranks| resume_as_rank(&folder, &config, ranks, interrupted))
}

fn resume_as_rank(folder: &RunFolder, config: &RunConfig, ranks: &Ranks, interrupted: &AtomicBool) -> Result<Outcome> {
    let checkpoint = newest(&folder.checkpoints(config.train.keep_checkpoints), ranks)?;
    if checkpoint.is_none() && ranks.is_first() {
        tracing::warn!("the run in {} has no checkpoint yet and starts from its beginning", config.run.dir.display());
    }
    Trainer::new(config, ranks, checkpoint.as_ref())?.run(config, folder, interrupted)
}

/// The newest checkpoint that is sound where the first rank reads it: the same for all.
fn newest(checkpoints: &CheckpointStore, ranks: &Ranks) -> Result<Option<Checkpoint>> {
    let newest = if ranks.is_first() { checkpoints.latest()? } else { None };
    let step = ranks.from_first(&newest.as_ref().map(|newest| newest.step.to_string()).unwrap_or_default());
    if ranks.is_first() || step.is_empty() {
        return Ok(newest);
    }
    Ok(Some(checkpoints.of_step(step.parse()?).context("the first rank goes on from a checkpoint")?))
}

/// A run's state; [`crate::bench`] measures its steps.
pub(crate) struct Trainer<'a> {
    ranks: &'a Ranks,
    pub device: Device,
    base: Base,
    schedule: NoiseSchedule,
    pub control_config: ControlConfig,
    pub control: Control,
    average: Control,
    pub optimizer: Optimizer,
    loader: Loader,
    held_out: Samples,
    image_space: Option<ImageSpace>,
    pub step: u64,
    latents: Latents,
    /// How gradients travel; known when the first are computed.
    buckets: Option<Buckets>,
}

impl<'a> Trainer<'a> {
    pub fn new(config: &RunConfig, ranks: &'a Ranks, checkpoint: Option<&Checkpoint>) -> Result<Self> {
        ranks.agree_on_text("the configuration", &settings::resolved(config)?)?;
        let device = spire_model::device::device(&ranks.device(&config.run.device))?;
        config.model.check_precision(&device)?;
        let training = device.clone().autodiff();
        let samples = Samples::open(config.data.clone(), config.degradation.clone(), config.run.seed)?;
        let held_out = held_out(config)?;
        let (mut base, control_config, mut control) = ranks.in_turn(|| {
            device.seed(config.run.seed);
            let base = Base::load(&config.model.base, config.model.precision, &device)?;
            let (control_config, control) = starting_control(&config.model, &base, &training)?;
            anyhow::Ok((base, control_config, control))
        })?;
        base.guide_by(config.evaluate.sampling.clip_guidance.as_ref())?;
        base.prompts.keep_at_most(config.model.text_cache_bytes());
        config.check_size(base.side_multiple())?;
        let mut optimizer = Optimizer::new(config.train.optimizer());
        let (mut step, mut position) = (0, 0);
        let mut average = None;
        if let Some(checkpoint) = checkpoint {
            let origin = checkpoint.dir.display().to_string();
            control = fill(control, Tensors::from_bytes(checkpoint.read(WEIGHTS)?, &origin)?, Precision::F32)?;
            let loaded = Control::new(&control_config, &device)?;
            let loaded = fill(loaded, Tensors::from_bytes(checkpoint.read(AVERAGE)?, &origin)?, Precision::F32)?;
            average = Some(number_parameters(loaded));
            optimizer = optimizer.with_bytes(checkpoint.read(OPTIMIZER)?).context(origin)?;
            let state: State = serde_json::from_slice(&checkpoint.read(STATE)?)?;
            (step, position) = (state.step, state.position);
            let (before, now) = (state.samples_per_step, ranks.count() * config.train.samples_per_step());
            if let Some(before) = before.filter(|before| *before != now && ranks.is_first()) {
                tracing::warn!("from step {step} on a step has {now} samples; before it had {before}");
            }
        }
        let control = number_parameters(control);
        let average = average.unwrap_or_else(|| control.valid());
        let image_space =
            config.model.image_encoder().map(|tower| ImageSpace::load_tower(&tower, &device)).transpose()?;
        Ok(Self {
            schedule: NoiseSchedule::new(&base.scheduler)?,
            loader: Loader::slice(Arc::new(samples), position, ranks.slice(config.train.samples_per_step()))?,
            latents: Latents::new(config.data.crop == Crop::Center),
            ranks,
            device,
            base,
            control_config,
            control,
            average,
            optimizer,
            held_out,
            image_space,
            step,
            buckets: None,
        })
    }

    fn run(&mut self, config: &RunConfig, folder: &RunFolder, interrupted: &AtomicBool) -> Result<Outcome> {
        let (train, ranks) = (&config.train, self.ranks);
        let samples = ranks.count() * train.samples_per_step();
        let checkpoints = folder.checkpoints(train.keep_checkpoints);
        let mut journal = ranks.is_first().then(|| Journal::open(folder, train.steps, self.step)).transpose()?;
        if let (Some(journal), 2..) = (&journal, ranks.count()) {
            journal.say(&format!("ranks {}, machines {}, samples a step {samples}", ranks.count(), ranks.machines()));
        }
        ranks.agree("the norm of the weights", weight_norm(&self.control))?;
        let mut bad_steps = 0;
        let mut score = None;
        while self.step < train.steps {
            let started = Instant::now();
            let batches = self.batches(train.batch_size, train.accumulate)?;
            let waited = started.elapsed();
            let inputs = self.prepared(&batches, config.run.seed)?;
            let (loss, norm) = self.train_on(inputs, config)?;
            if loss.is_finite() && norm.is_finite() {
                bad_steps = 0;
            } else {
                bad_steps += 1;
                if let Some(journal) = &journal {
                    journal.say(&format!("step {}: the loss is {loss}, its gradient {norm}: step skipped", self.step));
                }
            }
            let took = started.elapsed().as_secs_f64();
            let mut metrics = StepMetrics {
                step: self.step,
                loss,
                learning_rate: self.optimizer.learning_rate(self.step),
                grad_norm: norm,
                images_per_second: samples as f64 / took,
                data_wait: Some(ranks.mean(waited.as_secs_f64() / took)),
                ..StepMetrics::default()
            };
            self.step += 1;
            if self.step.is_multiple_of(train.validate_every) || self.step == train.steps {
                let loss = self.validate(config)?;
                score = Some(-loss);
                metrics.more.insert("validation_loss".into(), Some(loss));
                if let Some(journal) = &mut journal {
                    let sheet = sheet(&self.base, &self.branch(config), &self.held_out, &config.evaluate)?.draw();
                    journal.validation(self.step, loss, &sheet)?;
                }
                ranks.wait();
            }
            if let Some(journal) = &mut journal {
                journal.step(&metrics)?;
            }
            if bad_steps >= train.max_bad_steps {
                bail!("{}", self.lost(bad_steps, &checkpoints));
            }
            let stop = ranks.any(interrupted.load(Ordering::Relaxed));
            if self.step.is_multiple_of(train.checkpoint_every) || self.step == train.steps || stop {
                ranks.agree("the norm of the weights", weight_norm(&self.control))?;
                if ranks.is_first() {
                    self.save(&checkpoints, score.take(), samples)?;
                }
            }
            if stop && self.step < train.steps {
                return Ok(Outcome::Interrupted(self.step));
            }
        }
        drop(journal);
        let skipped = self.skipped();
        if ranks.is_first() {
            self.finish(config, folder, skipped)?;
        }
        ranks.wait();
        Ok(Outcome::Finished)
    }

    pub fn batches(&mut self, size: usize, count: usize) -> Result<Vec<Vec<TrainingSample>>> {
        (0..count).map(|_| Ok(self.loader.batch(size)?)).collect()
    }

    /// What a step computes with.
    pub fn prepared(&mut self, batches: &[Vec<TrainingSample>], seed: u64) -> Result<Vec<Inputs>> {
        let inputs = batches.iter().map(|batch| {
            let latents = batch.iter().map(|sample| self.latents.of(&self.base, sample, &self.device)).collect();
            self.inputs(batch, latents, seed)
        });
        inputs.collect()
    }

    /// Forward, backward and, where loss and gradients are finite, the optimiser and the average. Gives the mean loss of
    /// all ranks' batches, and its gradients' joint norm before it is clipped.
    pub fn train_on(&mut self, inputs: Vec<Inputs>, config: &RunConfig) -> Result<(f64, f64)> {
        let (unet, train) = (&self.base.unet, &config.train);
        let loss = |control: &Control, inputs: Inputs| Ok(inputs.loss(unet, control));
        let (ranks, control, how) = (self.ranks, &self.control, config.computation());
        let (loss, gradients) = if ranks.count() == 1 {
            gradients(control, inputs, how, loss)?
        } else {
            let buckets = match self.buckets.take() {
                Some(buckets) => buckets,
                None => {
                    let order = order_of_gradients(control, inputs[0].clone(), how, loss)?;
                    ranks.buckets(control, &order, train.bucket_megabytes * 1_000_000)
                }
            };
            gradients_of_all(ranks, self.buckets.insert(buckets), control, inputs, how, loss)?
        };
        let loss = self.ranks.mean(loss);
        let norm = self.ranks.agree("the norm of the gradients", grad_norm(&self.control, &gradients))?;
        if loss.is_finite() && norm.is_finite() {
            self.update(gradients, norm, train.ema_decay);
        }
        Ok((loss, norm))
    }

    /// Everything of a batch that has no gradient: noisy latents, texts, pictures. `latents` are those of the clean
    /// pictures.
    fn inputs(&self, batch: &[TrainingSample], latents: Vec<Tensor<4>>, seed: u64) -> Result<Inputs> {
        let clean = Tensor::cat(latents, 0);
        let [_, channels, height, width] = clean.dims();
        let (mut timesteps, mut noises) = (Vec::new(), Vec::new());
        for sample in batch {
            let mut rng = rng(seed, "diffusion", sample.n);
            timesteps.push(rng.random_range(0..self.schedule.num_train_timesteps()));
            noises.push(noise(&mut rng, [channels, height, width], &self.device));
        }
        let noise = Tensor::cat(noises, 0);
        let semantic: Vec<_> = batch.iter().map(|sample| &sample.semantic).collect();
        let restoration: Vec<_> = batch.iter().map(|sample| &sample.restoration).collect();
        let times: Vec<f32> = timesteps.iter().map(|&timestep| timestep as f32).collect();
        Ok(Inputs {
            noisy: self.schedule.add_noise(clean.clone(), noise.clone(), &timesteps)?,
            target: self.schedule.target(clean, noise, &timesteps)?,
            timesteps: Tensor::from_floats(times.as_slice(), &self.device),
            semantic: self.base.prompts.encode(&semantic),
            restoration: self.base.prompts.encode(&restoration),
            degraded: pictures::to_tensor(batch.iter().map(|sample| &sample.degraded), &self.device),
        })
    }

    /// The average, as it samples and is evaluated.
    fn branch(&self, config: &RunConfig) -> Control {
        weights::cast(self.average.clone(), config.model.control_precision)
    }

    fn update(&mut self, gradients: GradientsParams, norm: f64, ema_decay: f64) {
        self.control = self.optimizer.step(self.step, self.control.clone(), gradients, norm);
        let decay = ema::decay_at(ema_decay, self.step);
        self.average = ema::update(self.average.clone(), &self.control, decay);
    }

    /// The moving average's loss on held-out samples, with the same timesteps and noise every time; the ranks share them.
    fn validate(&self, config: &RunConfig) -> Result<f64> {
        let count = config.evaluate.validation_samples as u64;
        let branch = self.branch(config);
        let mut total = 0.0;
        for n in self.ranks.share(count) {
            let sample = self.held_out.sample(n)?;
            let latent = Latents::new(false).of(&self.base, &sample, &self.device);
            let inputs = self.inputs(&[sample], vec![latent], config.evaluate.seed)?;
            total += f64::from(inputs.loss(&self.base.unet, &branch).into_scalar::<f32>());
        }
        Ok(self.ranks.sum(total) / count as f64)
    }

    fn save(&self, checkpoints: &CheckpointStore, score: Option<f64>, samples_per_step: usize) -> Result<PathBuf> {
        let state =
            State { step: self.step, position: self.loader.position(), samples_per_step: Some(samples_per_step) };
        let file = |name| -> Result<(&str, Vec<u8>)> {
            let bytes = match name {
                CONFIG => self.control_config.to_json()?,
                AVERAGE => weights::to_bytes(&self.average, DType::F32)?,
                WEIGHTS => weights::to_bytes(&self.control, DType::F32)?,
                OPTIMIZER => self.optimizer.to_bytes()?,
                _ => serde_json::to_vec_pretty(&state)?,
            };
            Ok((name, bytes))
        };
        checkpoints.save(self.step, [CONFIG, AVERAGE, WEIGHTS, OPTIMIZER, STATE].into_iter().map(file), score)
    }

    fn lost(&self, bad_steps: u32, checkpoints: &CheckpointStore) -> String {
        let last = match checkpoints.latest() {
            Ok(Some(checkpoint)) => format!("the last good checkpoint is {}", checkpoint.dir.display()),
            _ => "there is no checkpoint yet".into(),
        };
        format!("the loss was not finite for {bad_steps} steps in a row; {last}; lower train.learning_rate")
    }

    /// How many pictures of the source could not be used, whichever ranks met them.
    fn skipped(&self) -> usize {
        let own: Vec<_> = self.loader.samples().skipped().iter().map(|skipped| format!("{skipped:?}")).collect();
        let all = self.ranks.texts(&own.join("\n"));
        all.iter().flat_map(|skipped| skipped.lines()).collect::<BTreeSet<_>>().len()
    }

    fn finish(&mut self, config: &RunConfig, folder: &RunFolder, skipped: usize) -> Result<()> {
        let control = folder.control();
        std::fs::create_dir_all(&control).with_context(|| format!("can't create {}", control.display()))?;
        write_atomic(&control.join(CONFIG), &self.control_config.to_json()?)?;
        write_atomic(&control.join(AVERAGE), &weights::to_bytes(&self.average, DType::F32)?)?;
        let steps = metrics_log::read(&folder.metrics())?;
        let (first, last) = smoothed_ends(steps.iter().map(|metrics| metrics.loss));
        let rate: f64 = steps.iter().map(|metrics| 1.0 / metrics.images_per_second).sum();
        let mut summary = json!({
            "steps": self.step,
            "first_smoothed_loss": first,
            "last_smoothed_loss": last,
            "images_per_second": steps.len() as f64 / rate,
            "ranks": self.ranks.count(),
            "skipped_samples": skipped,
            "parameters": { "trained": self.control.num_params(), "frozen_unet": self.base.unet.num_params() },
        });
        if config.evaluate.samples > 0 {
            let (degraded, restored) = evaluate(
                &self.base,
                &self.branch(config),
                &self.held_out,
                &config.evaluate,
                self.image_space.as_ref(),
            )?;
            summary["held_out"] = json!({
                "samples": config.evaluate.samples,
                "sampling": config.evaluate.sampling,
                "degraded": degraded,
                "restored": restored,
            });
        }
        // Last, so that the evaluation counts.
        summary["peak_memory_bytes"] = json!(memory::peak());
        write_atomic(&folder.summary(), serde_json::to_string_pretty(&summary)?.as_bytes())?;
        Ok(())
    }
}

/// The control branch that a run starts from, on `device`: one that is there already, or a copy of the UNet's encoder.
pub(crate) fn starting_control(model: &ModelSection, base: &Base, device: &Device) -> Result<(ControlConfig, Control)> {
    let (config, control) = match &model.control {
        Some(folder) => (ControlConfig::read(folder)?, Control::load(folder, device)?),
        None => {
            let fitting = model.control_config(&base.unet_config);
            let mut control = Control::from_unet(&fitting, &base.unet, device)?;
            if let Some(folder) = &model.embedding {
                let latent = base.unet_config.in_channels;
                let fresh = ConditioningEmbedding::fresh(&model.embedding_channels, latent, device)?;
                control = control.with_embedding(weights::load(fresh, folder)?);
            }
            (fitting, control)
        }
    };
    config.check_fits(&base.unet_config)?;
    Ok((config, control))
}

/// The network's inputs and target of one batch.
#[derive(Clone)]
pub(crate) struct Inputs {
    pub noisy: Tensor<4>,
    pub target: Tensor<4>,
    pub timesteps: Tensor<1>,
    pub semantic: Tensor<3>,
    pub restoration: Tensor<3>,
    pub degraded: Tensor<4>,
}

impl Inputs {
    /// Mean squared error of the prediction, `[1]`.
    fn loss(self, unet: &spire_model::unet::UNet, control: &Control) -> Tensor<1> {
        let embedded = control.embed(self.degraded);
        let predicted = predict(unet, control, self.noisy, self.timesteps, self.semantic, self.restoration, embedded);
        (predicted - self.target).square().mean()
    }
}

/// Latents of clean pictures, by their position in the source; kept only where a picture is cut the same way every time.
struct Latents {
    kept: Option<HashMap<usize, Tensor<4>>>,
}

impl Latents {
    fn new(keep: bool) -> Self {
        Self { kept: keep.then(HashMap::new) }
    }

    /// `[1, channels, height / 8, width / 8]`. One picture at a time: a batch of another size may round differently, and a run
    /// that goes on meets other batches of unseen pictures.
    fn of(&mut self, base: &Base, sample: &TrainingSample, device: &Device) -> Tensor<4> {
        let encode = || base.encode_pictures(pictures::to_tensor([&sample.clean], device));
        match &mut self.kept {
            Some(kept) => kept.entry(sample.index).or_insert_with(encode).clone(),
            None => encode(),
        }
    }
}

/// Mean loss of the first and of the last twentieth of the steps.
fn smoothed_ends(losses: impl Iterator<Item = f64>) -> (f64, f64) {
    let losses: Vec<f64> = losses.filter(|loss| loss.is_finite()).collect();
    let window = (losses.len() / 20).max(1).min(losses.len());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    (mean(&losses[..window]), mean(&losses[losses.len() - window..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_loss_are_means_of_finite_values() {
        let losses = (0..40).map(|step| if step == 0 { f64::NAN } else { f64::from(step) });
        assert_eq!(smoothed_ends(losses), (1.0, 39.0));
    }
}
