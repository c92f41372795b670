//! What a run needs, before anything is allocated: `spire train --dry-run`.

mod memory;
mod parts;
mod tables;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use spire_core::message::with_causes;
use spire_data::encoded::{Encoded, Manifest};
use spire_model::base::{BaseConfig, Parts};
use spire_model::clip::{ClipVision, ClipVisionConfig};
use spire_model::control::{ConditioningEmbedding, Control, ControlConfig};
use spire_model::cost;
use spire_model::decoupling::PromptRouting;
use spire_model::fusion::Fusion;
use spire_model::scheduler::NoiseSchedule;
use spire_model::weights::{Tensors, check_weights, parameters};

use self::parts::{Costs, Part, PartKind};
use crate::config::RunConfig;
use crate::encoding;
use crate::run_folder::RunFolder;
use crate::training::held_out::{held_out, training_samples};
use crate::training::start::of_new_run;

/// What a run needs; displayed as tables.
#[derive(Debug)]
pub struct DryRun {
    config: RunConfig,
    base: BaseConfig,
    /// Pictures of the training data.
    pictures: u64,
    /// Which of them are encoded.
    encoded: Option<Manifest>,
    costs: Costs,
    /// Which prompts the branch attends to.
    prompts: PromptRouting,
    /// Parameters that the branch would have with ControlNet's addition as its fusion.
    parameters_with_addition: u64,
    /// Parameters of CLIP's image tower.
    image_encoder: Option<u64>,
}

/// Checks a run as far as possible without computing, and counts what it needs. It reads weights one tensor at a
/// time, allocates no models and writes nothing. A model on the Hugging Face Hub is downloaded as for a run.
///
/// # Errors
/// As [`train`](crate::training::train), up to its first step. If the run folder exists already, that is only a
/// warning.
pub fn dry_run(config: RunConfig) -> Result<DryRun> {
    let config = of_new_run(config)?;
    if let Err(taken) = RunFolder::check_free(&config) {
        tracing::warn!("{}", with_causes(taken.as_ref()));
    }
    config.remarks().iter().for_each(|remark| tracing::warn!("{remark}"));
    count(config)
}

/// As [`dry_run`], for a configuration whose models are located, and that writes no run folder.
pub(super) fn count(mut config: RunConfig) -> Result<DryRun> {
    for device in config.devices() {
        config.model.check_precision(&spire_model::device::device(device)?)?;
    }
    let samples = training_samples(&config)?;
    let devices = config.devices().count();
    config.train = config.train.with_epochs_as_steps(samples.epoch_len(), devices);
    held_out(&config)?;
    let base = BaseConfig::read_variant(&config.model.base, config.model.variant.as_deref())?;
    NoiseSchedule::new(&base.scheduler)?;
    let sampling = &config.evaluate.sampling;
    sampling.sampler.build(&base.scheduler, sampling.steps)?;
    config.check_size(base.side_multiple())?;
    let control_config = control_config(&config, &base)?;
    let with_addition = ControlConfig {
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
        encoded: samples.encoded().map(Encoded::manifest).cloned(),
        costs: Costs {
            text: cost::text_encoder(&base.text),
            vae_encoder: cost::vae_encoder(&base.vae, picture),
            vae_decoder: cost::vae_decoder(&base.vae, latent),
            unet: cost::unet(&base.unet, latent, tokens),
            control: cost::control(&control_config, latent, tokens),
        },
        prompts: control_config.prompts,
        parameters_with_addition: cost::control(&with_addition, latent, tokens).total().parameters,
        image_encoder: image_encoder(&config)?,
        base,
        config,
    })
}

