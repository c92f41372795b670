//! The metrics of one picture, and of all of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use spire_data::Picture;
use spire_data::benchmark::{Benchmark, Entry};
use spire_data::checksum::sha256;
use spire_model::pictures;

use super::config::EvalConfig;
use super::protocol::{MethodProtocol, Protocol};
use crate::clip_space::{ImageSpace, TextSpace, cosine};
use crate::{Compared, FeatureStatistics, Lpips, frechet_distance, psnr_of, ssim_of};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Metric {
    /// Distance of the restored pictures' features to the clean ones', in the space of the configured CLIP. Not FID.
    #[serde(rename = "clip_frechet")]
    ClipFrechet,
    /// Learned perceptual distance, on the network whose weights are given.
    #[serde(rename = "lpips")]
    Lpips,
    /// Peak signal-to-noise ratio.
    #[serde(rename = "psnr")]
    Psnr,
    /// Structural similarity.
    #[serde(rename = "ssim")]
    Ssim,
    /// Cosine of the restored and the clean picture's CLIP features.
    #[serde(rename = "clip_i")]
    ClipI,
    /// Cosine of the restored picture's CLIP features and its caption's.
    #[serde(rename = "clip_t")]
    ClipT,
}

impl Metric {
    /// All, in the order of the tables' columns.
    pub const ALL: [Self; 6] = [Self::ClipFrechet, Self::Lpips, Self::Psnr, Self::Ssim, Self::ClipI, Self::ClipT];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClipFrechet => "Fréchet (CLIP)",
            Self::Lpips => "LPIPS",
            Self::Psnr => "PSNR",
            Self::Ssim => "SSIM",
            Self::ClipI => "CLIP-I",
            Self::ClipT => "CLIP-T",
        }
    }

    /// Whether more is better.
    pub fn rises(self) -> bool {
        !matches!(self, Self::ClipFrechet | Self::Lpips)
    }

    /// Digits after the point.
    pub fn decimals(self) -> usize {
        match self {
            Self::Psnr => 2,
            _ => 3,
        }
    }
}

/// What an untouched picture's PSNR is counted as: 8 bits can't tell more apart.
const MOST_PSNR: f64 = 60.0;

/// The figures of the pictures of one method on one benchmark, in the order of the benchmark's entries.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// One value a picture.
    pub per_image: BTreeMap<Metric, Vec<f64>>,
    /// Figures of all pictures together.
    pub of_all: BTreeMap<Metric, f64>,
    /// SHA-256 of the checksums of the pictures' files.
    pub files: String,
}

/// The networks of the metrics.
#[derive(Debug)]
pub struct Scorer {
    images: ImageSpace,
    texts: TextSpace,
    lpips: Option<Lpips>,
    /// What is left out, and what is needed for it.
    missing: BTreeMap<Metric, String>,
    clip_weights: String,
    lpips_weights: Option<String>,
    pixels: Compared,
    device: Device,
}

impl Scorer {
    /// Loads what the configuration names.
    ///
    /// # Errors
    /// CLIP's weights are missing or do not fit; LPIPS's are named and do not fit.
    pub fn load(config: &EvalConfig, device: &Device) -> Result<Self> {
        let image_encoder = config.clip.join("image_encoder");
        let weights = |path: &Path| -> Result<String> {
            let bytes = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
            Ok(sha256(&bytes))
        };
        let text_encoder = config.clip.join("text_encoder");
        let both = [&image_encoder, &text_encoder].map(|folder| weights(&folder.join("model.safetensors")));
        let [image_weights, text_weights] = both;
        let lpips = config.lpips.as_ref().map(|folder| Lpips::load(folder, device)).transpose().context("lpips")?;
        let lpips_weights =
            config.lpips.as_ref().map(|folder| weights(&folder.join("model.safetensors"))).transpose()?;
        let mut missing = BTreeMap::new();
        if lpips.is_none() {
            let needed = "`lpips` names no folder with LPIPS\'s weights (model.safetensors, under the names of the Python package lpips)";
            missing.insert(Metric::Lpips, needed.to_owned());
        }
        Ok(Self {
            images: ImageSpace::load(&image_encoder, device)?,
            texts: TextSpace::load(&config.clip, device)?,
            lpips,
            missing,
            clip_weights: sha256(format!("{} {}", image_weights?, text_weights?).as_bytes()),
            lpips_weights,
            pixels: config.pixels,
            device: device.clone(),
        })
    }

    /// The metrics that can't be computed, and what is needed for each.
    pub fn missing(&self) -> &BTreeMap<Metric, String> {
        &self.missing
    }

