//! The pictures of an evaluation's methods: restored by a model of this project, or found in a folder.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use spire_core::progress::PhaseProgress;
use spire_data::testset::{Entry, TestSet};
use spire_eval::evaluation::{EvalConfig, MethodConfig, MethodKind, MethodProtocol, PromptPair, slug};
use spire_model::clip::ClipFolder;
use spire_model::feedforward::{NetworkKind, Tiling};
use spire_model::generative::GenerativeKind;

use crate::files::{RestoredFile, Semantic};
use crate::generative::{GenerativeRestorer, GenerativeTask};
use crate::jobs::{Job, JobSettings, Restored, restore_jobs};
use crate::network::NetworkRestorer;
use crate::provenance::ModelIdentity;
use crate::restorer::Restorer;
use crate::sharing::{Copies, Sharing};
use crate::trained_model::TrainedModel;

/// Models that are loaded already, and pictures that are restored already.
#[derive(Debug)]
pub struct Methods {
    sharing: Sharing,
    /// By run, base, branch and CLIP.
    loaded: BTreeMap<String, Copies<Restorer>>,
    networks: BTreeMap<String, Copies<NetworkRestorer>>,
    generative: BTreeMap<String, Copies<GenerativeRestorer>>,
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
    name_of(&benchmark.folder)
}

