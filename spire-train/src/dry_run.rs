//! What a run needs, before anything is allocated: `spire train --dry-run`.

use std::fmt;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use spire_data::loader::{Crop, Samples};
use spire_model::base::BaseConfig;
use spire_model::clip::{ClipVision, ClipVisionConfig};
use spire_model::control::{ConditioningEmbedding, Control, ControlConfig};
use spire_model::cost::{self, ControlCost, Cost, UNetCost};
use spire_model::decoupling::Prompts;
use spire_model::fusion::Fusion;
use spire_model::scheduler::NoiseSchedule;
use spire_model::weights::{Tensors, check_fit, parameters};

use crate::config::RunConfig;
use crate::evaluate::held_out;
use crate::run_folder::RunFolder;
use crate::trainer::located;

/// Bytes of a number with 32 bits: everything but the frozen model.
const F32: u64 = 4;
/// Numbers that AdamW keeps for each parameter: the moments.
const MOMENTS: u64 = 2;

/// What a run needs; displayed as tables.
#[derive(Debug)]
pub struct DryRun {
    config: RunConfig,
    base: BaseConfig,
    /// Pictures of the training data.
    pictures: u64,
    text: Cost,
    vae_encoder: Cost,
    vae_decoder: Cost,
    unet: UNetCost,
    control: ControlCost,
    prompts: Prompts,
    /// Parameters of the branch if its fusion were ControlNet's addition.
    added: u64,
    image_encoder: Option<u64>,
}

/// Checks a run as far as that goes without computing, and counts what it needs. Of weights only headers are read, no tensor
/// is allocated and nothing is written; a model that is named by its place on the Hugging Face Hub is fetched as for a run.
///
/// # Errors
/// As [`train`](crate::trainer::train), up to its first step; that the run's folder is taken is only a warning.
pub fn dry_run(config: RunConfig) -> Result<DryRun> {
    let config = located(config)?;
    if let Err(taken) = RunFolder::check_free(&config) {
        tracing::warn!("{taken:#}");
    }
    count(config)
}

/// As [`dry_run`], of a configuration that is located already, for what writes no run folder.
pub(crate) fn count(config: RunConfig) -> Result<DryRun> {
    for device in config.run.device.split(',') {
        config.model.check_precision(&spire_model::device::device(device.trim())?)?;
    }
    let samples = Samples::open(config.data.clone(), config.degradation.clone(), config.run.seed)?;
    held_out(&config)?;
    let base = BaseConfig::read(&config.model.base)?;
    NoiseSchedule::new(&base.scheduler)?;
    let sampling = &config.evaluate.sampling;
    sampling.sampler.build(&base.scheduler, sampling.steps)?;
    config.check_size(base.side_multiple())?;
    let control_config = control_config(&config, &base)?;
    let added = ControlConfig {
        conditioning_channels: control_config.conditioning_channels,
        ..ControlConfig::for_unet(
            &control_config.encoder,
            Fusion::Add,
            control_config.conditioning_embedding_out_channels.clone(),
        )
    };
    let tokens = control_config.prompts.tokens(base.text.max_position_embeddings);
    let picture = [config.data.size; 2];
    let latent = picture.map(|side| side / base.vae.downscale());
    Ok(DryRun {
        pictures: samples.epoch_len() as u64,
        text: cost::text_encoder(&base.text),
        vae_encoder: cost::vae_encoder(&base.vae, picture),
        vae_decoder: cost::vae_decoder(&base.vae, latent),
        unet: cost::unet(&base.unet, latent, tokens),
        control: cost::control(&control_config, latent, tokens),
        prompts: control_config.prompts,
        added: cost::control(&added, latent, tokens).total().parameters,
        image_encoder: image_encoder(&config)?,
        base,
        config,
    })
}

/// The branch that is trained: one that is there already, or a copy of the UNet's encoder.
fn control_config(config: &RunConfig, base: &BaseConfig) -> Result<ControlConfig> {
    let device = &Device::flex();
    let control = match &config.model.control {
        Some(folder) => {
            let control = ControlConfig::read(folder)?;
            check_fit(&Control::new(&control, device)?, &Tensors::in_folder(folder)?)?;
            control
        }
        None => {
            let control = config.model.control_config(&base.unet);
            Control::new(&control, device)?;
            control
        }
    };
    control.check_fits(&base.unet)?;
    let halvings = control.conditioning_embedding_out_channels.len() - 1;
    ensure!(
        1_usize.checked_shl(halvings as u32) == Some(base.vae.downscale()),
        "the control branch's embedding halves pictures {halvings} times, the VAE makes latents of 1/{} of their side: \
         model.embedding_channels needs {} entries",
        base.vae.downscale(),
        base.vae.block_out_channels.len()
    );
    if let (Some(folder), None) = (&config.model.embedding, &config.model.control) {
        let fresh = ConditioningEmbedding::fresh(&config.model.embedding_channels, base.unet.in_channels, device)?;
        check_fit(&fresh, &Tensors::in_folder(folder)?)?;
    }
    Ok(control)
}

