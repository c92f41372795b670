//! What an evaluation needs, before anything starts: what is there, what is missing, and how much is left to restore.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;
use spire_core::message::with_causes;
use spire_core::progress::clock;
use spire_core::shard::Shard;
use spire_core::{parallel, settings};
use spire_data::source;
use spire_data::testset::{Recipe, TestSet};
use spire_eval::evaluation::{BenchmarkChoice, EvalConfig, MethodConfig, MethodKind, Scorer, slug};

use crate::methods::{Methods, name_of};
use crate::sharing::Sharing;

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
}

/// A test set, as far as it is known.
struct Set {
    name: String,
    /// Number of pictures; `None` if the test set can't be opened or made.
    pictures: Option<usize>,
}

/// Everything that the evaluation needs; `output` is its folder. Loads the metrics' networks, and no model that restores.
///
/// # Errors
/// The weights of a metric do not fit, or the device is unknown.
pub fn needs(config: &EvalConfig, output: &Path) -> Result<Vec<Need>> {
    let (mut needs, mut sets) = (vec![], vec![]);
    for choice in &config.benchmarks {
        let name = name_of(&choice.folder);
        let found = test_set(choice);
        let pictures = found.as_ref().ok().map(|(pictures, _)| *pictures);
        let state = found.map(|(_, state)| state);
        needs.push(need("test set", choice.folder.display().to_string(), state));
        sets.push(Set { name, pictures });
    }
    for method in &config.methods {
        let ready = sets.iter().try_for_each(|set| Methods::check(method, &set.name));
        needs.push(need("row", method.name.clone(), ready.map(|()| work(method, config, &sets, output))));
    }
    let sharing = Sharing::new(config.devices(), Shard::WHOLE)?;
    let scorer = Scorer::load(config, &spire_model::device::device(sharing.first_device())?)?;
    for &metric in &config.metrics {
        let (missing, strange) = (scorer.missing().get(&metric), scorer.strange().get(&metric));
        let state = match (missing, strange) {
            (Some(missing), _) => Err(anyhow::anyhow!("{missing}")),
            (None, Some(strange)) => Ok(strange.clone()),
            (None, None) => Ok("there".to_owned()),
        };
        needs.push(need("metric", metric.name().to_owned(), state));
    }
    Ok(needs)
}

fn need(part: &'static str, name: String, state: Result<String>) -> Need {
    let (ready, state) = match state {
        Ok(state) => (true, state),
        Err(error) => (false, with_causes(error.as_ref())),
    };
    Need { part, name, ready, state }
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
            MethodKind::Model => config.batch_size * config.threads.max(1),
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