    /// Measures the restored pictures of a benchmark, `restored` giving the file of each; one picture is in memory at a time.
    /// `progress` is called after each.
    ///
    /// # Errors
    /// A file is missing or is of another size than its clean picture.
    pub fn score(
        &self,
        benchmark: &Benchmark,
        restored: &dyn Fn(&Entry) -> std::path::PathBuf,
        progress: &dyn Fn(&Entry),
    ) -> Result<Scores> {
        let mut scores = Scores::default();
        let mut sums = String::new();
        let mut sets =
            [FeatureStatistics::new(self.images.dimensions()), FeatureStatistics::new(self.images.dimensions())];
        for entry in &benchmark.entries {
            let path = restored(entry);
            let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
            sums.push_str(&sha256(&bytes));
            let (picture, _) = Picture::decode_with_alpha(&bytes, &path)?;
            let clean = benchmark.has_clean.then(|| Picture::open(benchmark.clean(entry))).transpose()?;
            for (metric, value) in
                self.measure(entry, &picture, clean.as_ref(), &mut sets).with_context(|| path.display().to_string())?
            {
                scores.per_image.entry(metric).or_default().push(value);
            }
            progress(entry);
        }
        // An entry without a caption has no CLIP-T: then the column is missing rather than of other pictures.
        scores.per_image.retain(|_, values| values.len() == benchmark.entries.len());
        if benchmark.has_clean && benchmark.entries.len() > 1 {
            scores.of_all.insert(Metric::ClipFrechet, frechet_distance(&sets[0], &sets[1])?);
        }
        scores.files = sha256(sums.as_bytes());
        Ok(scores)
    }

    fn measure(
        &self,
        entry: &Entry,
        picture: &Picture,
        clean: Option<&Picture>,
        sets: &mut [FeatureStatistics; 2],
    ) -> Result<Vec<(Metric, f64)>> {
        let features = self.images.features(picture);
        let mut measured = vec![];
        if let Some(clean) = clean {
            measured.push((Metric::Psnr, psnr_of(clean, picture, self.pixels)?.min(MOST_PSNR)));
            measured.push((Metric::Ssim, ssim_of(clean, picture, self.pixels)?));
            let clean_features = self.images.features(clean);
            measured.push((Metric::ClipI, cosine(&clean_features, &features)));
            sets[0].push(&clean_features)?;
            sets[1].push(&features)?;
            if let Some(lpips) = &self.lpips {
                let [clean, picture] = [clean, picture].map(|picture| pictures::to_tensor([picture], &self.device));
                let distance = lpips.distance(clean, picture)?;
                measured
                    .push((Metric::Lpips, f64::from(distance.into_data().iter::<f32>().next().unwrap_or(f32::NAN))));
            }
        }
        if !entry.semantic.is_empty() {
            measured.push((Metric::ClipT, cosine(&self.texts.features(&entry.semantic)?, &features)));
        }
        Ok(measured)
    }

    /// How a metric is measured on a benchmark.
    pub fn protocol(&self, metric: Metric, benchmark: &Benchmark, method: &MethodProtocol) -> Protocol {
        let clip = || (Some(self.clip_weights.clone()), self.images.preprocessing());
        let levels = || (None, format!("8-bit levels, {}", self.pixels.describe()));
        let (variant, (weights, preprocessing)) = match metric {
            Metric::ClipFrechet => ("unit-length CLIP image features, unbiased covariance", clip()),
            Metric::Lpips => (
                self.lpips.as_ref().map_or("", |lpips| lpips.backbone().name()),
                (self.lpips_weights.clone(), "values in [-1, 1]".to_owned()),
            ),
            Metric::Psnr => ("at most 60 dB a picture, mean over pictures", levels()),
            Metric::Ssim => ("Gaussian window of sigma 1.5, as scikit-image; mean over pictures", levels()),
            Metric::ClipI => ("cosine to the clean picture, mean over pictures", clip()),
            Metric::ClipT => ("cosine to the caption, mean over pictures", clip()),
        };
        Protocol {
            metric: metric.name().to_owned(),
            variant: variant.to_owned(),
            weights,
            preprocessing,
            images: benchmark.entries.len(),
            benchmark: benchmark.checksum.clone(),
            method: method.clone(),
        }
    }

    /// What should be said of a metric on so few pictures.
    pub fn caution(&self, metric: Metric, images: usize) -> Option<String> {
        let dimensions = self.images.dimensions();
        (metric == Metric::ClipFrechet && images <= dimensions).then(|| {
            format!("{}: {images} pictures for {dimensions} features: the covariance is singular, and the distance too large by an amount that depends on the number of pictures", metric.name())
        })
    }
}