/// Parameters of CLIP's image tower, where the run has one.
fn image_encoder(config: &RunConfig) -> Result<Option<u64>> {
    let Some(folder) = config.model.image_encoder() else { return Ok(None) };
    let tower = ClipVision::new(&ClipVisionConfig::read(&folder)?, &Device::flex())?;
    check_fit(&tower, &Tensors::in_folder(&folder)?)?;
    let numbers = |parameter: &spire_model::weights::Parameter| parameter.shape.iter().product::<usize>() as u64;
    Ok(Some(parameters(&tower).iter().map(numbers).sum()))
}

/// Bytes that one part of a model needs in training.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    weights: u64,
    gradients: u64,
    optimizer: u64,
    average: u64,
    activations: u64,
}

impl Memory {
    fn columns(self) -> [u64; 5] {
        [self.weights, self.gradients, self.optimizer, self.average, self.activations]
    }
}

impl DryRun {
    /// The parts, with their costs for one image or text; those of the control branch, which are trained, last.
    fn parts(&self) -> [(&'static str, Cost); 8] {
        [
            ("text encoder", self.text),
            ("VAE encoder", self.vae_encoder),
            ("VAE decoder", self.vae_decoder),
            ("UNet encoder", self.unet.encoder),
            ("UNet decoder", self.unet.decoder),
            ("branch: embedding", self.control.embedding),
            ("branch: encoder", self.control.encoder),
            ("branch: fusion", self.control.fusion),
        ]
    }

    /// How often each part computes for a training image, and for a restored one.
    fn passes(&self) -> [(u64, u64); 8] {
        let sampling = &self.config.evaluate.sampling;
        let halves = if sampling.guidance_scale != 1.0 { 2 } else { 1 };
        let steps = match sampling.strength {
            // As the sampling loop: so many of the steps, but at least one.
            strength if strength < 1.0 => ((sampling.steps as f64 * strength) as u64).max(1),
            _ => sampling.steps as u64,
        };
        let denoising = (1, steps * halves);
        let texts = (2, 1 + halves);
        // The halves of guidance differ in what the UNet is told.
        let branch = match self.prompts {
            Prompts::Decoupled => (1, steps),
            Prompts::Joined => denoising,
        };
        let encoded = (1, u64::from(sampling.strength < 1.0));
        [texts, encoded, (0, 1), denoising, denoising, (1, 1), branch, branch]
    }

    /// Floating-point operations of UNet and branch for one image of a training step, forward and backward.
    pub(crate) fn training_flops(&self) -> u64 {
        self.parts()[3..].iter().map(|(_, cost)| cost.forward + cost.backward).sum()
    }

    /// Floating-point operations of restoring one image, without its texts.
    pub(crate) fn restoration_flops(&self) -> u64 {
        let parts = self.parts().into_iter().zip(self.passes());
        parts.skip(1).map(|((_, cost), (_, restoring))| cost.forward * restoring).sum()
    }

    /// Batches whose activations are held at a time.
    fn in_flight(&self) -> u64 {
        self.config.train.threads.min(self.config.train.accumulate) as u64
    }

    /// Numbers that a part's forward pass keeps for the backward pass.
    fn kept(&self, cost: &Cost) -> u64 {
        cost.kept - if self.config.train.gradient_checkpointing { cost.recomputed } else { 0 }
    }

    /// Bytes of each part. The gradients of batches that are computed at a time lie beside the sum of those before; in 16
    /// bits, so do copies of the weights, and the sum, which has 32, is never the first batch's.
    fn memory(&self) -> Vec<(&'static str, Memory)> {
        let train = &self.config.train;
        let frozen = self.config.model.precision.dtype().size() as u64;
        let images = self.in_flight() * train.batch_size as u64;
        let (own, compute) = (F32, self.config.model.control_precision.dtype().size() as u64);
        let copied = compute != own;
        let sums = u64::from(copied || train.accumulate > train.threads);
        let part = |(i, (name, cost)): (usize, (&'static str, Cost))| {
            if i < 5 {
                let (weights, activations) = (frozen * cost.parameters, frozen * self.kept(&cost) * images);
                return (name, Memory { weights, activations, ..Memory::default() });
            }
            let (weights, computed) = (own * cost.parameters, compute * cost.parameters);
            let memory = Memory {
                weights: weights + if copied { computed * self.in_flight() } else { 0 },
                gradients: computed * self.in_flight() + weights * sums,
                optimizer: MOMENTS * weights,
                average: weights,
                activations: compute * self.kept(&cost) * images,
            };
            (name, memory)
        };
        let tower =
            self.image_encoder.map(|count| ("image encoder", Memory { weights: F32 * count, ..Memory::default() }));
        self.parts().into_iter().enumerate().map(part).chain(tower).collect()
    }

    /// Bytes of the largest part that gradient checkpointing computes again, while it does.
    fn recomputed(&self) -> u64 {
        let model = &self.config.model;
        let bytes = |(i, (_, cost)): (usize, (&str, Cost))| {
            let number = if i < 5 { model.precision } else { model.control_precision }.dtype().size() as u64;
            number * cost.largest_recomputed * self.config.train.batch_size as u64
        };
        self.in_flight() * self.parts().into_iter().enumerate().map(bytes).max().unwrap_or(0)
    }

    /// Bytes that are kept of the data, with what they are.
    fn caches(&self) -> Vec<(String, u64)> {
        let (train, data, text) = (&self.config.train, &self.config.data, &self.base.text);
        let samples = train.steps.saturating_mul(train.samples_per_step() as u64);
        let pictures = self.pictures.min(samples);
        let side = (data.size / self.base.vae.downscale()) as u64;
        let latent = F32 * side * side * self.base.vae.latent_channels as u64;
        let text = F32 * (text.max_position_embeddings * text.hidden_size) as u64;
        // The Real-ESRGAN pipeline has one prompt, the other as many as it draws.
        let prompts = (samples as f64 * self.config.degradation.parameterized_share) as u64;
        let mut caches = vec![];
        if data.crop == Crop::Center {
            caches.push((format!("latents of {pictures} pictures"), pictures * latent));
        }
        let (states, bound) = ((pictures + prompts).saturating_mul(text), self.config.model.text_cache_bytes() as u64);
        let bounded = if states > bound { ", as many as model.text_cache_megabytes holds" } else { "" };
        caches.push((
            format!("states of at most {pictures} captions and {prompts} restoration prompts{bounded}"),
            states.min(bound),
        ));
        let picture = F32 * 3 * (data.size * data.size) as u64;
        caches.push((format!("{} samples prepared ahead", data.prefetch), 2 * picture * data.prefetch as u64));
        caches
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_parameters(f)?;
        writeln!(f)?;
        self.write_operations(f)?;
        writeln!(f)?;
        self.write_memory(f)
    }
}

impl DryRun {
    fn write_parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frozen: Cost = self.parts()[..5].iter().map(|(_, cost)| *cost).sum();
        let trained = self.control.total().parameters;
        let total = frozen.parameters + trained;
        let percent = |count: u64| 100.0 * count as f64 / total as f64;
        writeln!(f, "{:<20} {:>14} {:>8}", "parameters", "number", "share")?;
        for (name, cost) in self.parts() {
            writeln!(f, "{name:<20} {:>14} {:>6.2} %", cost.parameters, percent(cost.parameters))?;
        }
        writeln!(f, "{:<20} {total:>14} {:>6.2} %", "total", 100.0)?;
        writeln!(f, "{:<20} {trained:>14} {:>6.2} %", "trained", percent(trained))?;
        if let Some(count) = self.image_encoder {
            writeln!(f, "{:<20} {count:>14}   for figures only, not in the total", "image encoder")?;
        }
        let fusion = self.control.fusion.parameters as f64;
        writeln!(
            f,
            "The fusion layers are {:.2} % of what is trained. The branch has {:.3} times the {} parameters that it has \
             with ControlNet's addition (the paper's Table 7: 1.03, and 1.06 with the decoder modulated too).",
            100.0 * fusion / trained as f64,
            trained as f64 / self.added as f64,
            self.added
        )
    }

    fn write_operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, sampling) = (self.config.data.size, &self.config.evaluate.sampling);
        let header = format!("FLOPs, {size}×{size}");
        writeln!(f, "{header:<20} {:>10} {:>12} {:>12} {:>14}", "one pass", "forward", "backward", "restoration")?;
        let mut totals = [0, 0, 0];
        for ((name, cost), (training, restoring)) in self.parts().into_iter().zip(self.passes()) {
            let columns = [cost.forward * training, cost.backward, cost.forward * restoring];
            for (total, column) in totals.iter_mut().zip(columns) {
                *total += column;
            }
            let [forward, backward, restored] = columns.map(amount);
            writeln!(f, "{name:<20} {:>10} {forward:>12} {backward:>12} {restored:>14}", amount(cost.forward))?;
        }
        let [forward, backward, restored] = totals.map(amount);
        writeln!(f, "{:<20} {:>10} {forward:>12} {backward:>12} {restored:>14}", "an image", "")?;
        let step: Cost = self.parts()[3..].iter().map(|(_, cost)| *cost).sum();
        writeln!(
            f,
            "Multiply-adds count twice; normalisations and what is done number by number do not count. Forward and backward \
             are a training image's; a text or a latent that was met before is not computed again. A restoration is {} steps \
             with guidance {}; one pass through the UNet and the branch is {}FLOPs (the paper: 1130 GFLOPs a step).{}",
            sampling.steps,
            sampling.guidance_scale,
            amount(step.forward),
            if sampling.clip_guidance.is_some() { " Guidance by CLIP is not counted." } else { "" }
        )
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, columns: [u64; 5]| {
            let [weights, gradients, optimizer, average, activations] = columns.map(bytes);
            writeln!(f, "{name:<20} {weights:>10} {gradients:>10} {optimizer:>10} {average:>10} {activations:>12}")
        };
        let header = ["weights", "gradients", "optimiser", "average", "activations"];
        let [weights, gradients, optimizer, average, activations] = header;
        writeln!(f, "{:<20} {weights:>10} {gradients:>10} {optimizer:>10} {average:>10} {activations:>12}", "memory")?;
        let mut totals = [0; 5];
        for (name, memory) in self.memory() {
            row(f, name, memory.columns())?;
            for (total, column) in totals.iter_mut().zip(memory.columns()) {
                *total += column;
            }
        }
        row(f, "total", totals)?;
        let mut beside = self.caches();
        if self.config.train.gradient_checkpointing {
            beside.push(("the largest part that is computed again, while it is".into(), self.recomputed()));
        }
        for (what, size) in &beside {
            writeln!(f, "{}: {}", bytes(*size), what)?;
        }
        let total = totals.into_iter().sum::<u64>() + beside.iter().map(|(_, size)| size).sum::<u64>();
        write!(
            f,
            "{} in all. Activations are an estimate from shapes, of what {} × {} images keep for the backward pass; what \
             operators need for a moment comes on top.",
            bytes(total),
            self.in_flight(),
            self.config.train.batch_size,
        )
    }
}

