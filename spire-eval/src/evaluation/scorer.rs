//! The networks of the metrics, and measuring pictures with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use spire_data::Picture;
use spire_data::checksum::sha256;
use spire_data::testset::TestSet;
use spire_data::world::Kind;
use spire_model::clip::ClipFolder;
use spire_model::pictures;
use spire_model::weights::weights_file;

use super::alike::{Alike, mistaken};
use super::config::EvalConfig;
use super::measurement::{FeatureSpace, Features, Measurement};
use super::metric::Metric;
use super::protocol::{MethodProtocol, Protocol};
use crate::clip_space::{ImageSpace, TextSpace};
use crate::fid::{self, FidSpace};
use crate::judge::KindJudge;
use crate::public_weights::{FoundWeights, PublicWeights};
use crate::{
    ClipIqa, Compared, Lpips, Maniqa, Musiq, clip_iqa, inception, maniqa, musiq, noise_level, psnr_of, sharpness,
    ssim_of,
};

/// The PSNR assigned to an unchanged picture, in dB: 8 bits cannot resolve more.
const MOST_PSNR: f64 = 60.0;

/// The networks of the metrics.
#[derive(Debug)]
pub struct Scorer {
    metrics: BTreeSet<Metric>,
    clip: Option<Clip>,
    fid: Option<(FidSpace, String)>,
    /// Side of the patches of patch FID.
    patch: usize,
    lpips: Option<(Lpips, String)>,
    clip_iqa: Option<(ClipIqa, String)>,
    musiq: Option<(Musiq, String)>,
    maniqa: Option<(Maniqa, String)>,
    judge: Option<(KindJudge, String)>,
    pixels: Compared,
    /// Pairs of words for similar-looking objects.
    alike: Vec<Alike>,
    /// Metrics that can't be computed, with what each needs.
    missing: BTreeMap<Metric, String>,
    /// Notes on weights that differ from the published ones.
    strange: BTreeMap<Metric, String>,
    device: Device,
}

#[derive(Debug)]
struct Clip {
    images: ImageSpace,
    texts: TextSpace,
    checksum: String,
}

/// A picture to measure.
#[derive(Debug)]
pub struct Subject {
    /// The picture.
    pub picture: Picture,
    /// The reference picture of the same size, if any.
    pub clean: Option<Picture>,
    /// Whether to compute no-reference metrics; for clean pictures only features are needed.
    pub judged: bool,
}

impl Scorer {
    /// Loads the networks of the configured metrics. A metric without weights is [missing](Self::missing).
    ///
    /// # Errors
    /// Existing weights can't be read or do not fit.
    pub fn load(config: &EvalConfig, device: &Device) -> Result<Self> {
        let mut search = Search { config, missing: BTreeMap::new(), strange: BTreeMap::new() };
        let fid = search.network(&[Metric::Fid, Metric::PatchFid], fid::WEIGHTS, |file| {
            FidSpace::load(file, config.fid.resizing, device)
        })?;
        let [backbone, importances] = config.lpips.public_weights().map(|public| search.file(&[Metric::Lpips], public));
        let lpips = match (backbone?, importances?) {
            (Some(backbone), Some(importances)) => {
                let lpips = Lpips::load_public(config.lpips, &backbone.path, &importances.path, device)?;
                Some((lpips, sha256(format!("{} {}", backbone.checksum, importances.checksum).as_bytes())))
            }
            _ => None,
        };
        Ok(Self {
            clip: search.clip(device)?,
            judge: search.judge(device)?,
            fid,
            lpips,
            clip_iqa: search.network(&[Metric::ClipIqa], clip_iqa::WEIGHTS, |file| ClipIqa::load(file, device))?,
            musiq: search.network(&[Metric::Musiq], musiq::WEIGHTS, |file| Musiq::load(file, device))?,
            maniqa: search.network(&[Metric::Maniqa], maniqa::WEIGHTS, |file| Maniqa::load(file, device))?,
            metrics: config.metrics.iter().copied().collect(),
            patch: config.fid.patch,
            pixels: config.pixels,
            alike: config.alike.clone(),
            missing: search.missing,
            strange: search.strange,
            device: device.clone(),
        })
    }

    /// The metrics that can't be computed, with what each needs.
    pub fn missing(&self) -> &BTreeMap<Metric, String> {
        &self.missing
    }

    /// Notes on metrics whose weights differ from the published ones.
    pub fn strange(&self) -> &BTreeMap<Metric, String> {
        &self.strange
    }

