//! Figures on a held-out set: PSNR, SSIM and the Fréchet distance in CLIP's image space, of the degraded pictures and of
//! the restored ones.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use spire_data::Picture;
use spire_data::loader::{Samples, TrainingSample};
use spire_data::parallel::in_order;
use spire_data::source::SourceKind;
use spire_eval::clip_space::ImageSpace;
use spire_eval::{FeatureStatistics, frechet_distance, psnr, ssim};
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::device::on_one_thread;
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::config::{EvaluateSection, RunConfig};
use crate::sheet::{Note, Row, Sheet};

/// Means over the held-out pictures.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Quality {
    /// Peak signal-to-noise ratio in dB, over RGB.
    pub psnr: f64,
    /// Structural similarity, over RGB.
    pub ssim: f64,
    /// Fréchet distance to the clean pictures in the image space of the run's CLIP: not FID. `None` without its weights.
    pub clip_frechet: Option<f64>,
}

/// The held-out samples: their own seed, and in the drawn world their own scenes.
///
/// # Errors
/// The source does not open, or its settings are out of range.
pub fn held_out(config: &RunConfig) -> Result<Samples> {
    let mut data = config.data.clone();
    data.prompt_dropout = 0.0;
    match &config.evaluate.source {
        Some(source) => data.source = source.clone(),
        None if data.source.kind == SourceKind::World => {
            ensure!(
                data.source.seed != config.evaluate.seed,
                "evaluate.seed must differ from data.source.seed: the held-out scenes would be those of training"
            );
            data.source.seed = config.evaluate.seed;
        }
        None => tracing::warn!("no [evaluate.source]: the figures are of training pictures, not of held-out ones"),
    }
    Ok(Samples::open(data, config.degradation.clone(), config.evaluate.seed)?)
}

/// Restores held-out samples `0..count` with the run's sampling settings; sample `n` starts from the noise of seed `n`.
///
/// # Errors
/// Too many samples are broken, or sampling fails.
pub fn restore_held_out(
    base: &Base,
    control: &Control,
    samples: &Samples,
    config: &EvaluateSection,
    count: usize,
    mut each: impl FnMut(&TrainingSample, &Picture) -> Result<()>,
) -> Result<()> {
    let numbers: Vec<u64> = (0..count as u64).collect();
    for chunk in numbers.chunks(config.batch_size) {
        let batch = chunk.iter().map(|&n| samples.sample(n)).collect::<Result<Vec<_>, _>>()?;
        let requests: Vec<_> = batch
            .iter()
            .map(|sample| Request {
                degraded: sample.degraded.clone(),
                semantic: sample.semantic.clone(),
                restoration: sample.restoration.clone(),
                seed: sample.n,
            })
            .collect();
        let restored = restore_in_parts(base, control, &config.sampling, &requests, config.threads)?;
        for (sample, restored) in batch.iter().zip(restored) {
            each(sample, &restored)?;
        }
    }
    Ok(())
}

/// Restores a batch in `threads` parts side by side, each on one core: faster than all of it on all cores where the model is
/// small.
///
/// # Errors
/// As [`restore`].
pub fn restore_in_parts(
    base: &Base,
    control: &Control,
    sampling: &SamplingConfig,
    requests: &[Request],
    threads: usize,
) -> Result<Vec<Picture>> {
    if threads <= 1 {
        return restore(base, control, sampling, requests);
    }
    let parts: Vec<&[Request]> = requests.chunks(requests.len().div_ceil(threads).max(1)).collect();
    let part = |i: usize| on_one_thread(|| restore(base, control, sampling, parts[i]));
    Ok(in_order(parts.len(), threads, part)?.concat())
}

/// The figures over `config.samples` held-out samples: of the degraded pictures, and of the restored ones.
///
/// # Errors
/// As [`restore_held_out`]; the image tower's weights do not fit its configuration.
pub fn evaluate(
    base: &Base,
    control: &Control,
    samples: &Samples,
    config: &EvaluateSection,
    image_space: Option<&ImageSpace>,
) -> Result<(Quality, Quality)> {
    let (mut degraded, mut restored) = (Tally::default(), Tally::default());
    let mut features: Option<[_; 3]> =
        image_space.map(|space| std::array::from_fn(|_| FeatureStatistics::new(space.dimensions())));
    restore_held_out(base, control, samples, config, config.samples, |sample, picture| {
        degraded.add(&sample.clean, &sample.degraded)?;
        restored.add(&sample.clean, picture)?;
        if let (Some(space), Some([clean, before, after])) = (image_space, features.as_mut()) {
            for (statistics, picture) in [(clean, &sample.clean), (before, &sample.degraded), (after, picture)] {
                statistics.push(&space.features(&[picture])[0])?;
            }
        }
        Ok(())
    })?;
    let distance = |other: usize| -> Result<Option<f64>> {
        features.as_ref().map(|all| Ok(frechet_distance(&all[0], &all[other])?)).transpose()
    };
    Ok((degraded.quality(distance(1)?), restored.quality(distance(2)?)))
}

#[derive(Default)]
struct Tally {
    count: usize,
    psnr: f64,
    ssim: f64,
}

impl Tally {
    fn add(&mut self, clean: &Picture, picture: &Picture) -> Result<()> {
        self.count += 1;
        // An untouched picture has no finite ratio; what 8 bits can tell apart ends here.
        self.psnr += psnr(clean, picture)?.min(60.0);
        self.ssim += ssim(clean, picture)?;
        Ok(())
    }

    fn quality(&self, clip_frechet: Option<f64>) -> Quality {
        let count = self.count as f64;
        Quality { psnr: self.psnr / count, ssim: self.ssim / count, clip_frechet }
    }
}

/// A sheet of the first `config.rows` held-out samples: degraded, restored, clean, and both prompts.
///
/// # Errors
/// As [`restore_held_out`].
pub fn sheet(base: &Base, control: &Control, samples: &Samples, config: &EvaluateSection) -> Result<Sheet> {
    let mut sheet = Sheet::new(["degraded", "restored", "clean"]);
    restore_held_out(base, control, samples, config, config.rows, |sample, restored| {
        sheet.rows.push(Row {
            pictures: vec![sample.degraded.clone(), restored.clone(), sample.clean.clone()],
            notes: vec![
                Note::new("semantic prompt", &sample.semantic),
                Note::new("restoration prompt", &sample.restoration),
            ],
        });
        Ok(())
    })?;
    Ok(sheet)
}
