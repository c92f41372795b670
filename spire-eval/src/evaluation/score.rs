//! The scores of one method on one test set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use spire_data::checksum::sha256;
use spire_data::parallel::in_order;
use spire_data::testset::{Entry, TestSet};
use spire_data::world::Kind;
use spire_data::{Picture, picture};
use spire_model::device::on_cores;

use super::measurement::{FeatureSpace, Measurement, MeasurementCache};
use super::metric::Metric;
use super::scorer::{Scorer, Subject};
use crate::clip_space::cosine;
use crate::judge::identity;
use crate::{FeatureStatistics, frechet_distance};

/// The scores of one method's pictures on one test set, in the order of its entries.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// One value per picture.
    pub per_image: BTreeMap<Metric, Vec<f64>>,
    /// Scores of the whole set, with the number of feature rows.
    pub of_all: BTreeMap<Metric, (f64, usize)>,
    /// SHA-256 of the checksums of the pictures' files.
    pub files: String,
}

/// Scores of the whole set, with their feature spaces.
const DISTANCES: [(Metric, FeatureSpace); 3] = [
    (Metric::Fid, FeatureSpace::Inception),
    (Metric::PatchFid, FeatureSpace::InceptionPatches),
    (Metric::ClipFrechet, FeatureSpace::Clip),
];

/// Settings of measurement.
#[derive(Clone, Copy, Debug)]
pub struct ScoreSettings {
    /// Batch size of the networks.
    pub batch_size: usize,
    /// Number of batches computed in parallel, each on one core.
    pub threads: usize,
}

/// Measurements of a test set's clean pictures and captions, shared by all methods.
#[derive(Debug)]
pub struct Ground<'a> {
    benchmark: &'a TestSet,
    clean: Option<Vec<Measurement>>,
    /// Feature statistics of the clean pictures, for each requested distance.
    statistics: BTreeMap<Metric, FeatureStatistics>,
    captions: Vec<Option<Vec<f32>>>,
    /// The kinds that each caption names, and those that its misleading caption names instead.
    kinds: Vec<(Vec<Kind>, Vec<Kind>)>,
}

impl<'a> Ground<'a> {
    /// Measures the test set's own pictures; measurements in the file `kept` are reused.
    ///
    /// # Errors
    /// A file can't be read or is not a picture.
    pub fn measure(
        scorer: &Scorer,
        benchmark: &'a TestSet,
        kept: &Path,
        settings: ScoreSettings,
        progress: &(dyn Fn(&Entry) + Sync),
    ) -> Result<Self> {
        let clean = |entry: &Entry| benchmark.clean(entry);
        let clean = benchmark
            .has_clean
            .then(|| {
                measure(
                    scorer,
                    &benchmark.entries,
                    Asked { files: &clean, clean: None, judged: false },
                    kept,
                    settings,
                    progress,
                )
            })
            .transpose()?;
        let clean = clean.map(|(measured, _)| measured);
        let mut statistics = BTreeMap::new();
        for (metric, space) in DISTANCES.into_iter().filter(|&(metric, _)| scorer.has(metric)) {
            if let Some(clean) = &clean {
                statistics.insert(metric, statistics_of(clean, space, scorer.dimensions(space))?);
            }
        }
        let captions = benchmark.entries.iter().map(|entry| scorer.caption(&entry.semantic)).collect::<Result<_>>()?;
        let kinds = benchmark.entries.iter().map(|entry| scorer.kinds(&entry.semantic)).collect();
        Ok(Self { benchmark, clean, statistics, captions, kinds })
    }

    /// The columns that are left out because of a caption, in a sentence each.
    pub fn missing_columns(&self, scorer: &Scorer) -> Vec<String> {
        let missing = |(which, metric, reason): (usize, Metric, &str)| {
            let lacks = |(own, wrong): &(Vec<Kind>, Vec<Kind>)| [own, wrong][which].is_empty();
            let entry = self.kinds.iter().position(lacks).filter(|_| scorer.has(metric))?;
            let Entry { id, semantic, .. } = &self.benchmark.entries[entry];
            let folder = self.benchmark.folder.display();
            Some(format!("{folder} has no column \"{}\": the caption of {id}, \"{semantic}\", {reason}", metric.name()))
        };
        [
            (0, Metric::Identity, "names no kind that the judge knows"),
            (1, Metric::WrongKind, "has no word of the pairs in alike, or both words of one"),
        ]
        .into_iter()
        .filter_map(missing)
        .collect()
    }

