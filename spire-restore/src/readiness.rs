//! What an evaluation needs, before anything starts: what is there, what is missing, and how much is left to restore.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde::Serialize;
use spire_core::message::with_causes;
use spire_core::progress::clock;
use spire_core::shard::Shard;
use spire_core::{parallel, settings};
use spire_data::source;
use spire_data::testset::{Recipe, TestSet};
use spire_eval::evaluation::{BenchmarkChoice, EvalConfig, MethodConfig, MethodKind, Metric, Scorer, slug};

use crate::downloads::{self, Needed};
use crate::methods::{Methods, name_of};
use crate::sharing::Sharing;

pub use crate::downloads::Download;

/// One thing that an evaluation needs.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// `test set`, `row` or `metric`.
    pub part: &'static str,
    /// Its name in the configuration.
    pub name: String,
    /// Whether it is there, or the program makes it.
    pub ready: bool,
    /// What is there, or what is missing and where it comes from.
    pub state: String,
    /// The published files that are missing.
    pub downloads: Vec<Download>,
    /// How files that are there differ from the published ones. They are used all the same.
    pub cautions: Vec<String>,
}

/// A test set, as far as it is known.
struct Set {
    name: String,
    /// Number of pictures; `None` if the test set can't be opened or made.
    pictures: Option<usize>,
}

/// Everything that the evaluation needs; `output` is its folder. Compares published files with their checksums, and loads the
/// metrics' networks, but no model that restores.
///
/// # Errors
/// The device is unknown.
pub fn needs(config: &EvalConfig, output: &Path) -> Result<Vec<Need>> {
    let sharing = Sharing::new(config.devices(), Shard::WHOLE)?;
    let device = spire_model::device::device(sharing.first_device())?;
    let folders = || config.benchmarks.iter().map(|choice| choice.folder.as_path());
    let of_rows: Vec<_> = config.methods.iter().map(|method| downloads::of_row(method, folders())).collect();
    let of_metrics: Vec<_> = config.metrics.iter().map(|&metric| downloads::of_metric(metric, config)).collect();
    let differences = downloads::differences(of_rows.iter().chain(&of_metrics).flatten());

    let (mut needs, mut sets) = (vec![], vec![]);
    for choice in &config.benchmarks {
        let name = name_of(&choice.folder);
        let found = test_set(choice);
        let pictures = found.as_ref().ok().map(|(pictures, _)| *pictures);
        let state = found.map(|(_, state)| state);
        let archives = downloads::of_test_set(choice);
        needs.push(need("test set", choice.folder.display().to_string(), state, archives, &differences));
        sets.push(Set { name, pictures });
    }
    for (method, files) in config.methods.iter().zip(of_rows) {
        let ready = sets.iter().try_for_each(|set| Methods::check(method, &set.name));
        let state = ready.map(|()| work(method, config, &sets, output));
        needs.push(need("row", method.name.clone(), state, files, &differences));
    }
    let all = Scorer::load(config, &device).ok();
    for (&metric, files) in config.metrics.iter().zip(of_metrics) {
        let state = network(metric, config, all.as_ref(), &device, &differences);
        needs.push(need("metric", metric.name().to_owned(), state, files, &differences));
    }
    Ok(needs)
}

fn need(
    part: &'static str,
    name: String,
    state: Result<String>,
    files: Vec<Needed>,
    differences: &BTreeMap<PathBuf, String>,
) -> Need {
    let (ready, state) = match state {
        Ok(state) => (true, state),
        Err(error) => (false, with_causes(error.as_ref())),
    };
    let (mut downloads, mut cautions) = (vec![], vec![]);
    for file in files {
        match file {
            Needed::There(path) => cautions.extend(differences.get(&path).cloned()),
            Needed::Missing(download) => downloads.push(download),
        }
    }
    Need { part, name, ready, state, downloads, cautions }
}

