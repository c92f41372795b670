//! Restoring picture files: one, or a folder of them into another, each written with what it was made from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spire_data::checksum::sha256;
use spire_data::degrade::resize::resize_plane;
use spire_data::degrade::{Filter, ParameterizedConfig, resize};
use spire_data::parallel::in_order;
use spire_data::source::{caption_of, list_pictures};
use spire_data::{Picture, png_text};
use spire_model::base::Base;
use spire_model::control::Control;
use spire_model::device::on_one_thread;
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::checkpoint::write_atomic;
use crate::progress::FileProgress;
use crate::sheet;

/// The text chunk that says how a picture was made.
pub const KEYWORD: &str = "spire";

/// The most pixels of a restored picture: beyond, a picture takes more than 3 GiB.
const MOST_PIXELS: f64 = (1_u64 << 28) as f64;

/// The most restorations of one picture: the contact sheet shows all of them.
const MOST_VARIANTS: u64 = 1000;

/// Where the semantic prompt comes from.
#[derive(Clone, Debug)]
pub enum Semantic {
    /// The same for all pictures; may be empty.
    Text(String),
    /// The `.txt` file beside each picture.
    Captions,
}

/// What is asked of every picture.
#[derive(Clone, Debug)]
pub struct Task {
    /// What the pictures show.
    pub semantic: Semantic,
    /// What is to be undone.
    pub restoration: String,
    /// Decides the initial noise.
    pub seed: u64,
    /// How many restorations of each picture, with seeds from `seed` on.
    pub variants: u64,
    /// How many times larger the restored picture is than the file, at least 1.
    pub upscale: f64,
    /// How pictures are sampled.
    pub sampling: SamplingConfig,
    /// Variants that are restored together.
    pub batch_size: usize,
    /// Restore again what was restored the same way before.
    pub overwrite: bool,
}

impl Task {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// Names the one that does not.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.upscale.is_finite() && self.upscale >= 1.0, "upscale must be at least 1");
        ensure!((1..=MOST_VARIANTS).contains(&self.variants), "variants must be from 1 to {MOST_VARIANTS}");
        ensure!(self.batch_size > 0, "the batch must hold at least 1 picture");
        self.sampling.validate()
    }
}

/// A model that is ready to restore.
#[derive(Debug)]
pub struct Restorer {
    /// The frozen model.
    pub base: Base,
    /// The trained branch.
    pub control: Control,
    /// Where the two are from, for the record.
    pub run: String,
    /// What the branch was trained on; says which prompts it knows.
    pub trained: ParameterizedConfig,
}

/// How a restored picture was made; written into it as JSON.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Provenance {
    /// `spire` and its version.
    pub program: String,
    /// The run whose model was used.
    pub run: String,
    /// The degraded picture's SHA-256.
    pub input_sha256: String,
    /// The semantic prompt.
    pub semantic: String,
    /// The restoration prompt.
    pub restoration: String,
    /// Decides the initial noise.
    pub seed: u64,
    /// How many times larger than the file.
    pub upscale: f64,
    /// Everything else.
    pub sampling: SamplingConfig,
}

impl Provenance {
    /// Of a PNG that this program wrote; `None` for any other file.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&png_text::read(path, KEYWORD)?).ok()
    }
}

/// What became of one picture.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The restored pictures, one a variant.
    pub files: Vec<PathBuf>,
    /// They were there already, restored the same way.
    pub kept: bool,
}

/// What became of the pictures of a folder.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Restored now.
    pub restored: usize,
    /// Found restored the same way already.
    pub kept: usize,
    /// Files that could not be restored, with the reason.
    pub failed: Vec<(PathBuf, String)>,
}

