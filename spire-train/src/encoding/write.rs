//! `spire data encode`: reads every picture once, and writes its latents and the states of its prompts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use burn::tensor::{DType, Device};
use spire_core::parallel::in_order;
use spire_core::progress::PhaseProgress;
use spire_core::shard::Shard;
use spire_data::encoded::{Array, EncodedPictures, Manifest};
use spire_data::loader::Samples;
use spire_data::source::Skipped;
use spire_model::base::{BaseSource, PromptEncoder, encode_pictures};
use spire_model::clip::ClipText;
use spire_model::device::on_cores;
use spire_model::pictures;
use spire_model::vae::{Vae, VaeConfig};
use spire_model::weights::fill;

use super::arrays::array;
use super::ranking::{self, CaptionRanking};
use super::{Choices, manifest};
use crate::config::RunConfig;
use crate::training::start::with_models_located;

/// What to encode.
#[derive(Clone, Debug)]
pub struct EncodeSettings {
    /// The folder; by default `data.encoded`.
    pub folder: Option<PathBuf>,
    /// Crops of each picture.
    pub crops: usize,
    /// Whether the states of captions and of the restoration prompts that are known are written.
    pub texts: bool,
    /// A CLIP that chooses one of each picture's captions.
    pub captions_by: Option<PathBuf>,
    /// The part of the files that this process writes.
    pub shard: Shard,
    /// Pictures in a file.
    pub pictures_per_file: usize,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Encoding {
    /// The folder.
    pub folder: PathBuf,
    /// Of which model and configuration it is.
    pub manifest: Manifest,
    /// Files that this process wrote.
    pub written: usize,
    /// Files of this process that were there already.
    pub found: usize,
    /// Pictures that this process encoded.
    pub pictures: usize,
    /// Pictures that can't be used.
    pub skipped: Vec<Skipped>,
    /// How long it took, without loading the models.
    pub took: Duration,
    /// The share of the threads' time in which the VAE computed.
    pub vae_share: f64,
}

/// The most pictures in a file.
const MOST_IN_A_FILE: usize = 1 << 16;

/// The most crops of a picture.
const MOST_CROPS: usize = 1 << 10;

/// Encodes the pictures of a configuration and the prompts that are known. Files that are there already are kept, so that a
/// process that was killed goes on, and several processes can share the work. An interruption loses the files that are not
/// finished.
///
/// # Errors
/// The configuration is invalid, the data or the model does not open, the folder has pictures of another model or
/// configuration, or a file can't be written.
pub fn encode(config: RunConfig, settings: &EncodeSettings) -> Result<Encoding> {
    let config = with_models_located(config)?;
    let folder = settings.folder.clone().or_else(|| config.data.encoded.clone());
    let folder = folder.context("name the folder for what is encoded: data.encoded in the configuration, or -o DIR")?;
    for (key, value, most) in
        [("--crops", settings.crops, MOST_CROPS), ("--pictures-per-file", settings.pictures_per_file, MOST_IN_A_FILE)]
    {
        ensure!((1..=most).contains(&value), "{key} {value} must be from 1 to {most}");
    }
    let samples = Samples::open(config.data.clone(), config.degradation.clone(), config.run.seed)?;
    let choices = Choices {
        crops: settings.crops,
        texts: settings.texts,
        captions_by: settings.captions_by.as_deref().map(ranking::checksum).transpose()?,
        pictures_per_file: settings.pictures_per_file,
    };
    let manifest = manifest(&config, samples.epoch_len(), &choices)?;
    manifest.write(&folder)?;
    let own: Vec<usize> = (0..manifest.file_count()).filter(|&file| settings.shard.has(file)).collect();
    let missing: Vec<usize> = own.iter().copied().filter(|&file| !EncodedPictures::is_written(&folder, file)).collect();
    let mut done = Encoding {
        folder,
        manifest,
        written: missing.len(),
        found: own.len() - missing.len(),
        pictures: 0,
        skipped: vec![],
        took: Duration::ZERO,
        vae_share: 0.0,
    };
    if missing.is_empty() {
        return Ok(done);
    }
    let encoder = Encoder::load(&config, settings, &samples, &done.manifest)?;
    let total: usize = missing.iter().map(|&file| done.manifest.pictures_of(file).len()).sum();
    let (progress, started) = (PhaseProgress::new("encoding", total as u64), Instant::now());
    for file in missing {
        let pictures = encoder.file(file, &progress)?;
        done.pictures += pictures.pictures.len();
        done.skipped.extend(pictures.skipped.iter().cloned());
        pictures.write(&done.folder, file)?;
    }
    done.took = started.elapsed();
    let vae = Duration::from_nanos(encoder.in_vae.load(Ordering::Relaxed));
    done.vae_share = vae.as_secs_f64() / (done.took.as_secs_f64() * encoder.threads as f64);
    Ok(done)
}

/// What encodes.
struct Encoder<'a> {
    samples: &'a Samples,
    manifest: &'a Manifest,
    device: Device,
    vae: Vae,
    vae_config: VaeConfig,
    /// `None` if texts are not encoded.
    prompts: Option<PromptEncoder>,
    /// The float type of the states.
    text_type: DType,
    ranking: Option<CaptionRanking>,
    threads: usize,
    /// Nanoseconds that all threads spent in the VAE.
    in_vae: AtomicU64,
}