/// Whether a metric can be measured. `all` has the networks of all metrics; if they can't be loaded, those of this metric are
/// loaded alone. Says how their files are not the published ones, unless `differences` does.
fn network(
    metric: Metric,
    config: &EvalConfig,
    all: Option<&Scorer>,
    device: &Device,
    differences: &BTreeMap<PathBuf, String>,
) -> Result<String> {
    let alone;
    let scorer = match all {
        Some(all) => all,
        None => {
            alone = Scorer::load(&EvalConfig { metrics: vec![metric], ..config.clone() }, device)?;
            &alone
        }
    };
    match (scorer.missing().get(&metric), scorer.strange().get(&metric)) {
        (Some(missing), _) => bail!("{missing}"),
        (None, Some(strange)) if differences.values().all(|difference| difference != strange) => Ok(strange.clone()),
        (None, _) => Ok("there".to_owned()),
    }
}

/// The number of pictures of a test set that is there or can be made, and which of both.
fn test_set(choice: &BenchmarkChoice) -> Result<(usize, String)> {
    if choice.folder.exists() || choice.recipe.is_none() {
        let pictures = TestSet::open(&choice.folder, parallel::available())?.entries.len();
        return Ok((pictures, format!("there, {pictures} pictures")));
    }
    let path = choice.recipe.as_deref().context("checked: there is a recipe")?;
    let recipe: Recipe = settings::load(path, &[])?;
    let source = source::open(&recipe.source, recipe.size.unwrap_or(0)).with_context(|| {
        format!("the pictures for the test set can't be read; the first lines of {} say which they are", path.display())
    })?;
    let pictures = recipe.count.unwrap_or(source.len());
    Ok((pictures, format!("is made by {}, {pictures} pictures", path.display())))
}

/// How many pictures a row has to restore, and for how long, if some are restored already.
fn work(method: &MethodConfig, config: &EvalConfig, sets: &[Set], output: &Path) -> String {
    if matches!(method.kind, MethodKind::Input | MethodKind::Folder) {
        return "there".to_owned();
    }
    // So many pictures may appear at the same time.
    let together = config.devices().len()
        * match method.kind {
            MethodKind::Model => config.batch_size * config.threads(),
            _ => 1,
        };
    let (mut left, mut pace) = (0, None);
    for set in sets {
        let dates = dates(&output.join("restored").join(&set.name).join(slug(&method.name)));
        left += set.pictures.unwrap_or(0).saturating_sub(dates.len());
        pace = pace.or(median_pace(&dates, together));
    }
    let time = match (left, pace) {
        (0, _) => return "there, all pictures are restored".to_owned(),
        (_, Some(pace)) => {
            let all = pace * u32::try_from(left).unwrap_or(u32::MAX);
            format!("{:.2} s each as before, together {}", pace.as_secs_f64(), clock(all))
        }
        (_, None) => format!("their time is known once {} are restored", together + 2),
    };
    format!("there, {left} pictures to restore; {time}")
}

/// When the pictures in a folder were written, sorted.
fn dates(folder: &Path) -> Vec<SystemTime> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let pictures = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "png"));
    let mut dates: Vec<SystemTime> = pictures.filter_map(|file| file.metadata().ok()?.modified().ok()).collect();
    dates.sort();
    dates
}

/// The time of a picture, where `together` of them appear at once: the median over stretches of so many, which a pause between two
/// runs does not change. `None` for fewer than `together + 2` pictures.
fn median_pace(dates: &[SystemTime], together: usize) -> Option<Duration> {
    let stretches = dates.iter().zip(dates.iter().skip(together));
    let mut times: Vec<Duration> =
        stretches.map(|(first, last)| last.duration_since(*first).unwrap_or_default()).collect();
    times.sort();
    let median = times.get(times.len() / 2).filter(|_| times.len() > 1)?;
    Some(median.div_f64(together as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_most_pictures() {
        let at = |seconds: &[u64]| -> Vec<SystemTime> {
            seconds.iter().map(|&seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).collect()
        };
        assert_eq!(median_pace(&at(&[0, 2]), 1), None);
        // A pause of an hour between two runs.
        assert_eq!(median_pace(&at(&[0, 2, 4, 3604, 3606]), 1), Some(Duration::from_secs(2)));
        // Batches of four, each 8 seconds after the one before.
        let batches = at(&[0, 0, 0, 0, 8, 8, 8, 8, 16, 16, 16, 16]);
        assert_eq!(median_pace(&batches, 4), Some(Duration::from_secs(2)));
        assert_eq!(median_pace(&batches[..5], 4), None);
    }
}