/// The name in paths of the test set in a folder.
pub fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Methods {
    /// No models yet; the devices of `sharing` will restore.
    pub fn new(sharing: Sharing) -> Self {
        let (loaded, networks, generative) = Default::default();
        Self { sharing, loaded, networks, generative, restored: Restored::default() }
    }

    /// Checks that the files of a method exist, for the test set of a name, without loading them.
    ///
    /// # Errors
    /// The run, the branch, a checkpoint or the folder does not exist.
    pub fn check(method: &MethodConfig, benchmark: &str) -> Result<()> {
        match method.kind {
            MethodKind::Input => Ok(()),
            MethodKind::Folder => {
                let folder = folder_of(method, benchmark);
                ensure!(folder.is_dir(), "there is no folder {}", folder.display());
                Ok(())
            }
            MethodKind::Model => locate(method)?.check(),
            MethodKind::SwinIr | MethodKind::BsrNet | MethodKind::ScuNet => {
                let (network, weights) = network_of(method, benchmark)?;
                NetworkRestorer::checksum(network, &weights).map(|_| ())
            }
            _ => {
                let (kind, folder) = generative_of(method, benchmark)?;
                kind.files_in(&folder)?;
                let settings = kind.settings(&method.settings)?;
                match settings.clip_guidance() {
                    Some(guidance) => ClipFolder::open(&guidance.clip).map(|_| ()).context("clip_guidance.clip"),
                    None => Ok(()),
                }
            }
        }
    }

    /// Where a method's pictures of a test set are, and how they were made; the latter is `None` if a model had nothing to do,
    /// because another process restores all of them. Missing pictures of this process's part are restored into `output`.
    ///
    /// # Errors
    /// The model can't be loaded on any device, or a picture can't be read or written.
    pub fn pictures(
        &mut self,
        method: &MethodConfig,
        config: &EvalConfig,
        benchmark: &TestSet,
        output: &Path,
    ) -> Result<(Pictures, Option<MethodProtocol>)> {
        let folder = output.join("restored").join(name(benchmark)).join(slug(&method.name));
        let made = match method.kind {
            MethodKind::Input => return Ok((Pictures::Degraded, Some(MethodProtocol::Input))),
            MethodKind::Folder => {
                let there = Pictures::In(folder_of(method, &name(benchmark)));
                return Ok((there, Some(MethodProtocol::Folder { files: String::new() })));
            }
            MethodKind::SwinIr | MethodKind::BsrNet | MethodKind::ScuNet => {
                self.restore_by_network(method, benchmark, &folder)?
            }
            MethodKind::Model => self.restore(method, config, benchmark, &folder)?,
            _ => self.generate(method, config, benchmark, &folder)?,
        };
        Ok((Pictures::In(folder), made))
    }

    /// Restores the pictures of the test set with a network: the small ones, if the network enlarges all of them to the clean
    /// pictures' sizes, else the degraded ones, and resizes the results.
    fn restore_by_network(
        &mut self,
        method: &MethodConfig,
        benchmark: &TestSet,
        folder: &Path,
    ) -> Result<Option<MethodProtocol>> {
        let (network, weights) = network_of(method, &name(benchmark))?;
        let copies = self.networks.entry(format!("{network} {weights:?} {:?}", method.tile)).or_default();
        let ready = |kept: Option<NetworkRestorer>, device: &str| {
            kept.map_or_else(|| NetworkRestorer::load(network, &weights, method.tile, device), Ok)
        };
        let reads_small = OnceLock::new();
        restore_entries(copies, &self.sharing, ready, method, benchmark, folder, |restorer, i, output| {
            let entry = &benchmark.entries[i];
            let small = *reads_small.get_or_init(|| enlarges_small(restorer, benchmark));
            let input = if small { benchmark.small(entry) } else { benchmark.degraded(entry) };
            restorer.restore_file(&input, output, Some((entry.width, entry.height)), false)
        })?;
        let made = |restorer: &NetworkRestorer| {
            let Tiling { side, overlap } = restorer.tiling();
            let weights = restorer.weights_sha256.clone();
            MethodProtocol::Network { network, weights, tile: side, tile_overlap: overlap }
        };
        Ok(copies.any().map(made))
    }

    /// Restores the pictures of the test set with a model of this project.
    fn restore(
        &mut self,
        method: &MethodConfig,
        config: &EvalConfig,
        benchmark: &TestSet,
        folder: &Path,
    ) -> Result<Option<MethodProtocol>> {
        let sampling = method.sampling.as_ref().unwrap_or(&config.sampling);
        let clip = sampling.clip_guidance.as_ref();
        let key = format!("{:?} {:?} {:?} {clip:?}", method.run, method.base, method.control);
        let copies = self.loaded.entry(key).or_default();
        let model = locate(method)?;
        let load = |device: &str| {
            let mut restorer = model.load(Some(device), None)?;
            restorer.guide_by(clip)?;
            Ok(restorer)
        };
        let jobs = jobs(method, config, benchmark, folder)?;
        let own = self.sharing.size_of_part(jobs.chunks(config.batch_size).map(<[Job]>::len));
        let progress = PhaseProgress::new(&format!("{}: restoring", method.name), own);
        let advance = |job: &Job| progress.advance(&file_name(&job.output));
        let settings = JobSettings {
            sampling: sampling.clone(),
            upscale: method.upscale.unwrap_or(1.0),
            batch_size: config.batch_size,
            threads: config.threads(),
        };
        restore_jobs(copies, &self.sharing, load, &jobs, &settings, &self.restored, &advance)
            .with_context(|| method.name.clone())?;
        let made = |restorer: &Restorer| {
            let ModelIdentity { base_sha256, control_sha256, precision, control_precision, .. } = &restorer.identity;
            MethodProtocol::Model {
                model: restorer.run.clone(),
                base: base_sha256.clone(),
                control: control_sha256.clone(),
                precision: format!("{precision}, branch {control_precision}"),
                semantic: method.semantic,
                restoration: method.restoration_told(),
                seed: config.seed,
                sampling: Box::new(sampling.clone()),
                captions: method.captions_told(),
                upscale: method.upscale,
            }
        };
        Ok(copies.any().map(made))
    }

    /// Restores the pictures of the test set with another author's model that generates.
    fn generate(
        &mut self,
        method: &MethodConfig,
        config: &EvalConfig,
        benchmark: &TestSet,
        folder: &Path,
    ) -> Result<Option<MethodProtocol>> {
        let (kind, weights) = generative_of(method, &name(benchmark))?;
        let settings = kind.settings(&method.settings)?;
        let copies = self.generative.entry(format!("{kind} {weights:?}")).or_default();
        let ready = |kept: Option<GenerativeRestorer>, device: &str| match kept {
            Some(restorer) => restorer.configured(settings.clone()),
            None => GenerativeRestorer::load(kind, &weights, settings.clone(), device),
        };
        let prompts = method.prompts(&benchmark.entries, &config.alike, config.seed)?;
        restore_entries(copies, &self.sharing, ready, method, benchmark, folder, |restorer, i, output| {
            let semantic = if kind.reads_prompts() { prompts[i].semantic.clone() } else { String::new() };
            let (semantic, seed) = (Semantic::Text(semantic), config.seed + i as u64);
            let task = GenerativeTask { semantic, seed, upscale: 1.0, overwrite: false };
            restorer.restore_file(&task, &benchmark.degraded(&benchmark.entries[i]), output)
        })?;
        let made = |restorer: &GenerativeRestorer| MethodProtocol::Generative {
            model: kind,
            checkpoints: restorer.checkpoints.clone(),
            settings: Box::new(settings.clone()),
            seed: config.seed,
            semantic: kind.reads_prompts() && method.semantic,
            captions: method.captions_told(),
        };
        Ok(copies.any().map(made))
    }
}

