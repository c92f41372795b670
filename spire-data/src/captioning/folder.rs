//! Captions of all pictures of a folder, one `.txt` for each, several requests at a time; what exists is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use spire_core::atomic_write::write_atomic;
use spire_core::folder_lock::FolderLock;
use spire_core::message::with_causes;
use spire_core::parallel::in_order;
use spire_core::progress::PhaseProgress;

use super::{CaptionError, Endpoint};
use crate::source::list_pictures;

/// The file that says how the captions of a folder were made.
const RECORD: &str = "captions.json";

/// Where the captions of which pictures are written.
#[derive(Clone, Debug)]
pub struct CaptionFolder {
    /// The pictures, also those in subfolders.
    pub pictures: PathBuf,
    /// The folder of the captions; the pictures' own by default.
    pub captions: PathBuf,
    /// Requests at the same time.
    pub requests: usize,
    /// Ask again for captions that exist.
    pub overwrite: bool,
}

/// What became of the pictures.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CaptionSummary {
    /// Captions that were written.
    pub written: usize,
    /// Captions that existed.
    pub kept: usize,
    /// Pictures without a caption, with the reasons.
    pub failed: Vec<(PathBuf, String)>,
}

/// How captions were made.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Record {
    model: String,
    prompt: String,
}

impl CaptionFolder {
    /// Asks `endpoint` for the captions that are missing.
    ///
    /// # Errors
    /// There are no pictures; the captions that exist come from another model or prompt; another process writes into the
    /// folder; a file can't be written; or the server can't be used.
    pub fn fill(&self, endpoint: &Endpoint) -> Result<CaptionSummary> {
        let (pictures, left_out) = list_pictures(&self.pictures)?;
        ensure!(!pictures.is_empty(), "there are no pictures in {}", self.pictures.display());
        let targets = self.targets(&pictures)?;
        let _lock = FolderLock::take(&self.captions)?;
        self.record(endpoint, targets.iter().any(|target| target.exists()))?;

        let progress = PhaseProgress::new("captions", pictures.len() as u64);
        let (written, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let failed = Mutex::new(Vec::new());
        in_order(pictures.len(), self.requests, |number| -> Result<()> {
            let (picture, target) = (&pictures[number], &targets[number]);
            if !self.overwrite && target.exists() {
                kept.fetch_add(1, Ordering::Relaxed);
            } else {
                match endpoint.caption(picture) {
                    Ok(caption) => {
                        create_folder_of(target)?;
                        write_atomic(target, format!("{caption}\n").as_bytes())?;
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) if error.concerns_all() => return Err(error.into()),
                    Err(error) => note(&failed, picture, &error),
                }
            }
            progress.advance(&picture.file_name().unwrap_or_default().to_string_lossy());
            Ok(())
        })?;

        let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.extend(left_out.into_iter().map(|skipped| (PathBuf::from(skipped.name), skipped.reason)));
        failed.sort();
        Ok(CaptionSummary { written: written.into_inner(), kept: kept.into_inner(), failed })
    }

    /// The file of each picture's caption.
    fn targets(&self, pictures: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut targets = Vec::with_capacity(pictures.len());
        for picture in pictures {
            let place = picture.strip_prefix(&self.pictures).unwrap_or(picture);
            targets.push(self.captions.join(place).with_extension("txt"));
        }
        // Pictures are sorted by path, so the same target comes twice in a row.
        if let Some(twice) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("two pictures would share the caption {}: rename one of them", twice[0].display());
        }
        Ok(targets)
    }

    /// Writes how captions are made, and checks that those that exist, if `some_exist`, were made the same way.
    fn record(&self, endpoint: &Endpoint, some_exist: bool) -> Result<()> {
        let settings = endpoint.settings();
        let record = Record { model: settings.model.clone(), prompt: settings.prompt.clone() };
        let path = self.captions.join(RECORD);
        let before = fs::read_to_string(&path).ok().filter(|_| some_exist && !self.overwrite);
        if let Some(text) = before {
            let before: Record = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            ensure!(
                before == record,
                "the captions in {} come from {} with the prompt \"{}\": ask the same, or for all of them again with \
                 --overwrite, or choose another folder with --output",
                self.captions.display(),
                before.model,
                before.prompt
            );
        }
        Ok(write_atomic(&path, serde_json::to_string_pretty(&record)?.as_bytes())?)
    }
}

fn note(failed: &Mutex<Vec<(PathBuf, String)>>, picture: &Path, error: &CaptionError) {
    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
    failed.push((picture.to_owned(), with_causes(error)));
}

fn create_folder_of(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))
}
