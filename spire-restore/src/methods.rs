//! The pictures of an evaluation's methods: restored by a model of this project, or found in a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use spire_core::progress::PhaseProgress;
use spire_data::testset::{Entry, TestSet};
use spire_eval::evaluation::{EvalConfig, MethodConfig, MethodKind, MethodProtocol, PromptPair, slug};

use crate::jobs::{Job, JobSettings, Restored};
use crate::provenance::ModelIdentity;
use crate::restorer::Restorer;
use crate::trained_model::TrainedModel;

/// Models that are loaded already, and pictures that are restored already.
#[derive(Debug, Default)]
pub struct Methods {
    /// By run, base, branch and CLIP.
    loaded: BTreeMap<String, Restorer>,
    restored: Restored,
}

/// Where a method's pictures of a test set are.
#[derive(Clone, Debug)]
pub enum Pictures {
    /// `ID.png` in this folder.
    In(PathBuf),
    /// The degraded pictures of the test set.
    Degraded,
}

impl Pictures {
    /// The file of an entry.
    pub fn file(&self, benchmark: &TestSet, entry: &Entry) -> PathBuf {
        match self {
            Self::In(folder) => folder.join(format!("{}.png", entry.id)),
            Self::Degraded => benchmark.degraded(entry),
        }
    }
}

/// The name of a test set in paths.
pub fn name(benchmark: &TestSet) -> String {
    benchmark.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Methods {
    /// Checks that the files of a method exist, without loading them.
    ///
    /// # Errors
    /// The run, the branch or the folder does not exist.
    pub fn check(method: &MethodConfig, benchmark: &TestSet) -> Result<()> {
        match method.kind {
            MethodKind::Input => Ok(()),
            MethodKind::Folder => {
                let folder = folder_of(method, benchmark);
                ensure!(folder.is_dir(), "there is no folder {}", folder.display());
                Ok(())
            }
            MethodKind::Model => locate(method)?.check(),
        }
    }

    /// Where a method's pictures of a test set are, and how they were made. Missing pictures of a model are restored
    /// into `output`.
    ///
    /// # Errors
    /// The model can't be loaded, or a picture can't be read or written.
    pub fn pictures(
        &mut self,
        method: &MethodConfig,
        config: &EvalConfig,
        benchmark: &TestSet,
        output: &Path,
    ) -> Result<(Pictures, MethodProtocol)> {
        match method.kind {
            MethodKind::Input => Ok((Pictures::Degraded, MethodProtocol::Input)),
            MethodKind::Folder => {
                Ok((Pictures::In(folder_of(method, benchmark)), MethodProtocol::Folder { files: String::new() }))
            }
            MethodKind::Model => {
                let sampling = method.sampling.as_ref().unwrap_or(&config.sampling);
                let clip = sampling.clip_guidance.as_ref();
                let key = format!("{:?} {:?} {:?} {clip:?}", method.run, method.base, method.control);
                if !self.loaded.contains_key(&key) {
                    let mut restorer = locate(method)?.load(Some(&config.device), None)?;
                    restorer.guide_by(clip)?;
                    self.loaded.insert(key.clone(), restorer);
                }
                let restorer = &self.loaded[&key];
                let folder = output.join("restored").join(name(benchmark)).join(slug(&method.name));
                restore(restorer, method, config, benchmark, &folder, &self.restored)?;
                let ModelIdentity { base_sha256, control_sha256, precision, control_precision, .. } =
                    &restorer.identity;
                let made = MethodProtocol::Model {
                    model: restorer.run.clone(),
                    base: base_sha256.clone(),
                    control: control_sha256.clone(),
                    precision: format!("{precision}, branch {control_precision}"),
                    semantic: method.semantic,
                    restoration: method.restoration_told(),
                    seed: config.seed,
                    sampling: Box::new(sampling.clone()),
                    captions: method.captions_told(),
                };
                Ok((Pictures::In(folder), made))
            }
        }
    }
}

fn folder_of(method: &MethodConfig, benchmark: &TestSet) -> PathBuf {
    method.folder.as_deref().unwrap_or_default().replace("{benchmark}", &name(benchmark)).into()
}

fn locate(method: &MethodConfig) -> Result<TrainedModel> {
    TrainedModel::locate(method.run.as_deref(), method.base.as_deref(), method.control.as_deref())
}

fn restore(
    restorer: &Restorer,
    method: &MethodConfig,
    config: &EvalConfig,
    benchmark: &TestSet,
    folder: &Path,
    restored: &Restored,
) -> Result<()> {
    let prompts = method.prompts(&benchmark.entries, &config.alike, config.seed)?;
    let job = |(i, (entry, prompts)): (usize, (&Entry, PromptPair))| Job {
        input: benchmark.degraded(entry),
        output: folder.join(format!("{}.png", entry.id)),
        semantic: prompts.semantic,
        restoration: prompts.restoration,
        seed: config.seed + i as u64,
    };
    let jobs: Vec<Job> = benchmark.entries.iter().zip(prompts).enumerate().map(job).collect();
    let progress = PhaseProgress::new(&format!("{}: restoring", method.name), jobs.len() as u64);
    let advance = |job: &Job| {
        let name = job.output.file_name().unwrap_or_default().to_string_lossy();
        progress.advance(&name);
    };
    let sampling = method.sampling.as_ref().unwrap_or(&config.sampling).clone();
    let settings = JobSettings { sampling, batch_size: config.batch_size, threads: config.threads };
    restorer.restore_jobs(&jobs, &settings, restored, &advance).with_context(|| method.name.clone())
}
