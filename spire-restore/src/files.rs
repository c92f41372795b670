//! Restores picture files: one, or a folder of them into another folder. Each result has its provenance.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use spire_core::atomic_write::check_output;
use spire_core::checksum::{sha256, sha256_of_file};
use spire_core::message::with_causes;
use spire_core::picture::{Decoded, Depth};
use spire_core::picture_file::{self, PictureFormat};
use spire_core::progress::PhaseProgress;
use spire_core::{Picture, picture, sheet};
use spire_data::captioning::Endpoint;
use spire_data::degrade::resize::resize_plane;
use spire_data::degrade::{Filter, resize};
use spire_data::source::{Skipped, caption_of, list_pictures};
use spire_model::restore::{Request, SamplingConfig, restore, restore_from_latents};
use spire_model::weights::Tensors;

use crate::provenance::{KEYWORD, Provenance};
use crate::restorer::{Restorer, create_folder_of};
use crate::sharing::{Copies, Sharing};

/// The most pixels of a restored picture: a larger one takes more than 3 GiB.
pub(crate) const MOST_PIXELS: f64 = (1_u64 << 28) as f64;

/// The most variants of one picture: the contact sheet shows all of them.
const MOST_VARIANTS: u64 = 1000;

/// Where the semantic prompt comes from.
#[derive(Clone, Debug)]
pub enum Semantic {
    /// The same prompt for all pictures; may be empty.
    Text(String),
    /// The `.txt` file beside each picture.
    Captions,
    /// What a vision-language model on a server says of each picture.
    Model(Arc<Endpoint>),
}

/// How to restore every picture.
#[derive(Clone, Debug)]
pub struct FileSettings {
    /// The semantic prompt.
    pub semantic: Semantic,
    /// The restoration prompt.
    pub restoration: String,
    /// The seed of the initial noise.
    pub seed: u64,
    /// A safetensors file with the initial noise instead of that of the seed: `latents`, standard normal, `[1, channels,
    /// height / 8, width / 8]` for the padded picture.
    pub latents: Option<PathBuf>,
    /// Restorations of each picture, with the seeds `seed`, `seed + 1`, …
    pub variants: u64,
    /// The factor by which pictures are enlarged first, at least 1.
    pub upscale: f64,
    /// How pictures are sampled.
    pub sampling: SamplingConfig,
    /// Variants that are restored together.
    pub batch_size: usize,
    /// JPEG's quality, from 1 to 100, for outputs in that format.
    pub quality: Option<u8>,
    /// Restore again even if the result exists with the same provenance.
    pub overwrite: bool,
}

impl FileSettings {
    /// Checks the numbers.
    ///
    /// # Errors
    /// A number is out of range; the error names it.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.upscale.is_finite() && self.upscale >= 1.0, "upscale must be at least 1");
        ensure!((1..=MOST_VARIANTS).contains(&self.variants), "variants must be from 1 to {MOST_VARIANTS}");
        let last = self.seed.checked_add(self.variants - 1);
        ensure!(last.is_some(), "{} variants from seed {} on go beyond the highest seed", self.variants, self.seed);
        ensure!(self.batch_size > 0, "the batch must hold at least 1 picture");
        ensure!(
            self.latents.is_none() || self.variants == 1,
            "with latents every variant would start from the same noise: restore one"
        );
        self.sampling.validate()
    }
}

/// The result for one picture.
#[derive(Clone, Debug)]
pub struct RestoredFile {
    /// The restored pictures, one per variant.
    pub files: Vec<PathBuf>,
    /// Whether they existed already with the same provenance.
    pub kept: bool,
}

/// The results for a folder.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FolderSummary {
    /// Pictures that were restored.
    pub restored: usize,
    /// Pictures whose results existed already.
    pub kept: usize,
    /// The restored pictures, those that existed already included.
    pub files: Vec<PathBuf>,
    /// What could not be read or restored, with the reasons.
    pub failed: Vec<(PathBuf, String)>,
}

impl From<RestoredFile> for FolderSummary {
    fn from(RestoredFile { files, kept }: RestoredFile) -> Self {
        let (restored, kept) = if kept { (0, 1) } else { (1, 0) };
        Self { restored, kept, files, failed: vec![] }
    }
}

