//! Figures on held-out pictures: PSNR, SSIM and the Fréchet distance in CLIP's image space.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use spire_core::Picture;
use spire_core::sheet::Sheet;
use spire_data::loader::Samples;
use spire_eval::clip_space::ImageSpace;
use spire_eval::{FeatureStatistics, frechet_distance, psnr, ssim};
use spire_model::base::Base;
use spire_model::control::Control;

use super::held_out::restore_held_out;
use crate::config::EvaluateSection;

/// A picture that equals the clean one has an infinite PSNR; it counts as this many dB.
const MOST_PSNR: f64 = 60.0;

/// Means over held-out pictures.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Quality {
    /// Peak signal-to-noise ratio over RGB, in dB.
    pub psnr: f64,
    /// Structural similarity over RGB.
    pub ssim: f64,
    /// Fréchet distance to the clean pictures in the image space of the run's CLIP. This is not FID. `None` without
    /// CLIP's weights.
    pub clip_frechet: Option<f64>,
}

impl Quality {
    /// The figures with their names.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let measured = [("psnr", Some(self.psnr)), ("ssim", Some(self.ssim)), ("clip_frechet", self.clip_frechet)];
        measured.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// PSNR and SSIM of the restored pictures on a [`sheet`](super::held_out::sheet), as metrics of a step. Nothing for an empty
/// sheet, or for pictures that are too small for SSIM.
pub(super) fn of_sheet(sheet: &Sheet) -> Vec<(String, Option<f64>)> {
    let mut sums = Sums::default();
    for row in &sheet.rows {
        if let [_, restored, clean] = row.pictures.as_slice()
            && sums.add(clean, restored).is_err()
        {
            return vec![];
        }
    }
    if sums.count == 0 {
        return vec![];
    }
    let figures = sums.quality(None);
    figures.figures().map(|(name, value)| (format!("validation_{name}"), Some(value))).collect()
}

/// The figures over the held-out samples `0..count`: those of the degraded pictures, and those of the restored ones.
///
/// # Errors
/// As [`restore_held_out`]; or a feature is not finite.
pub(super) fn evaluate(
    base: &Base,
    control: &Control,
    samples: &Samples,
    config: &EvaluateSection,
    count: usize,
    image_space: Option<&ImageSpace>,
) -> Result<(Quality, Quality)> {
    let (mut degraded, mut restored) = (Sums::default(), Sums::default());
    let mut features: Option<[_; 3]> =
        image_space.map(|space| std::array::from_fn(|_| FeatureStatistics::new(space.dimensions())));
    let numbers = (Some("figures on held-out pictures"), 0..count as u64);
    restore_held_out(base, control, samples, config, numbers, |sample, picture| {
        degraded.add(sample.target(), &sample.degraded)?;
        restored.add(sample.target(), picture)?;
        if let (Some(space), Some([clean, before, after])) = (image_space, features.as_mut()) {
            for (statistics, picture) in [(clean, sample.target()), (before, &sample.degraded), (after, picture)] {
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
struct Sums {
    count: usize,
    psnr: f64,
    ssim: f64,
}

impl Sums {
    fn add(&mut self, clean: &Picture, picture: &Picture) -> Result<()> {
        self.count += 1;
        self.psnr += psnr(clean, picture)?.min(MOST_PSNR);
        self.ssim += ssim(clean, picture)?;
        Ok(())
    }

    fn quality(&self, clip_frechet: Option<f64>) -> Quality {
        let count = self.count as f64;
        Quality { psnr: self.psnr / count, ssim: self.ssim / count, clip_frechet }
    }
}