impl Restorer {
    /// Restores `input` to the PNG `output`, or to `output`'s name with `-seed7` and so on for each of several variants,
    /// with a contact sheet beside them (`-sheet`).
    ///
    /// # Errors
    /// The picture can't be read, is too large, or a file can't be written.
    pub fn restore_file(&self, task: &Task, input: &Path, output: &Path) -> Result<Outcome> {
        task.validate()?;
        let bytes = fs::read(input).with_context(|| format!("can't read {}", input.display()))?;
        let input_sha256 = sha256(&bytes);
        let semantic = match &task.semantic {
            Semantic::Text(text) => text.clone(),
            Semantic::Captions => caption_of(input)?,
        };
        let made_from = |seed: u64| {
            self.provenance(&input_sha256, &semantic, &task.restoration, seed, task.upscale, &task.sampling)
        };
        let seeds: Vec<u64> = (0..task.variants).map(|i| task.seed.wrapping_add(i)).collect();
        let place = |seed: u64| match task.variants {
            1 => output.to_owned(),
            _ => beside(output, &format!("seed{seed}")),
        };
        let done = |&seed: &u64| !task.overwrite && Provenance::read(&place(seed)) == Some(made_from(seed));
        let files = seeds.iter().map(|&seed| place(seed)).collect();
        if seeds.iter().all(done) {
            return Ok(Outcome { files, kept: true });
        }

        let (picture, alpha) = Picture::decode_with_alpha(&bytes, input)?;
        let degraded = upscaled(&picture, task.upscale)?;
        let size = (picture.width, picture.height);
        let alpha = alpha.map(|alpha| resize_plane(&alpha, size, degraded.width, degraded.height, Filter::Bicubic));
        let mut cells = vec![(degraded.clone(), "degraded".to_owned())];
        for seeds in seeds.chunks(task.batch_size) {
            let request = |&seed: &u64| Request {
                degraded: degraded.clone(),
                semantic: semantic.clone(),
                restoration: task.restoration.clone(),
                seed,
            };
            let requests: Vec<_> = seeds.iter().map(request).collect();
            for (&seed, restored) in seeds.iter().zip(restore(&self.base, &self.control, &task.sampling, &requests)?) {
                let text = serde_json::to_string(&made_from(seed))?;
                let place = place(seed);
                write_into(&place, &png_text::encode(&restored, alpha.as_deref(), &[(KEYWORD, &text)])?)?;
                cells.push((restored, format!("seed {seed}")));
            }
        }
        if task.variants > 1 {
            let columns = (cells.len() as f64).sqrt().ceil() as usize;
            sheet::save_png(&sheet::grid(columns, &cells), &beside(output, "sheet"))?;
        }
        Ok(Outcome { files, kept: false })
    }

    /// Restores every picture in `input` and below to a PNG in the same place in `output`. What was restored the same way
    /// before is kept, so an interrupted folder goes on where it stopped; a broken file is reported and passed over.
    ///
    /// # Errors
    /// The folder can't be searched or has no pictures.
    pub fn restore_folder(&self, task: &Task, input: &Path, output: &Path) -> Result<Tally> {
        task.validate()?;
        fs::create_dir_all(output).with_context(|| format!("can't create {}", output.display()))?;
        let (input, output) = (&input.canonicalize()?, &output.canonicalize()?);
        ensure!(input != output, "restored pictures need another folder than {}", input.display());
        let mut pictures = list_pictures(input)?;
        // The folder of the restored pictures may lie in that of the degraded ones.
        pictures.retain(|picture| !picture.starts_with(output));
        ensure!(!pictures.is_empty(), "there are no pictures in {}", input.display());
        let mut tally = Tally::default();
        let mut taken = HashSet::new();
        let progress = FileProgress::new(pictures.len() as u64);
        for picture in pictures {
            let name = picture.strip_prefix(input).unwrap_or(&picture);
            let mut place = output.join(name.with_extension("png"));
            if !taken.insert(place.clone()) {
                // `a.jpg` and `a.png`: the second keeps its ending.
                let ending = picture.extension().unwrap_or_default().to_string_lossy().into_owned();
                place = output.join(name.with_extension(format!("{ending}.png")));
            }
            match self.restore_file(task, &picture, &place) {
                Ok(outcome) if outcome.kept => tally.kept += 1,
                Ok(_) => tally.restored += 1,
                Err(error) => {
                    progress.say(&format!("{}: {error:#}", name.display()));
                    tally.failed.push((picture.clone(), format!("{error:#}")));
                }
            }
            progress.advance(&name.display().to_string());
        }
        Ok(tally)
    }
}

/// One picture of a benchmark, and how it is to be restored.
#[derive(Clone, Debug)]
pub struct Job {
    /// The degraded picture.
    pub input: PathBuf,
    /// Where the restored picture is written, as PNG.
    pub output: PathBuf,
    /// What it shows; may be empty.
    pub semantic: String,
    /// What is to be undone.
    pub restoration: String,
    /// Decides the initial noise.
    pub seed: u64,
}