impl Restorer {
    /// Restores `input` to `output`, a picture in the format of its name. Several variants have `-seed7`, `-seed8`, … in
    /// their names, and a contact sheet beside them has `-sheet`.
    ///
    /// # Errors
    /// The picture can't be read, is too large, or a file can't be written, because it is the input for example.
    pub fn restore_file(&self, settings: &FileSettings, input: &Path, output: &Path) -> Result<RestoredFile> {
        settings.validate()?;
        let format = PictureFormat::of(output, settings.quality)?;
        let bytes = picture::read(input)?;
        let input_sha256 = sha256(&bytes);
        let sum = |file: &PathBuf| sha256_of_file(file).with_context(|| format!("can't read {}", file.display()));
        let latents_sha256 = settings.latents.as_ref().map(sum).transpose()?;
        let semantic = match &settings.semantic {
            Semantic::Text(text) => text.clone(),
            Semantic::Captions => caption_of(input)?,
            Semantic::Model(endpoint) => endpoint.caption(input)?,
        };
        let provenance = |seed: u64| {
            let FileSettings { restoration, upscale, sampling, .. } = settings;
            let made = self.provenance(&input_sha256, &semantic, restoration, seed, *upscale, sampling);
            Provenance { latents_sha256: latents_sha256.clone(), ..made }
        };
        let seeds: Vec<u64> = (0..settings.variants).map(|i| settings.seed + i).collect();
        let place = |seed: u64| match settings.variants {
            1 => output.to_owned(),
            _ => beside(output, &format!("seed{seed}"), &output.extension().unwrap_or_default().to_string_lossy()),
        };
        let contact_sheet = beside(output, "sheet", "png");
        for file in seeds.iter().map(|&seed| place(seed)).chain((settings.variants > 1).then(|| contact_sheet.clone()))
        {
            check_output(&file, input)?;
        }
        let done = |&seed: &u64| !settings.overwrite && Provenance::read(&place(seed)) == Some(provenance(seed));
        let files = seeds.iter().map(|&seed| place(seed)).collect();
        if seeds.iter().all(done) {
            return Ok(RestoredFile { files, kept: true });
        }

        let Input { degraded, alpha, depth } = Input::decode(&bytes, input, settings.upscale)?;
        self.warn_of_small(&degraded, input);
        let format = format.in_depth(depth);
        if alpha.is_some() && !format.has_alpha() {
            tracing::warn!(
                "{} can't be transparent, as {} is: it shows white there",
                output.display(),
                input.display()
            );
        }
        let mut cells = vec![(degraded.clone(), "degraded".to_owned())];
        tracing::debug!(
            "{}: {}×{} pixels, semantic prompt \"{semantic}\", restoration prompt \"{}\", seeds {seeds:?}",
            input.display(),
            degraded.width,
            degraded.height,
            settings.restoration
        );
        for seeds in seeds.chunks(settings.batch_size) {
            let request = |&seed: &u64| Request {
                degraded: degraded.clone(),
                semantic: semantic.clone(),
                restoration: settings.restoration.clone(),
                seed,
            };
            let requests: Vec<_> = seeds.iter().map(request).collect();
            for (&seed, restored) in seeds.iter().zip(self.restored(settings, &requests)?) {
                let text = serde_json::to_string(&provenance(seed))?;
                let place = place(seed);
                if !format.carries(&text) {
                    tracing::warn!(
                        "{}: the prompts are too long for JPEG's metadata and are not recorded",
                        place.display()
                    );
                }
                create_folder_of(&place)?;
                picture_file::save(&place, format, &restored, alpha.as_deref(), Some((KEYWORD, &text)))?;
                cells.push((restored, format!("seed {seed}")));
            }
        }
        if settings.variants > 1 {
            let columns = (cells.len() as f64).sqrt().ceil() as usize;
            sheet::save_png(&sheet::grid(columns, &cells), &contact_sheet)?;
        }
        Ok(RestoredFile { files, kept: false })
    }

    /// The restored pictures of a batch.
    fn restored(&self, settings: &FileSettings, requests: &[Request]) -> Result<Vec<Picture>> {
        let (base, control, sampling) = (&self.base, &self.control, &settings.sampling);
        let Some(file) = &settings.latents else { return restore(base, control, sampling, requests) };
        let read = || Tensors::open(file)?.tensor("latents", &base.device());
        let restored = restore_from_latents(base, control, sampling, requests, &read()?);
        restored.with_context(|| file.display().to_string())
    }
}