/// Three figures and a decimal prefix: `1.09 T`; a dash for nothing.
pub(crate) fn amount(count: u64) -> String {
    if count == 0 {
        return "–".into();
    }
    let prefixes = ["", "k", "M", "G", "T", "P", "E"];
    let mut value = count as f64;
    let mut prefix = 0;
    while value >= 999.5 && prefix + 1 < prefixes.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let decimals = match value {
        _ if prefix == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", prefixes[prefix])
}

pub(crate) fn bytes(count: u64) -> String {
    if count == 0 { amount(0) } else { format!("{}B", amount(count)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(overrides: &[&str]) -> Result<DryRun> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let asset = |key: &str, folder: &str| format!("model.{key}={}", root.join("assets").join(folder).display());
        let assets = [asset("base", "tiny"), asset("embedding", "tiny/embedding")];
        let overrides: Vec<String> = assets.into_iter().chain(overrides.iter().map(|&change| change.into())).collect();
        dry_run(crate::settings::load(&root.join("configs/tiny.toml"), &overrides)?)
    }

    #[test]
    fn amounts_have_three_figures() {
        for (count, text) in [
            (0, "–"),
            (999, "999 "),
            (12_345, "12.3 k"),
            (9_996, "10.0 k"),
            (999_600, "1.00 M"),
            (1_087_825_805_312, "1.09 T"),
            (803_273_441_280, "803 G"),
        ] {
            assert_eq!(amount(count), text);
        }
    }

    #[test]
    fn memory_grows_with_what_a_step_holds() {
        let held = |overrides: &[&str]| {
            let parts = tiny(overrides).unwrap().memory();
            let (_, fusion) = parts.into_iter().find(|(name, _)| *name == "branch: fusion").unwrap();
            fusion
        };
        let one = held(&["train.accumulate=1", "train.threads=1", "train.batch_size=4"]);
        assert_eq!(one.gradients, one.weights);
        assert_eq!(one.optimizer, 2 * one.weights);
        let two = held(&["train.accumulate=2", "train.threads=2", "train.batch_size=4"]);
        assert_eq!((two.activations, two.gradients), (2 * one.activations, 2 * one.gradients));
        // The sum of the first two batches' gradients, and those of the second two.
        let four = held(&["train.accumulate=4", "train.threads=2", "train.batch_size=4"]);
        assert_eq!((four.activations, four.gradients), (2 * one.activations, 3 * one.gradients));
    }

    #[test]
    fn gradient_checkpointing_keeps_what_goes_into_a_block() {
        let counted = |on: bool| tiny(&[&format!("train.gradient_checkpointing={on}"), "train.threads=1"]).unwrap();
        let (all, some) = (counted(false), counted(true));
        for ((name, all), (_, some)) in all.memory().into_iter().zip(some.memory()) {
            match name {
                "UNet decoder" | "branch: embedding" | "branch: encoder" => {
                    assert!(2 * some.activations < all.activations, "{name}");
                    assert!(name == "branch: encoder" || some.activations > 0, "{name}");
                }
                _ => assert_eq!(some.activations, all.activations, "{name}"),
            }
        }
        // One block of many.
        let encoder = all.memory().into_iter().find(|(name, _)| *name == "branch: encoder").unwrap().1;
        assert!(some.recomputed() > 0 && some.recomputed() < encoder.activations, "{}", some.recomputed());
    }

    #[test]
    fn half_precision_halves_the_frozen_parts_alone() {
        let (full, half) = (tiny(&[]).unwrap().memory(), tiny(&["model.precision=bf16"]).unwrap().memory());
        for ((name, full), (_, half)) in full.into_iter().zip(half) {
            let trained = name.starts_with("branch") || name == "image encoder";
            assert_eq!(full.weights, if trained { half.weights } else { 2 * half.weights }, "{name}");
        }
    }

    #[test]
    fn a_branch_in_half_precision_keeps_its_own_weights_whole() {
        let one = ["train.accumulate=1", "train.threads=1"];
        let full = tiny(&one).unwrap().memory();
        let half = tiny(&[one.as_slice(), &["model.control_precision=bf16"]].concat()).unwrap().memory();
        for ((name, full), (_, half)) in full.into_iter().zip(half).filter(|((name, _), _)| name.starts_with("branch"))
        {
            assert_eq!(2 * half.weights, 3 * full.weights, "{name}");
            assert_eq!(2 * half.gradients, 3 * full.gradients, "{name}");
            assert_eq!((half.optimizer, half.average), (full.optimizer, full.average), "{name}");
            assert_eq!(2 * half.activations, full.activations, "{name}");
        }
    }

    #[test]
    fn guidance_asks_the_branch_twice_only_where_it_reads_the_semantic_prompt() {
        for (prompts, halves) in [("decoupled", 1), ("joined", 2)] {
            let counted = tiny(&[&format!("model.prompts={prompts}"), "evaluate.sampling.steps=20"]).unwrap();
            let [.., decoder, embedding, encoder, fusion] = counted.passes().map(|(_, restoring)| restoring);
            assert_eq!([decoder, embedding, encoder, fusion], [40, 1, 20 * halves, 20 * halves], "{prompts}");
        }
    }

    #[test]
    fn what_a_run_could_not_do_is_an_error() {
        for (change, part) in [
            ("data.size=72", "multiple"),
            ("train.batch_size=0", "train.batch_size"),
            ("model.embedding_channels=[8, 16]", "model.embedding_channels needs 4"),
            ("model.embedding_channels=[8, 8, 8, 8]", "blocks.1.weight"),
            ("model.embedding=nowhere", "nowhere"),
            ("evaluate.sampling.steps=1001", "steps"),
        ] {
            let error = format!("{:#}", tiny(&[change]).unwrap_err());
            assert!(error.contains(part), "{change}: {error}");
        }
    }
}