    /// Whether a metric is configured and can be computed.
    pub fn has(&self, metric: Metric) -> bool {
        self.metrics.contains(&metric) && !self.missing.contains_key(&metric)
    }

    /// Measures pictures: comparisons one by one, features in a batch.
    ///
    /// # Errors
    /// A picture's size differs from its reference's, or is too small for a metric.
    pub fn measure(&self, subjects: &[Subject]) -> Result<Vec<Measurement>> {
        let mut measured: Vec<Measurement> =
            subjects.iter().map(|subject| self.values(subject)).collect::<Result<_>>()?;
        let pictures: Vec<&Picture> = subjects.iter().map(|subject| &subject.picture).collect();
        let mut keep = |space: FeatureSpace, rows: Vec<Vec<f32>>| {
            for (measured, row) in measured.iter_mut().zip(rows) {
                measured.features.insert(space, Features(row));
            }
        };
        if let Some(clip) = &self.clip {
            keep(FeatureSpace::Clip, clip.images.features(&pictures));
        }
        if let Some((judge, _)) = &self.judge {
            keep(FeatureSpace::Judge, judge.logits(pictures.iter().copied()));
        }
        if let Some((space, _)) = &self.fid {
            if self.has(Metric::Fid) {
                keep(FeatureSpace::Inception, space.features(&pictures));
            }
            if self.has(Metric::PatchFid) {
                let of_patches = |picture: &&Picture| -> Vec<f32> {
                    let patches = fid::patches(picture, self.patch);
                    let batches = patches.chunks(subjects.len().max(1));
                    batches.flat_map(|batch| space.features(&batch.iter().collect::<Vec<_>>())).flatten().collect()
                };
                keep(FeatureSpace::InceptionPatches, pictures.iter().map(of_patches).collect());
            }
        }
        Ok(measured)
    }

    fn values(&self, Subject { picture, clean, judged }: &Subject) -> Result<Measurement> {
        let mut measured = Measurement::default();
        let mut keep = |metric: Metric, value: f64| measured.values.insert(metric, value);
        if let Some(clean) = clean {
            if self.has(Metric::Psnr) {
                keep(Metric::Psnr, psnr_of(clean, picture, self.pixels)?.min(MOST_PSNR));
            }
            if self.has(Metric::Ssim) {
                keep(Metric::Ssim, ssim_of(clean, picture, self.pixels)?);
            }
            if let Some((lpips, _)) = &self.lpips {
                let [clean, picture] = [clean, picture].map(|picture| pictures::to_tensor([picture], &self.device));
                let distance = lpips.distance(clean, picture)?.into_data().iter::<f64>().next();
                keep(Metric::Lpips, distance.context("LPIPS gave no distance")?);
            }
        }
        if *judged {
            if let Some((clip_iqa, _)) = &self.clip_iqa {
                keep(Metric::ClipIqa, clip_iqa.score(picture)?);
            }
            if let Some((musiq, _)) = &self.musiq {
                keep(Metric::Musiq, musiq.score(picture)?);
            }
            if let Some((maniqa, _)) = &self.maniqa {
                keep(Metric::Maniqa, maniqa.score(picture)?);
            }
            if self.has(Metric::Sharpness) {
                keep(Metric::Sharpness, sharpness(picture));
            }
            if self.has(Metric::Noise) {
                keep(Metric::Noise, noise_level(picture));
            }
        }
        Ok(measured)
    }

    /// The CLIP embedding of a caption; `None` without CLIP or for an empty caption.
    ///
    /// # Errors
    /// CLIP's text encoder has no projection.
    pub fn caption(&self, text: &str) -> Result<Option<Vec<f32>>> {
        match &self.clip {
            Some(clip) if !text.is_empty() => Ok(Some(clip.texts.features(text)?)),
            _ => Ok(None),
        }
    }

    /// The kinds that a caption names, and those that its misleading caption names instead.
    pub fn kinds(&self, caption: &str) -> (Vec<Kind>, Vec<Kind>) {
        let own = Kind::named_in(caption);
        let other = mistaken(caption, &self.alike).map(|text| Kind::named_in(&text)).unwrap_or_default();
        let wrong = other.into_iter().filter(|kind| !own.contains(kind)).collect();
        (own, wrong)
    }

    /// The `count` likeliest kinds by the judge's logits; none without a judge.
    pub fn found(&self, logits: &[f32], count: usize) -> Vec<Kind> {
        self.judge.as_ref().map(|(judge, _)| judge.likeliest(logits, count)).unwrap_or_default()
    }