/// A job, its degraded picture and the JSON of its provenance.
type Open<'a> = (&'a Job, Picture, String);

/// How a list of jobs is done.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// How pictures are sampled.
    pub sampling: SamplingConfig,
    /// Pictures that are restored at once, where they have one size.
    pub batch_size: usize,
    /// Batches that are computed side by side, each on one core: faster than one on all cores where the model is small.
    pub threads: usize,
}

/// Restored pictures by what they were made from, so that none is made twice.
pub type Restored = Mutex<HashMap<String, PathBuf>>;

impl Restorer {
    /// Restores pictures, each with prompts of its own. What was restored the same way before, in its place or by an entry of
    /// `restored`, is kept, so that what was interrupted goes on. `progress` is called after each picture.
    ///
    /// # Errors
    /// A picture can't be read or written.
    pub fn restore_jobs(
        &self,
        jobs: &[Job],
        settings: &JobSettings,
        restored: &Restored,
        progress: &(dyn Fn(&Job) + Sync),
    ) -> Result<()> {
        let batches: Vec<&[Job]> = jobs.chunks(settings.batch_size).collect();
        let work = |i: usize| self.restore_batch(batches[i], &settings.sampling, restored, progress);
        match settings.threads {
            0 | 1 => (0..batches.len()).try_for_each(work),
            threads => in_order(batches.len(), threads, |i| on_one_thread(|| work(i))).map(|_| ()),
        }
    }

    fn provenance(
        &self,
        input_sha256: &str,
        semantic: &str,
        restoration: &str,
        seed: u64,
        upscale: f64,
        sampling: &SamplingConfig,
    ) -> Provenance {
        Provenance {
            program: concat!("spire ", env!("CARGO_PKG_VERSION")).into(),
            run: self.run.clone(),
            input_sha256: input_sha256.to_owned(),
            semantic: semantic.to_owned(),
            restoration: restoration.to_owned(),
            seed,
            upscale,
            sampling: sampling.clone(),
        }
    }

    fn restore_batch(
        &self,
        jobs: &[Job],
        sampling: &SamplingConfig,
        restored: &Restored,
        progress: &(dyn Fn(&Job) + Sync),
    ) -> Result<()> {
        let mut by_size: BTreeMap<(usize, usize), Vec<Open>> = BTreeMap::new();
        for job in jobs {
            let bytes = fs::read(&job.input).with_context(|| format!("can't read {}", job.input.display()))?;
            let sum = sha256(&bytes);
            let provenance = self.provenance(&sum, &job.semantic, &job.restoration, job.seed, 1.0, sampling);
            let provenance = serde_json::to_string(&provenance)?;
            let mut known = restored.lock().unwrap_or_else(PoisonError::into_inner);
            if png_text::read(&job.output, KEYWORD).as_ref() == Some(&provenance) {
                known.insert(provenance, job.output.clone());
                progress(job);
            } else if let Some(same) = known.get(&provenance) {
                let bytes = fs::read(same).with_context(|| format!("can't read {}", same.display()))?;
                write_into(&job.output, &bytes)?;
                progress(job);
            } else {
                drop(known);
                let (picture, _) = Picture::decode_with_alpha(&bytes, &job.input)?;
                by_size.entry((picture.width, picture.height)).or_default().push((job, picture, provenance));
            }
        }
        for batch in by_size.into_values() {
            let request = |(job, degraded, _): &Open| Request {
                degraded: degraded.clone(),
                semantic: job.semantic.clone(),
                restoration: job.restoration.clone(),
                seed: job.seed,
            };
            let requests: Vec<_> = batch.iter().map(request).collect();
            let pictures = restore(&self.base, &self.control, sampling, &requests)?;
            for ((job, _, provenance), picture) in batch.into_iter().zip(pictures) {
                write_into(&job.output, &png_text::encode(&picture, None, &[(KEYWORD, &provenance)])?)?;
                restored.lock().unwrap_or_else(PoisonError::into_inner).insert(provenance, job.output.clone());
                progress(job);
            }
        }
        Ok(())
    }
}

/// Writes a file, and the folders that it lies in.
fn write_into(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    }
    Ok(write_atomic(path, bytes)?)
}

/// `a/b.png` with `-name` before its ending.
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