/// One encoded picture.
struct EncodedPicture {
    latents: Vec<Array>,
    fingerprints: Vec<u64>,
    /// The chosen caption.
    caption: usize,
    /// Its prompts, of which all but the captions that were not chosen are encoded.
    prompts: Vec<String>,
}

impl<'a> Encoder<'a> {
    fn load(
        config: &RunConfig,
        settings: &EncodeSettings,
        samples: &'a Samples,
        manifest: &'a Manifest,
    ) -> Result<Self> {
        let (model, device) = (&config.model, spire_model::device::device(&config.run.device)?);
        model.check_precision(&device)?;
        let source = BaseSource::open_variant(&model.base, model.variant.as_deref())?;
        let (vae_config, weights) = source.vae()?;
        let side = vae_config.downscale();
        ensure!(config.data.size.is_multiple_of(side), "data.size {} is not a multiple of {side}", config.data.size);
        let vae = fill(Vae::new(&vae_config, &device)?, weights, model.precision)?;
        let text = || {
            let (text_config, weights) = source.text_encoder()?;
            let tower = fill(ClipText::new(&text_config, &device)?, weights, model.precision)?;
            let mut prompts = PromptEncoder::new(source.tokenizer()?, tower, &text_config, &device);
            prompts.set_long_prompts(model.long_prompts);
            anyhow::Ok(prompts)
        };
        let rank = |folder: &Path| CaptionRanking::load(folder, &device).context("--captions-by");
        Ok(Self {
            samples,
            manifest,
            vae,
            vae_config,
            prompts: settings.texts.then(text).transpose()?,
            text_type: model.precision.dtype(),
            ranking: settings.captions_by.as_deref().map(rank).transpose()?,
            threads: config.data.workers.max(1),
            in_vae: AtomicU64::new(0),
            device,
        })
    }

    /// The content of a file.
    fn file(&self, file: usize, progress: &PhaseProgress) -> Result<EncodedPictures> {
        let indices: Vec<usize> = self.manifest.pictures_of(file).collect();
        let pictures = in_order(indices.len(), self.threads, |i| {
            let picture = on_cores(self.threads.min(indices.len()), || self.picture(indices[i]));
            progress.advance("");
            picture
        })?;
        let (mut encoded, mut prompts) = (EncodedPictures::default(), BTreeSet::new());
        for (index, picture) in indices.into_iter().zip(pictures) {
            match picture {
                Ok(picture) => {
                    encoded.pictures.push(index as u64);
                    encoded.latents.extend(picture.latents);
                    encoded.fingerprints.extend(picture.fingerprints);
                    if self.ranking.is_some() {
                        encoded.captions.push(picture.caption as u64);
                    }
                    prompts.extend(picture.prompts);
                }
                Err(skipped) => encoded.skipped.push(skipped),
            }
        }
        if let Some(encoder) = &self.prompts {
            // Prompts are dropped during training.
            prompts.insert(String::new());
            let prompts: Vec<String> = prompts.into_iter().collect();
            let states = in_order(prompts.len(), self.threads, |i| {
                on_cores(self.threads.min(prompts.len()), || array(encoder.states(&prompts[i]), self.text_type))
            })?;
            encoded.texts = prompts.into_iter().zip(states).collect();
        }
        Ok(encoded)
    }

    fn picture(&self, index: usize) -> Result<Result<EncodedPicture, Skipped>> {
        let picture = match self.samples.to_encode(index, &self.manifest.data) {
            Ok(picture) => picture,
            Err(skipped) => return Ok(Err(skipped)),
        };
        let started = Instant::now();
        // One at a time, as training does: a batch of another size may round differently.
        let latents = picture.variants.iter().map(|clean| {
            let latent = encode_pictures(&self.vae, &self.vae_config, pictures::to_tensor([clean], &self.device));
            array(latent.squeeze_dim::<3>(0), DType::F32)
        });
        let latents = latents.collect::<Result<Vec<_>>>()?;
        self.in_vae.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        let (caption, captions) = match &self.ranking {
            Some(ranking) => {
                let best = ranking.best(&picture.picture.to_picture(), &picture.captions)?;
                (best, picture.captions.get(best).cloned().into_iter().collect())
            }
            None => (0, picture.captions),
        };
        let prompts = captions.into_iter().chain([picture.restoration]).collect();
        Ok(Ok(EncodedPicture { latents, fingerprints: picture.fingerprints, caption, prompts }))
    }
}
