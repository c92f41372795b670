//! The published files that an evaluation reads: how large those are that are missing, and how those that are there differ from
//! what is published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use spire_core::message::{size, with_causes};
use spire_core::progress::PhaseProgress;
use spire_core::settings;
use spire_data::source::SourceConfig;
use spire_data::testset::Recipe;
use spire_eval::evaluation::{BenchmarkChoice, EvalConfig, MethodConfig, Metric};
use spire_model::clip::ClipFolder;
use spire_model::published::PublishedFile;
use spire_model::weights::published_file;

use crate::methods::{generative_of, name_of, network_of};

/// A published file that is missing.
#[derive(Clone, Debug, Serialize)]
pub struct Download {
    /// Where it belongs; of an archive, where that belongs which it unpacks to.
    pub path: PathBuf,
    /// Where it is published.
    pub url: String,
    /// Its size, if that is known; to three digits where its source rounds it.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hexadecimal digits, if that is known.
    pub sha256: Option<String>,
}

/// A published file that something reads.
#[derive(Clone, Debug)]
pub(crate) enum Needed {
    /// It is there, possibly in another format.
    There(PathBuf),
    /// It is not there.
    Missing(Download),
}

impl Needed {
    /// The file at `path`, which is published as `published`, if anything is known about it.
    fn missing(path: PathBuf, url: &str, published: Option<&PublishedFile>) -> Self {
        let bytes = published.and_then(|published| published.bytes);
        let sha256 = published.and_then(|published| published.sha256.clone());
        Self::Missing(Download { path, url: url.to_owned(), bytes, sha256 })
    }

    fn new(path: PathBuf, found: Option<PathBuf>, url: &str) -> Self {
        match found {
            Some(found) => Self::There(found),
            None => {
                let published = PublishedFile::at(&path);
                Self::missing(path, url, published)
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::There(path) | Self::Missing(Download { path, .. }) => path,
        }
    }

    /// `file` in `folder`, under its own name or with the ending of another format.
    fn in_folder(folder: &Path, file: &str, url: &str) -> Self {
        Self::new(folder.join(file), published_file(folder, file), url)
    }
}

/// The archives with the pictures and captions that a test set is to be made from and that are missing.
pub(crate) fn of_test_set(choice: &BenchmarkChoice) -> Vec<Needed> {
    let recipe = choice.recipe.as_deref().filter(|_| !choice.folder.exists());
    let recipe: Option<Recipe> = recipe.and_then(|path| settings::load(path, &[]).ok());
    recipe.map_or_else(Vec::new, |recipe| of_source(&recipe.source))
}

fn of_source(source: &SourceConfig) -> Vec<Needed> {
    let paths = [&source.path, &source.images, &source.annotations].into_iter().flatten();
    let archive = |path: &PathBuf| {
        let archive = PublishedFile::archive_of(path)?;
        Some(Needed::missing(path.clone(), archive.url.as_deref()?, Some(archive)))
    };
    let own = paths.filter(|path| !path.exists()).filter_map(archive);
    own.chain(source.sources.iter().flat_map(of_source)).collect()
}

/// The checkpoints of a row, for the test sets in `folders`; each once, if the sets share them.
pub(crate) fn of_row<'a>(method: &MethodConfig, folders: impl Iterator<Item = &'a Path>) -> Vec<Needed> {
    let files = folders.flat_map(|folder| of_row_on(method, &name_of(folder)));
    let by_path: BTreeMap<PathBuf, Needed> = files.map(|file| (file.path().to_owned(), file)).collect();
    by_path.into_values().collect()
}

fn of_row_on(method: &MethodConfig, benchmark: &str) -> Vec<Needed> {
    if let Ok((network, weights)) = network_of(method, benchmark) {
        let found = weights.exists().then(|| weights.clone());
        return vec![Needed::new(weights, found, network.published())];
    }
    let Ok((kind, folder)) = generative_of(method, benchmark) else { return Vec::new() };
    let checkpoints = kind.checkpoints().into_iter().map(|file| Needed::in_folder(&folder, file.file, file.url));
    let settings = kind.settings(&method.settings).ok();
    let clip = settings.as_ref().and_then(|settings| settings.clip_guidance());
    checkpoints.chain(clip.into_iter().flat_map(|guidance| of_clip(&guidance.clip))).collect()
}

/// The files of a metric's networks.
pub(crate) fn of_metric(metric: Metric, config: &EvalConfig) -> Vec<Needed> {
    if matches!(metric, Metric::ClipFrechet | Metric::ClipI | Metric::ClipT) {
        return of_clip(&config.clip);
    }
    let weights = metric.public_weights(config.lpips);
    weights.into_iter().map(|public| Needed::in_folder(&config.weights, public.file, public.url)).collect()
}

/// The weights of a CLIP; nothing about one that is missing and not known.
fn of_clip(folder: &Path) -> Vec<Needed> {
    if folder.is_dir() {
        let files = ClipFolder::open(folder).and_then(|clip| clip.weights_files());
        return files.unwrap_or_default().into_iter().map(Needed::There).collect();
    }
    let weights = folder.join("pytorch_model.bin");
    let published = PublishedFile::at(&weights);
    let missing =
        published.and_then(|published| Some(Needed::missing(weights, published.url.as_deref()?, Some(published))));
    missing.into_iter().collect()
}

/// How files differ from the published ones, by their paths. Each is read once; large ones take a while, unless their checksum was
/// computed before.
pub(crate) fn differences<'a>(needed: impl Iterator<Item = &'a Needed>) -> BTreeMap<PathBuf, String> {
    let there = needed.filter_map(|needed| match needed {
        Needed::There(path) => Some((path.as_path(), PublishedFile::at(path)?)),
        Needed::Missing(_) => None,
    });
    let there: BTreeMap<&Path, &PublishedFile> = there.collect();
    let bytes = there.keys().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum();
    let progress =
        PhaseProgress::new(&format!("comparing {} with published checksums", size(bytes)), there.len() as u64);
    let mut differences = BTreeMap::new();
    for (path, published) in there {
        let difference = published.difference(path).unwrap_or_else(|error| Some(with_causes(error.as_ref())));
        progress.advance(&path.file_name().unwrap_or_default().to_string_lossy());
        differences.extend(difference.map(|difference| (path.to_owned(), difference)));
    }
    differences
}