/// Restores the pictures of the test set one by one: `restore` gets the number of the entry and the restored picture's file.
fn restore_entries<M: Send + Sync>(
    copies: &mut Copies<M>,
    sharing: &Sharing,
    ready: impl Fn(Option<M>, &str) -> Result<M> + Sync,
    method: &MethodConfig,
    benchmark: &TestSet,
    folder: &Path,
    restore: impl Fn(&M, usize, &Path) -> Result<RestoredFile> + Sync,
) -> Result<()> {
    let own = sharing.size_of_part(benchmark.entries.iter().map(|_| 1));
    let progress = PhaseProgress::new(&format!("{}: restoring", method.name), own);
    let restore_one = |model: &M, i: usize| {
        let id = &benchmark.entries[i].id;
        let output = folder.join(format!("{id}.png"));
        restore(model, i, &output)?;
        progress.advance(&file_name(&output));
        Ok(())
    };
    for (i, result) in copies.share(sharing, benchmark.entries.len(), 1, ready, restore_one)? {
        result.with_context(|| format!("{}: {}", method.name, benchmark.entries[i].id))?;
    }
    Ok(())
}

fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// The model of another author that a method names, and the folder of its checkpoints.
///
/// # Errors
/// It names none.
pub(crate) fn generative_of(method: &MethodConfig, benchmark: &str) -> Result<(GenerativeKind, PathBuf)> {
    let kind = method.kind.generative().context("this method is no model of other authors")?;
    let weights = method.weights.as_deref().context("weights is not set")?;
    Ok((kind, of_benchmark(weights, benchmark)))
}

fn folder_of(method: &MethodConfig, benchmark: &str) -> PathBuf {
    of_benchmark(method.folder.as_deref().unwrap_or_default(), benchmark)
}

fn of_benchmark(path: &str, benchmark: &str) -> PathBuf {
    path.replace("{benchmark}", benchmark).into()
}

/// The network that a method names, and its checkpoint.
///
/// # Errors
/// It names none.
pub(crate) fn network_of(method: &MethodConfig, benchmark: &str) -> Result<(NetworkKind, PathBuf)> {
    let network = method.kind.network().context("this method is no network")?;
    let weights = method.weights.as_deref().context("weights is not set")?;
    Ok((network, of_benchmark(weights, benchmark)))
}

/// Whether the network enlarges the small picture of every entry to the size of the clean one.
fn enlarges_small(restorer: &NetworkRestorer, benchmark: &TestSet) -> bool {
    let enlarged = |entry: &Entry| {
        let (width, height) = image::image_dimensions(benchmark.small(entry)).ok()?;
        Some(restorer.restored_size((width as usize, height as usize)))
    };
    benchmark.entries.iter().all(|entry| enlarged(entry) == Some((entry.width, entry.height)))
}

fn locate(method: &MethodConfig) -> Result<TrainedModel> {
    TrainedModel::locate(method.run.as_deref(), method.base.as_deref(), method.control.as_deref())
}

/// What a model of this project has to restore: each picture with its prompts and its seed.
fn jobs(method: &MethodConfig, config: &EvalConfig, benchmark: &TestSet, folder: &Path) -> Result<Vec<Job>> {
    let prompts = method.prompts(&benchmark.entries, &config.alike, config.seed)?;
    if let Some(factor) = method.upscale {
        benchmark.entries.iter().try_for_each(|entry| check_upscaled(benchmark, entry, factor))?;
    }
    let job = |(i, (entry, prompts)): (usize, (&Entry, PromptPair))| Job {
        input: if method.upscale.is_some() { benchmark.small(entry) } else { benchmark.degraded(entry) },
        output: folder.join(format!("{}.png", entry.id)),
        semantic: prompts.semantic,
        restoration: prompts.restoration,
        seed: config.seed + i as u64,
    };
    Ok(benchmark.entries.iter().zip(prompts).enumerate().map(job).collect())
}

/// Checks that the small picture of an entry, enlarged by `factor`, has the size of the clean one.
fn check_upscaled(benchmark: &TestSet, entry: &Entry, factor: f64) -> Result<()> {
    let small = benchmark.small(entry);
    let (width, height) = image::image_dimensions(&small)
        .with_context(|| format!("upscale = {factor} needs the small picture {}", small.display()))?;
    let enlarged = [width, height].map(|side| (f64::from(side) * factor).round() as usize);
    ensure!(
        enlarged == [entry.width, entry.height],
        "upscale = {factor} makes {width}×{height} pixels of {} to {}×{}, but the clean picture has {}×{}",
        small.display(),
        enlarged[0],
        enlarged[1],
        entry.width,
        entry.height
    );
    Ok(())
}
