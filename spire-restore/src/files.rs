//! Restores picture files: one, or a folder of them into another folder. Each result has its provenance.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use spire_core::checksum::sha256;
use spire_core::progress::FileProgress;
use spire_core::{Picture, png_text, sheet};
use spire_data::degrade::resize::resize_plane;
use spire_data::degrade::{Filter, resize};
use spire_data::source::{caption_of, list_pictures};
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::provenance::{KEYWORD, Provenance};
use crate::restorer::{Restorer, write_file};

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
    /// Restorations of each picture, with the seeds `seed`, `seed + 1`, …
    pub variants: u64,
    /// The factor by which pictures are enlarged first, at least 1.
    pub upscale: f64,
    /// How pictures are sampled.
    pub sampling: SamplingConfig,
    /// Variants that are restored together.
    pub batch_size: usize,
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
        ensure!(self.batch_size > 0, "the batch must hold at least 1 picture");
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
#[derive(Clone, Debug, Default)]
pub struct FolderSummary {
    /// Pictures that were restored.
    pub restored: usize,
    /// Pictures whose results existed already.
    pub kept: usize,
    /// Files that could not be restored, with the reasons.
    pub failed: Vec<(PathBuf, String)>,
}

impl Restorer {
    /// Restores `input` to the PNG `output`. Several variants have `-seed7`, `-seed8`, … in their names, and a contact
    /// sheet beside them has `-sheet`.
    ///
    /// # Errors
    /// The picture can't be read, is too large, or a file can't be written.
    pub fn restore_file(&self, settings: &FileSettings, input: &Path, output: &Path) -> Result<RestoredFile> {
        settings.validate()?;
        let bytes = fs::read(input).with_context(|| format!("can't read {}", input.display()))?;
        let input_sha256 = sha256(&bytes);
        let semantic = match &settings.semantic {
            Semantic::Text(text) => text.clone(),
            Semantic::Captions => caption_of(input)?,
        };
        let provenance = |seed: u64| {
            let FileSettings { restoration, upscale, sampling, .. } = settings;
            self.provenance(&input_sha256, &semantic, restoration, seed, *upscale, sampling)
        };
        let seeds: Vec<u64> = (0..settings.variants).map(|i| settings.seed.wrapping_add(i)).collect();
        let place = |seed: u64| match settings.variants {
            1 => output.to_owned(),
            _ => beside(output, &format!("seed{seed}")),
        };
        let done = |&seed: &u64| !settings.overwrite && Provenance::read(&place(seed)) == Some(provenance(seed));
        let files = seeds.iter().map(|&seed| place(seed)).collect();
        if seeds.iter().all(done) {
            return Ok(RestoredFile { files, kept: true });
        }

        let (picture, alpha) = Picture::decode_with_alpha(&bytes, input)?;
        let degraded = upscaled(&picture, settings.upscale)?;
        let size = (picture.width, picture.height);
        let alpha = alpha.map(|alpha| resize_plane(&alpha, size, degraded.width, degraded.height, Filter::Bicubic));
        let mut cells = vec![(degraded.clone(), "degraded".to_owned())];
        for seeds in seeds.chunks(settings.batch_size) {
            let request = |&seed: &u64| Request {
                degraded: degraded.clone(),
                semantic: semantic.clone(),
                restoration: settings.restoration.clone(),
                seed,
            };
            let requests: Vec<_> = seeds.iter().map(request).collect();
            for (&seed, restored) in
                seeds.iter().zip(restore(&self.base, &self.control, &settings.sampling, &requests)?)
            {
                let text = serde_json::to_string(&provenance(seed))?;
                let place = place(seed);
                write_file(&place, &png_text::encode(&restored, alpha.as_deref(), &[(KEYWORD, &text)])?)?;
                cells.push((restored, format!("seed {seed}")));
            }
        }
        if settings.variants > 1 {
            let columns = (cells.len() as f64).sqrt().ceil() as usize;
            sheet::save_png(&sheet::grid(columns, &cells), &beside(output, "sheet"))?;
        }
        Ok(RestoredFile { files, kept: false })
    }

    /// Restores every picture in `input` and its subfolders to a PNG at the same place in `output`. Results that exist
    /// with the same provenance are kept, so that an interrupted folder continues. A broken file is reported and
    /// skipped.
    ///
    /// # Errors
    /// The folder can't be searched or has no pictures.
    pub fn restore_folder(&self, settings: &FileSettings, input: &Path, output: &Path) -> Result<FolderSummary> {
        settings.validate()?;
        restore_each(input, output, |picture, place| self.restore_file(settings, picture, place))
    }
}

/// Restores every picture in `input` and its subfolders by `restore`, to a PNG at the same place in `output`. A broken file
/// is reported and skipped.
///
/// # Errors
/// The folder can't be searched or has no pictures.
pub(crate) fn restore_each(
    input: &Path,
    output: &Path,
    restore: impl Fn(&Path, &Path) -> Result<RestoredFile>,
) -> Result<FolderSummary> {
    fs::create_dir_all(output).with_context(|| format!("can't create {}", output.display()))?;
    let (input, output) = (&input.canonicalize()?, &output.canonicalize()?);
    ensure!(input != output, "restored pictures need another folder than {}", input.display());
    let mut pictures = list_pictures(input)?;
    // `output` may be inside `input`.
    pictures.retain(|picture| !picture.starts_with(output));
    ensure!(!pictures.is_empty(), "there are no pictures in {}", input.display());
    let mut summary = FolderSummary::default();
    let mut taken = HashSet::new();
    let progress = FileProgress::new(pictures.len() as u64);
    for picture in pictures {
        let name = picture.strip_prefix(input).unwrap_or(&picture);
        let mut place = output.join(name.with_extension("png"));
        if !taken.insert(place.clone()) {
            // `a.jpg` and `a.png`: the second keeps its extension.
            let ending = picture.extension().unwrap_or_default().to_string_lossy().into_owned();
            place = output.join(name.with_extension(format!("{ending}.png")));
        }
        match restore(&picture, &place) {
            Ok(restored) if restored.kept => summary.kept += 1,
            Ok(_) => summary.restored += 1,
            Err(error) => {
                progress.print(&format!("{}: {error:#}", name.display()));
                summary.failed.push((picture.clone(), format!("{error:#}")));
            }
        }
        progress.advance(&name.display().to_string());
    }
    Ok(summary)
}

/// `a/b.png` with `-name` before the extension.
fn beside(output: &Path, name: &str) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}-{name}.png"))
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
