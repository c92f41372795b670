//! The pictures of an evaluation's methods: restored by a model of this project, or found in a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use spire_core::progress::PhaseProgress;
use spire_data::testset::{Entry, TestSet};
use spire_eval::evaluation::{EvalConfig, MethodConfig, MethodKind, MethodProtocol, PromptPair, slug};
use spire_model::clip::ClipFolder;
use spire_model::feedforward::{NetworkKind, Tiling};
use spire_model::generative::GenerativeKind;

use crate::files::Semantic;
use crate::generative::{GenerativeRestorer, GenerativeTask};
use crate::jobs::{Job, JobSettings, Restored};
use crate::network::NetworkRestorer;
use crate::provenance::ModelIdentity;
use crate::restorer::Restorer;
use crate::trained_model::TrainedModel;

/// Models that are loaded already, and pictures that are restored already.
#[derive(Debug, Default)]
pub struct Methods {
    /// By run, base, branch and CLIP.
    loaded: BTreeMap<String, Restorer>,
    networks: BTreeMap<String, NetworkRestorer>,
    generative: BTreeMap<String, GenerativeRestorer>,
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
                Ok((Pictures::In(folder_of(method, &name(benchmark))), MethodProtocol::Folder { files: String::new() }))
            }
            MethodKind::SwinIr | MethodKind::BsrNet | MethodKind::ScuNet => {
                let (network, weights) = network_of(method, &name(benchmark))?;
                let key = format!("{network} {weights:?} {:?}", method.tile);
                if !self.networks.contains_key(&key) {
                    let restorer = NetworkRestorer::load(network, &weights, method.tile, &config.device)?;
                    self.networks.insert(key.clone(), restorer);
                }
                let restorer = &self.networks[&key];
                let folder = output.join("restored").join(name(benchmark)).join(slug(&method.name));
                restore_by_network(restorer, method, benchmark, &folder)?;
                let Tiling { side, overlap } = restorer.tiling();
                let weights = restorer.weights_sha256.clone();
                let made = MethodProtocol::Network { network, weights, tile: side, tile_overlap: overlap };
                Ok((Pictures::In(folder), made))
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
                    upscale: method.upscale,
                };
                Ok((Pictures::In(folder), made))
            }
            _ => {
                let folder = output.join("restored").join(name(benchmark)).join(slug(&method.name));
                let made = self.generate(method, config, benchmark, &folder)?;
                Ok((Pictures::In(folder), made))
            }
        }
    }

    /// Restores each picture of the test set with another author's model.
    fn generate(
        &mut self,
        method: &MethodConfig,
        config: &EvalConfig,
        benchmark: &TestSet,
        folder: &Path,
    ) -> Result<MethodProtocol> {
        let (kind, weights) = generative_of(method, &name(benchmark))?;
        let settings = kind.settings(&method.settings)?;
        let key = format!("{kind} {weights:?}");
        match self.generative.get_mut(&key) {
            Some(restorer) => restorer.configure(settings.clone())?,
            None => {
                let restorer = GenerativeRestorer::load(kind, &weights, settings.clone(), &config.device)?;
                self.generative.insert(key.clone(), restorer);
            }
        }
        let restorer = &self.generative[&key];
        let prompts = method.prompts(&benchmark.entries, &config.alike, config.seed)?;
        let progress = PhaseProgress::new(&format!("{}: restoring", method.name), benchmark.entries.len() as u64);
        for (i, (entry, prompts)) in benchmark.entries.iter().zip(prompts).enumerate() {
            let semantic = if kind.reads_prompts() { prompts.semantic } else { String::new() };
            let (semantic, seed) = (Semantic::Text(semantic), config.seed + i as u64);
            let task = GenerativeTask { semantic, seed, upscale: 1.0, overwrite: false };
            let file = format!("{}.png", entry.id);
            let restored = restorer.restore_file(&task, &benchmark.degraded(entry), &folder.join(&file));
            restored.with_context(|| format!("{}: {}", method.name, entry.id))?;
            progress.advance(&file);
        }
        Ok(MethodProtocol::Generative {
            model: kind,
            checkpoints: restorer.checkpoints.clone(),
            settings: Box::new(settings),
            seed: config.seed,
            semantic: kind.reads_prompts() && method.semantic,
            captions: method.captions_told(),
        })
    }
}

fn generative_of(method: &MethodConfig, benchmark: &str) -> Result<(GenerativeKind, PathBuf)> {
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

fn network_of(method: &MethodConfig, benchmark: &str) -> Result<(NetworkKind, PathBuf)> {
    let network = method.kind.network().context("this method is no network")?;
    let weights = method.weights.as_deref().context("weights is not set")?;
    Ok((network, of_benchmark(weights, benchmark)))
}

/// Restores each picture of the test set: the small ones, if the network enlarges all of them to the clean pictures' sizes,
/// else the degraded ones, and resizes the results.
fn restore_by_network(
    restorer: &NetworkRestorer,
    method: &MethodConfig,
    benchmark: &TestSet,
    folder: &Path,
) -> Result<()> {
    let enlarged = |entry: &Entry| {
        let (width, height) = image::image_dimensions(benchmark.small(entry)).ok()?;
        Some(restorer.restored_size((width as usize, height as usize)))
    };
    let small = benchmark.entries.iter().all(|entry| enlarged(entry) == Some((entry.width, entry.height)));
    let progress = PhaseProgress::new(&format!("{}: restoring", method.name), benchmark.entries.len() as u64);
    for entry in &benchmark.entries {
        let input = if small { benchmark.small(entry) } else { benchmark.degraded(entry) };
        let output = folder.join(format!("{}.png", entry.id));
        let size = Some((entry.width, entry.height));
        restorer.restore_file(&input, &output, size, false).with_context(|| method.name.clone())?;
        progress.advance(&format!("{}.png", entry.id));
    }
    Ok(())
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
    let jobs: Vec<Job> = benchmark.entries.iter().zip(prompts).enumerate().map(job).collect();
    let progress = PhaseProgress::new(&format!("{}: restoring", method.name), jobs.len() as u64);
    let advance = |job: &Job| {
        let name = job.output.file_name().unwrap_or_default().to_string_lossy();
        progress.advance(&name);
    };
    let sampling = method.sampling.as_ref().unwrap_or(&config.sampling).clone();
    let upscale = method.upscale.unwrap_or(1.0);
    let settings = JobSettings { sampling, upscale, batch_size: config.batch_size, threads: config.threads };
    restorer.restore_jobs(&jobs, &settings, restored, &advance).with_context(|| method.name.clone())
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