    /// Number of features per row of a space.
    pub fn dimensions(&self, space: FeatureSpace) -> usize {
        match space {
            FeatureSpace::Clip => self.clip.as_ref().map_or(0, |clip| clip.images.dimensions()),
            FeatureSpace::Inception | FeatureSpace::InceptionPatches => inception::FEATURES,
            FeatureSpace::Judge => Kind::ALL.len(),
        }
    }

    /// The part of the cache key that does not depend on the picture.
    pub fn fingerprint(&self) -> String {
        let measured = Metric::ALL.into_iter().filter(|&metric| self.has(metric));
        let measures: String = measured.map(|metric| format!("{:?}\n", self.measure_of(metric))).collect();
        sha256(format!("spire {}\n{measures}", env!("CARGO_PKG_VERSION")).as_bytes())
    }

    /// Variant, weights and preprocessing of a metric.
    fn measure_of(&self, metric: Metric) -> (String, Option<String>, String) {
        let clip = || {
            let clip = self.clip.as_ref();
            let preprocessing = clip.map_or_else(String::new, |clip| clip.images.preprocessing().describe());
            (clip.map(|clip| clip.checksum.clone()), preprocessing)
        };
        let fid = || {
            let resizing = self.fid.as_ref().map_or("", |(space, _)| space.resizing().describe());
            (checksum(&self.fid), resizing.to_owned())
        };
        let levels = || (None, format!("8-bit levels, {}", self.pixels.describe()));
        let patches = format!(
            "Inception v3, unbiased covariance; squares of {side} pixels side by side, and again half a square further",
            side = self.patch
        );
        let pairs: Vec<String> = self.alike.iter().map(|pair| pair.join("/")).collect();
        let wrong_kind = format!(
            "share of pictures in which the judge finds what the caption names with the first of these words exchanged: {}",
            pairs.join(", ")
        );
        let judge = || (checksum(&self.judge), "values in [-1, 1], resized by area".to_owned());
        let unresized = || (None, "values in [0, 1]".to_owned());
        let (variant, (weights, preprocessing)) = match metric {
            Metric::Fid => ("Inception v3, unbiased covariance", fid()),
            Metric::PatchFid => (patches.as_str(), fid()),
            Metric::ClipFrechet => ("unit-length CLIP image features, unbiased covariance", clip()),
            Metric::Lpips => (
                self.lpips.as_ref().map_or("", |(lpips, _)| lpips.backbone().name()),
                (checksum(&self.lpips), "values in [-1, 1]".to_owned()),
            ),
            Metric::Psnr => ("at most 60 dB a picture, mean over pictures", levels()),
            Metric::Ssim => ("Gaussian window of sigma 1.5, as scikit-image; mean over pictures", levels()),
            Metric::ClipI => ("cosine to the clean picture, mean over pictures", clip()),
            Metric::ClipT => ("cosine to the caption, mean over pictures", clip()),
            Metric::ClipIqa => (
                "pyiqa's clipiqa on RN50, mean over five pairs of prompts; mean over pictures",
                (checksum(&self.clip_iqa), "values less CLIP's mean over its deviation, not resized".to_owned()),
            ),
            Metric::Musiq => (
                "pyiqa's musiq, KonIQ-10k; mean over pictures",
                (checksum(&self.musiq), "values in [-1, 1], at three scales".to_owned()),
            ),
            Metric::Maniqa => (
                "pyiqa's maniqa, KonIQ-10k, 20 squares of 224 pixels; mean over pictures",
                (checksum(&self.maniqa), "values in [-1, 1]".to_owned()),
            ),
            Metric::Identity => ("share of the caption's kinds that the judge finds, mean over pictures", judge()),
            Metric::WrongKind => (wrong_kind.as_str(), judge()),
            Metric::Sharpness => {
                ("99th percentile of the luma's gradient, per pixel, after a Gaussian of 1 pixel", unresized())
            }
            Metric::Noise => ("of the luma: median absolute diagonal Haar detail over 0.6745", unresized()),
        };
        (variant.to_owned(), weights, preprocessing)
    }

    /// The protocol of a metric on a test set.
    pub fn protocol(&self, metric: Metric, benchmark: &TestSet, method: &MethodProtocol) -> Protocol {
        let (variant, weights, preprocessing) = self.measure_of(metric);
        Protocol {
            metric: metric.name().to_owned(),
            variant,
            weights,
            preprocessing,
            images: benchmark.entries.len(),
            benchmark: benchmark.checksum.clone(),
            method: method.clone(),
        }
    }

