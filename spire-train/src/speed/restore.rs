//! Measures restoration: denoising steps with guidance, and the VAE's decoder.

use anyhow::Result;
use burn::tensor::Tensor;
use spire_model::base::Base;
use spire_model::pictures;
use spire_model::restore::{Request, initial_noise};
use spire_model::weights;

use super::dry_run::count;
use super::dump::Dump;
use super::measurement::{BenchSettings, Measurement, PeakMemory, timed};
use super::peak_flops::PeakFlops;
use crate::config::RunConfig;
use crate::training::held_out::{held_out, restore_in_parts};
use crate::training::start::{initial_control, of_new_run};

/// Measures the restoration of one batch of held-out pictures, repeatedly, with the run's sampling settings and its
/// initial branch. Texts are encoded beforehand.
///
/// # Errors
/// The configuration, the data or the model do not open; sampling fails; the dump can't be written.
pub fn restore(config: RunConfig, settings: &BenchSettings) -> Result<Measurement> {
    let config = of_new_run(config)?;
    let counted = count(config.clone())?;
    let device = spire_model::device::device(&config.run.device)?;
    device.seed(config.run.seed);
    let sampling = &config.evaluate.sampling;
    let mut base = config.model.load_base(&device)?;
    base.guide_by(sampling.clip_guidance.as_ref())?;
    let (control_config, control) = initial_control(&config.model, &base, &device)?;
    let control = weights::cast(control, config.model.control_precision);
    let requests = requests(&config)?;
    let (_, negative) = sampling.quality();
    for text in requests.iter().flat_map(|request| [request.semantic.as_str(), &request.restoration, negative]) {
        base.prompts.encode(&[text]);
    }
    let mut restored = Vec::new();
    let seconds = timed(settings, || {
        restored = restore_in_parts(&base, &control, sampling, &requests, config.evaluate.threads)?;
        Ok(())
    })?;
    if let Some(folder) = &settings.dump {
        let mut dump = inputs(&base, &config, &requests);
        dump.add("restored", &pictures::to_tensor(&restored, &device));
        dump.write(folder, &control_config, &control)?;
    }
    Ok(Measurement {
        what: "restoration",
        images: requests.len(),
        seconds,
        flops: requests.len() as u64 * counted.restoration_flops(),
        // Read before the matrices of the peak are allocated.
        memory: PeakMemory::until_now(&device),
        peak: PeakFlops::measure(&device, config.model.control_precision),
        trained: Vec::new(),
        config,
    })
}

fn requests(config: &RunConfig) -> Result<Vec<Request>> {
    let held_out = held_out(config)?;
    let request = |n| {
        let sample = held_out.sample(n)?;
        let (degraded, semantic, restoration) = (sample.degraded, sample.semantic, sample.restoration);
        Ok(Request { degraded, semantic, restoration, seed: n })
    };
    (0..config.evaluate.batch_size as u64).map(request).collect()
}

fn inputs(base: &Base, config: &RunConfig, requests: &[Request]) -> Dump {
    let device = base.device();
    let side = config.data.size / base.vae_config.downscale();
    let shape = [base.unet_config.in_channels, side, side];
    let noise = requests.iter().map(|request| initial_noise(request.seed, shape, &device)).collect();
    let semantic: Vec<_> = requests.iter().map(|request| &request.semantic).collect();
    let restoration: Vec<_> = requests.iter().map(|request| &request.restoration).collect();
    let negative = vec![config.evaluate.sampling.quality().1; requests.len()];
    let mut dump = Dump::default();
    dump.add("noise", &Tensor::cat(noise, 0));
    dump.add("degraded", &pictures::to_unit_tensor(requests.iter().map(|request| &request.degraded), &device));
    dump.add("semantic", &base.prompts.encode(&semantic));
    dump.add("negative", &base.prompts.encode(&negative));
    dump.add("restoration", &base.prompts.encode(&restoration));
    dump
}