/// Restores every picture in `input` and its subfolders to a PNG at the same place in `output`, on the devices of `sharing`:
/// `load` loads the model for the device of a name, and `restore` restores a file by it. If it keeps results that exist, an
/// interrupted folder continues. A broken file is reported and skipped.
///
/// # Errors
/// The folder can't be searched or has no pictures, or every device failed.
pub fn restore_folder<M: Send + Sync>(
    input: &Path,
    output: &Path,
    sharing: &Sharing,
    load: impl Fn(&str) -> Result<M> + Sync,
    restore: impl Fn(&M, &Path, &Path) -> Result<RestoredFile> + Sync,
) -> Result<FolderSummary> {
    fs::create_dir_all(output).with_context(|| format!("can't create {}", output.display()))?;
    let (input, output) = (&input.canonicalize()?, &output.canonicalize()?);
    ensure!(input != output, "restored pictures need another folder than {}", input.display());
    let (mut pictures, left_out) = list_pictures(input)?;
    if output.starts_with(input) {
        pictures.retain(|picture| !picture.starts_with(output));
    }
    ensure!(!pictures.is_empty(), "there are no pictures in {}", input.display());
    let places = places(&pictures, input, output);
    let inputs: HashSet<&PathBuf> = pictures.iter().collect();
    let progress = PhaseProgress::new("restoring", sharing.size_of_part(pictures.iter().map(|_| 1)));
    let mut summary = FolderSummary::default();
    for Skipped { name, reason } in left_out {
        progress.print(&format!("{name}: {reason}"));
        summary.failed.push((name.into(), reason));
    }
    let report = |picture: &Path, error: &anyhow::Error| {
        let reason = with_causes(error.as_ref());
        progress.print(&format!("{}: {reason}", picture.strip_prefix(input).unwrap_or(picture).display()));
        reason
    };
    let restore_one = |model: &M, number: usize| {
        let (picture, place) = (&pictures[number], &places[number]);
        let name = picture.strip_prefix(input).unwrap_or(picture).display();
        let restored = match inputs.contains(place) {
            // `input` may be inside `output`.
            true => Err(anyhow!("its result would replace the picture {}: choose another folder", place.display())),
            false => restore(model, picture, place),
        };
        progress.advance(&name.to_string());
        Ok(restored.map_err(|error| report(picture, &error)))
    };
    let ready = |_: Option<M>, device: &str| load(device);
    for (number, restored) in Copies::default().share(sharing, pictures.len(), 1, ready, restore_one)? {
        let picture = &pictures[number];
        match restored.unwrap_or_else(|error| Err(report(picture, &error))) {
            Ok(RestoredFile { files, kept }) => {
                *(if kept { &mut summary.kept } else { &mut summary.restored }) += 1;
                summary.files.extend(files);
            }
            Err(reason) => summary.failed.push((picture.clone(), reason)),
        }
    }
    Ok(summary)
}

/// Where the restored pictures belong.
fn places(pictures: &[PathBuf], input: &Path, output: &Path) -> Vec<PathBuf> {
    let mut taken = HashSet::new();
    let place = |picture: &PathBuf| {
        let name = picture.strip_prefix(input).unwrap_or(picture);
        let mut place = output.join(name.with_extension("png"));
        if !taken.insert(place.clone()) {
            // `a.jpg` and `a.png`: the second keeps its extension.
            let ending = picture.extension().unwrap_or_default().to_string_lossy().into_owned();
            place = output.join(name.with_extension(format!("{ending}.png")));
        }
        place
    };
    pictures.iter().map(place).collect()
}

/// `a/b-name.extension` for the output `a/b.png`.
fn beside(output: &Path, name: &str, extension: &str) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}-{name}.{extension}"))
}

/// A decoded file as it goes into the model.
pub struct Input {
    /// The degraded picture, enlarged.
    pub degraded: Picture,
    /// Its transparency, enlarged; `height * width` values in \[0, 1\]. `None` if the picture is opaque.
    pub alpha: Option<Vec<f32>>,
    /// Bits of a channel in the file.
    pub depth: Depth,
}

impl Input {
    /// Decodes a file's bytes and enlarges the picture by `upscale`; `path` names the file in errors.
    ///
    /// # Errors
    /// The bytes are not a picture, or it is too large.
    pub fn decode(bytes: &[u8], path: &Path, upscale: f64) -> Result<Self> {
        let Decoded { picture, alpha, depth } = Picture::decode(bytes, path)?;
        let degraded = upscaled(&picture, upscale)?;
        let size = (picture.width, picture.height);
        let alpha = alpha.map(|alpha| resize_plane(&alpha, size, degraded.width, degraded.height, Filter::Bicubic));
        Ok(Self { degraded, alpha, depth })
    }
}

fn upscaled(picture: &Picture, factor: f64) -> Result<Picture> {
    let side = |side: usize| (side as f64 * factor).round();
    let (width, height) = (side(picture.width), side(picture.height));
    ensure!(width * height <= MOST_PIXELS, "{width} by {height} pixels are more than can be restored");
    if factor == 1.0 {
        return Ok(picture.clone());
    }
    let mut upscaled = resize(picture, width as usize, height as usize, Filter::Bicubic);
    upscaled.clamp();
    Ok(upscaled)
}
