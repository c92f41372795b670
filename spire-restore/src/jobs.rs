//! Restores a list of pictures, each with its own prompts, as an evaluation does.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use spire_core::checksum::sha256;
use spire_core::{Picture, picture, png_text};
use spire_model::device::on_cores;
use spire_model::restore::{Request, SamplingConfig, restore};

use crate::files::Input;
use crate::provenance::KEYWORD;
use crate::restorer::{Restorer, write_file};
use crate::sharing::{Copies, Sharing};

/// A picture and how to restore it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The degraded picture.
    pub input: PathBuf,
    /// The restored picture, a PNG.
    pub output: PathBuf,
    /// The semantic prompt; may be empty.
    pub semantic: String,
    /// The restoration prompt.
    pub restoration: String,
    /// The seed of the initial noise.
    pub seed: u64,
}

/// A job, its degraded picture and the JSON of its provenance.
type Open<'a> = (&'a Job, Picture, String);

/// How to restore a list of jobs.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// How pictures are sampled.
    pub sampling: SamplingConfig,
    /// The factor by which pictures are enlarged first, at least 1.
    pub upscale: f64,
    /// Pictures that are restored together if they have the same size.
    pub batch_size: usize,
    /// Batches that are restored in parallel on each device, each on one core. For a small model on a CPU this is faster
    /// than one batch on all cores.
    pub threads: usize,
}

/// Restored pictures by their provenance (JSON), so that none is made twice.
pub type Restored = Mutex<HashMap<String, PathBuf>>;

/// Restores this process's part of the jobs on the devices of `sharing`; `load` loads the model for the device of a name. A
/// picture that exists with the same provenance, as its output or in `restored`, is not made again, so that an interrupted list
/// continues. `progress` is called after each picture.
///
/// Devices and processes take whole batches: a picture is restored together with the same others by any of them.
///
/// # Errors
/// A picture can't be read or written, or every device failed.
pub fn restore_jobs(
    copies: &mut Copies<Restorer>,
    sharing: &Sharing,
    load: impl Fn(&str) -> Result<Restorer> + Sync,
    jobs: &[Job],
    settings: &JobSettings,
    restored: &Restored,
    progress: &(dyn Fn(&Job) + Sync),
) -> Result<()> {
    let batches: Vec<&[Job]> = jobs.chunks(settings.batch_size).collect();
    let ready = |kept: Option<Restorer>, device: &str| kept.map_or_else(|| load(device), Ok);
    let work = |restorer: &Restorer, number: usize| {
        let restore = || restorer.restore_batch(batches[number], settings, restored, progress);
        on_cores((settings.threads * sharing.devices()).min(batches.len()), restore)
    };
    for (number, result) in copies.share(sharing, batches.len(), settings.threads, ready, work)? {
        result.with_context(|| format!("the batch from {} on", batches[number][0].input.display()))?;
    }
    Ok(())
}

impl Restorer {
    /// Restores the jobs together that are to do and whose pictures have the same size.
    fn restore_batch(
        &self,
        jobs: &[Job],
        JobSettings { sampling, upscale, .. }: &JobSettings,
        restored: &Restored,
        progress: &(dyn Fn(&Job) + Sync),
    ) -> Result<()> {
        let mut by_size: BTreeMap<(usize, usize), Vec<Open>> = BTreeMap::new();
        for job in jobs {
            let bytes = picture::read(&job.input)?;
            let sum = sha256(&bytes);
            let provenance = self.provenance(&sum, &job.semantic, &job.restoration, job.seed, *upscale, sampling);
            let provenance = serde_json::to_string(&provenance)?;
            let mut known = restored.lock().unwrap_or_else(PoisonError::into_inner);
            if png_text::read(&job.output, KEYWORD).as_ref() == Some(&provenance) {
                known.insert(provenance, job.output.clone());
                progress(job);
            } else if let Some(same) = known.get(&provenance) {
                let bytes = fs::read(same).with_context(|| format!("can't read {}", same.display()))?;
                write_file(&job.output, &bytes)?;
                progress(job);
            } else {
                drop(known);
                let Input { degraded, .. } = Input::decode(&bytes, &job.input, *upscale)?;
                self.warn_of_small(&degraded, &job.input);
                by_size.entry((degraded.width, degraded.height)).or_default().push((job, degraded, provenance));
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
                write_file(&job.output, &png_text::encode(&picture, None, &[(KEYWORD, &provenance)])?)?;
                restored.lock().unwrap_or_else(PoisonError::into_inner).insert(provenance, job.output.clone());
                progress(job);
            }
        }
        Ok(())
    }
}