    /// Warnings about a metric on `rows` pictures or patches.
    pub fn cautions(&self, metric: Metric, rows: usize) -> Vec<String> {
        let space = match metric {
            Metric::Fid => Some(FeatureSpace::Inception),
            Metric::PatchFid => Some(FeatureSpace::InceptionPatches),
            Metric::ClipFrechet => Some(FeatureSpace::Clip),
            _ => None,
        };
        let dimensions = space.map_or(0, |space| self.dimensions(space));
        let few = (space.is_some() && rows <= dimensions).then(|| {
            let what = if metric == Metric::PatchFid { "patches" } else { "pictures" };
            format!("{}: {rows} {what} for {dimensions} features: the covariance is singular, and the distance too large by an amount that depends on the number of {what}", metric.name())
        });
        let strange = self.strange.get(&metric).map(|caution| format!("{}: {caution}", metric.name()));
        few.into_iter().chain(strange).collect()
    }
}

/// Finds the weights of the configured metrics; records missing files and files that differ from the published ones.
struct Search<'a> {
    config: &'a EvalConfig,
    missing: BTreeMap<Metric, String>,
    strange: BTreeMap<Metric, String>,
}

impl Search<'_> {
    fn wanted(&self, metrics: &[Metric]) -> Vec<Metric> {
        metrics.iter().copied().filter(|metric| self.config.metrics.contains(metric)).collect()
    }

    /// A published file, if it exists and any of `metrics` is configured.
    fn file(&mut self, metrics: &[Metric], public: PublicWeights) -> Result<Option<FoundWeights>> {
        let wanted = self.wanted(metrics);
        if wanted.is_empty() {
            return Ok(None);
        }
        let found = public.find(&self.config.weights)?;
        let (notes, note) = match &found {
            None => (&mut self.missing, public.needed(&self.config.weights)),
            Some(FoundWeights { difference: Some(difference), .. }) => (&mut self.strange, difference.clone()),
            Some(_) => return Ok(found),
        };
        wanted.into_iter().for_each(|metric| _ = notes.entry(metric).or_insert_with(|| note.clone()));
        Ok(found)
    }

    /// A network with the SHA-256 of its weights.
    fn network<T>(
        &mut self,
        metrics: &[Metric],
        public: PublicWeights,
        load: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<Option<(T, String)>> {
        let Some(file) = self.file(metrics, public)? else { return Ok(None) };
        Ok(Some((load(&file.path)?, file.checksum)))
    }

    fn judge(&mut self, device: &Device) -> Result<Option<(KindJudge, String)>> {
        let wanted = self.wanted(&[Metric::Identity, Metric::WrongKind]);
        let folder = &self.config.judge;
        if wanted.is_empty() {
            return Ok(None);
        }
        if !folder.is_dir() {
            let needed = format!("there is no folder {} (key `judge`)", folder.display());
            self.missing.extend(wanted.into_iter().map(|metric| (metric, needed.clone())));
            return Ok(None);
        }
        let judge = KindJudge::load(folder, device)?;
        let file = weights_file(folder)?;
        let bytes = std::fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
        Ok(Some((judge, sha256(&bytes))))
    }

    fn clip(&mut self, device: &Device) -> Result<Option<Clip>> {
        let wanted = self.wanted(&[Metric::ClipFrechet, Metric::ClipI, Metric::ClipT]);
        if wanted.is_empty() {
            return Ok(None);
        }
        if self.config.clip.is_dir() {
            return Clip::load(self.config, device).map(Some);
        }
        let needed = format!(
            "there is no folder {} (key `clip`); https://huggingface.co/openai publishes CLIPs, by default clip-vit-base-patch32",
            self.config.clip.display()
        );
        self.missing.extend(wanted.into_iter().map(|metric| (metric, needed.clone())));
        Ok(None)
    }
}

impl Clip {
    fn load(config: &EvalConfig, device: &Device) -> Result<Self> {
        let folder = ClipFolder::open(&config.clip)?;
        let mut checksums = String::new();
        for file in folder.weights_files()? {
            let bytes = std::fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
            checksums += &sha256(&bytes);
        }
        let (images, texts) = (ImageSpace::load(&folder, device)?, TextSpace::load(&folder, device)?);
        let (of_images, of_texts) = (images.dimensions(), texts.dimensions());
        ensure!(of_images == of_texts, "CLIP's pictures have {of_images} features, its texts {of_texts}");
        Ok(Self { images, texts, checksum: sha256(checksums.as_bytes()) })
    }
}

/// SHA-256 of the weights of a loaded network.
fn checksum<T>(network: &Option<(T, String)>) -> Option<String> {
    network.as_ref().map(|(_, checksum)| checksum.clone())
}