    /// Measures a method's pictures; `restored` returns the file of each. One batch is in memory at a time.
    /// Measurements in the file `kept` are reused. `progress` is called after each picture.
    ///
    /// # Errors
    /// A file is missing, or its size differs from the clean picture's.
    pub fn score(
        &self,
        scorer: &Scorer,
        restored: &(dyn Fn(&Entry) -> PathBuf + Sync),
        kept: &Path,
        settings: ScoreSettings,
        progress: &(dyn Fn(&Entry) + Sync),
    ) -> Result<Scores> {
        let clean = |entry: &Entry| self.benchmark.clean(entry);
        let clean: Option<Files> = if self.benchmark.has_clean { Some(&clean) } else { None };
        let entries = &self.benchmark.entries;
        let (measured, files) =
            measure(scorer, entries, Asked { files: restored, clean, judged: true }, kept, settings, progress)?;

        let mut scores = Scores { files, ..Scores::default() };
        for found in &measured {
            for (&metric, &value) in &found.values {
                scores.per_image.entry(metric).or_default().push(value);
            }
        }
        let clip = |measured: &Measurement| measured.features.get(&FeatureSpace::Clip).map(|row| row.0.clone());
        if let Some(clean) = &self.clean {
            let pairs = clean.iter().zip(&measured);
            let cosines: Option<Vec<f64>> = pairs.map(|(a, b)| Some(cosine(&clip(a)?, &clip(b)?))).collect();
            scores.per_image.extend(cosines.filter(|_| scorer.has(Metric::ClipI)).map(|all| (Metric::ClipI, all)));
        }
        for (metric, space) in DISTANCES {
            if let Some(clean) = self.statistics.get(&metric).filter(|clean| clean.rows() > 1) {
                let restored = statistics_of(&measured, space, scorer.dimensions(space))?;
                scores.of_all.insert(metric, (frechet_distance(clean, &restored)?, clean.rows()));
            }
        }
        // An entry without a caption has no CLIP-T; then the column is omitted, because it would cover other pictures.
        let cosines = |captions: &[Option<Vec<f32>>]| -> Option<Vec<f64>> {
            captions.iter().zip(&measured).map(|(a, b)| Some(cosine(a.as_ref()?, &clip(b)?))).collect()
        };
        let own = cosines(&self.captions);
        for (metric, asked) in [(Metric::Identity, self.asked(0)), (Metric::WrongKind, self.asked(1))] {
            if let Some(asked) = asked.filter(|_| scorer.has(metric)) {
                let share = |((asked, count), measured): (&(&[Kind], usize), &Measurement)| {
                    let logits = measured.features.get(&FeatureSpace::Judge).map_or(&[][..], |row| &row.0);
                    identity(asked, &scorer.found(logits, *count))
                };
                scores.per_image.insert(metric, asked.iter().zip(&measured).map(share).collect());
            }
        }
        scores.per_image.extend(own.filter(|_| scorer.has(Metric::ClipT)).map(|all| (Metric::ClipT, all)));
        Ok(scores)
    }
}

impl Ground<'_> {
    /// For each picture, the kinds to look for, its own (0) or the wrong ones (1), and among how many of the judge's
    /// likeliest: as many as the caption names. `None` where a picture has none, so that the column covers all pictures.
    fn asked(&self, which: usize) -> Option<Vec<(&[Kind], usize)>> {
        let asked = self.kinds.iter().map(|(own, wrong)| ([own, wrong][which].as_slice(), own.len()));
        asked.map(|(kinds, count)| (!kinds.is_empty()).then_some((kinds, count))).collect()
    }
}