/// The branch that is trained: the one in `model.control`, or else a copy of the UNet's encoder.
fn control_config(config: &RunConfig, base: &BaseConfig) -> Result<ControlConfig> {
    let device = &Device::flex();
    let control = match &config.model.control {
        Some(folder) => {
            let control = ControlConfig::read(folder)?;
            check_weights(&Control::new(&control, device)?, &Tensors::in_folder(folder)?)?;
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
        let fresh = ConditioningEmbedding::fresh(&config.model.embedding_channels(), base.unet.in_channels, device)?;
        check_weights(&fresh, &Tensors::in_folder(folder)?)?;
    }
    Ok(control)
}

/// The number of parameters of CLIP's image tower, if the run has one.
fn image_encoder(config: &RunConfig) -> Result<Option<u64>> {
    let Some(folder) = config.model.image_encoder() else { return Ok(None) };
    let tower = ClipVision::new(&ClipVisionConfig::read(&folder)?, &Device::flex())?;
    check_weights(&tower, &Tensors::in_folder(&folder)?)?;
    let numbers = |parameter: &spire_model::weights::Parameter| parameter.shape.iter().product::<usize>() as u64;
    Ok(Some(parameters(&tower).iter().map(numbers).sum()))
}

impl DryRun {
    fn parts(&self) -> Vec<Part> {
        let (mut parts, held) = (self.costs.parts(self.prompts, &self.config.evaluate.sampling), self.held());
        for part in &mut parts {
            match part.kind {
                PartKind::VaeEncoder if !held.vae => part.training_passes = 0,
                PartKind::TextEncoder if !held.text => part.training_passes = 0,
                _ => {}
            }
        }
        parts
    }

    /// The parts of the frozen model that are in memory during a step; validation loads the others.
    fn held(&self) -> Parts {
        encoding::parts(&self.config, self.encoded.as_ref())
    }

    /// The parameters of the branch.
    pub(super) fn trained_parameters(&self) -> u64 {
        self.parts().into_iter().filter(|part| part.kind.is_trained()).map(|part| part.cost.parameters).sum()
    }

    /// Floating-point operations of UNet and branch for one training image, forward and backward.
    pub(super) fn training_flops(&self) -> u64 {
        let denoiser = self.parts().into_iter().filter(|part| part.kind.is_denoiser());
        denoiser.map(|part| part.cost.forward + part.cost.backward).sum()
    }

    /// Floating-point operations of one restored image, without the text encoder.
    pub(super) fn restoration_flops(&self) -> u64 {
        let without_text = self.parts().into_iter().filter(|part| part.kind != PartKind::TextEncoder);
        without_text.map(|part| part.cost.forward * part.restoration_passes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dry run of `configs/tiny.toml`.
    pub(super) fn tiny(overrides: &[&str]) -> Result<DryRun> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let asset = |key: &str, folder: &str| format!("model.{key}={}", root.join("assets").join(folder).display());
        let assets = [asset("base", "tiny"), asset("embedding", "tiny/embedding")];
        let overrides: Vec<String> = assets.into_iter().chain(overrides.iter().map(|&change| change.into())).collect();
        dry_run(spire_core::settings::load(&root.join("configs/tiny.toml"), &overrides)?)
    }

    #[test]
    fn guidance_runs_the_branch_twice_only_if_it_reads_the_semantic_prompt() {
        for (prompts, passes) in [("decoupled", 1), ("joined", 2)] {
            let counted = tiny(&[&format!("model.prompts={prompts}"), "evaluate.sampling.steps=20"]).unwrap();
            let restoring = |kind| {
                let part = counted.parts().into_iter().find(|part| part.kind == kind).unwrap();
                part.restoration_passes
            };
            assert_eq!(restoring(PartKind::UNetDecoder), 40, "{prompts}");
            assert_eq!(restoring(PartKind::BranchEmbedding), 1, "{prompts}");
            assert_eq!(restoring(PartKind::BranchEncoder), 20 * passes, "{prompts}");
            assert_eq!(restoring(PartKind::BranchFusion), 20 * passes, "{prompts}");
        }
    }

    #[test]
    fn operations_are_sums_over_the_parts() {
        let [noise, picture] = ["noise", "picture"]
            .map(|start| tiny(&["evaluate.sampling.steps=20", &format!("evaluate.sampling.start={start}")]).unwrap());
        let Costs { text, vae_encoder, vae_decoder, unet, control, .. } = &noise.costs;
        let both = |cost: cost::Cost| cost.forward + cost.backward;
        assert_eq!(noise.training_flops(), both(unet.encoder) + both(unet.decoder) + both(control.total()));
        let denoising = 40 * (unet.encoder.forward + unet.decoder.forward);
        let branch = 20 * (control.encoder.forward + control.fusion.forward) + control.embedding.forward;
        let from_noise = denoising + branch + vae_decoder.forward;
        assert_eq!(noise.restoration_flops(), from_noise);
        assert_eq!(picture.restoration_flops(), from_noise + vae_encoder.forward);
        assert!(text.forward > 0);
    }

    #[test]
    fn a_run_that_could_not_start_is_an_error() {
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