fn statistics_of(measured: &[Measurement], space: FeatureSpace, dimensions: usize) -> Result<FeatureStatistics> {
    let mut statistics = FeatureStatistics::new(dimensions);
    for row in measured.iter().filter_map(|one| one.features.get(&space)).flat_map(|rows| rows.0.chunks(dimensions)) {
        statistics.push(row)?;
    }
    Ok(statistics)
}

/// Finds the file of an entry's picture.
type Files<'a> = &'a (dyn Fn(&Entry) -> PathBuf + Sync);

/// A file and its bytes.
type File = (PathBuf, Vec<u8>);

fn check_sizes(path: &Path, picture: &Picture, clean: Option<&Picture>) -> Result<()> {
    let Some(clean) = clean else { return Ok(()) };
    ensure!(
        (clean.width, clean.height) == (picture.width, picture.height),
        "{} has {}×{} pixels, its clean picture {}×{}",
        path.display(),
        picture.width,
        picture.height,
        clean.width,
        clean.height
    );
    Ok(())
}

/// The inputs of measurement.
struct Asked<'a> {
    files: Files<'a>,
    /// The reference pictures.
    clean: Option<Files<'a>>,
    /// See [`Subject`].
    judged: bool,
}

/// Measures the picture of each entry; also returns the checksum of their checksums.
fn measure(
    scorer: &Scorer,
    entries: &[Entry],
    Asked { files, clean, judged }: Asked,
    kept: &Path,
    settings: ScoreSettings,
    progress: &(dyn Fn(&Entry) + Sync),
) -> Result<(Vec<Measurement>, String)> {
    let kept = MeasurementCache::open(kept)?;
    let scorer_is = scorer.fingerprint();
    let read = |path: PathBuf| -> Result<File> {
        let bytes = picture::read(&path)?;
        Ok((path, bytes))
    };
    let open = |(path, bytes): &File| -> Result<Picture> { Ok(Picture::decode_with_alpha(bytes, path)?.0) };
    // Whole batches are measured or reused: in a batch of another size the last bits may differ.
    let batch = |entries: &[Entry]| -> Result<Vec<(Measurement, String)>> {
        let (mut keys, mut checksums, mut subjects) = (vec![], vec![], vec![]);
        for entry in entries {
            let file = read(files(entry))?;
            let clean = clean.map(|clean| read(clean(entry))).transpose()?;
            let of_clean = clean.as_ref().map(|(_, bytes)| sha256(bytes)).unwrap_or_default();
            let checksum = sha256(&file.1);
            keys.push(sha256(format!("{checksum} {of_clean} {scorer_is}").as_bytes()));
            checksums.push(checksum);
            subjects.push((file, clean));
        }
        let known: Option<Vec<Measurement>> = keys.iter().map(|key| kept.get(key).cloned()).collect();
        let measured = match known {
            Some(known) => known,
            None => {
                let open_both = |(file, clean): &(File, Option<File>)| -> Result<Subject> {
                    let (picture, clean) = (open(file)?, clean.as_ref().map(open).transpose()?);
                    check_sizes(&file.0, &picture, clean.as_ref())?;
                    Ok(Subject { picture, clean, judged })
                };
                let subjects = subjects.iter().map(open_both).collect::<Result<Vec<_>>>()?;
                let ids = || entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>().join(", ");
                let measured = scorer.measure(&subjects).with_context(ids)?;
                kept.add(keys.iter().map(String::as_str).zip(&measured))?;
                measured
            }
        };
        entries.iter().for_each(progress);
        Ok(measured.into_iter().zip(checksums).collect())
    };
    let batches: Vec<&[Entry]> = entries.chunks(settings.batch_size.max(1)).collect();
    let parallel = settings.threads.min(batches.len());
    let all = in_order(batches.len(), parallel, |i| on_cores(parallel, || batch(batches[i])))?;
    let (measured, checksums): (Vec<Measurement>, Vec<String>) = all.into_iter().flatten().unzip();
    Ok((measured, sha256(checksums.concat().as_bytes())))
}
