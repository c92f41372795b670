//! Makes a test set: draws pictures from a source, degrades them and writes the folder.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use rand::seq::IndexedRandom;
use serde::Serialize;

use super::check::{fingerprint, lines};
use super::{
    CLEAN, DEGRADED, DESCRIPTION, Entry, PROMPTS, Recipe, RecipeDegradation, RecipeKind, SMALL, SUMS, TestSetError,
};
use spire_core::atomic_write::{TEMPORARY, sync_dir, write_synced};

use crate::Picture;
use crate::checksum::sha256;
use crate::crop::{Crop, Square};
use crate::degrade::operation::operate;
use crate::degrade::{DegradeError, Filter, Operation, Step, parameterized, resize};
use crate::order::permuted;
use crate::parallel::in_order;
use crate::png_text;
use crate::rng::{Rng, rng};
use crate::source::{self, Pair, Sample, Skipped, Source};

/// The result of making a test set.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The folder.
    pub folder: PathBuf,
    /// Its pictures, sorted by id.
    pub entries: Vec<Entry>,
    /// Broken pictures and shards that were skipped.
    pub skipped: Vec<Skipped>,
    /// SHA-256 over all pictures and prompts, as [`check`](super::check) returns it.
    pub checksum: String,
}

/// Makes the test set of `recipe` in `folder`, which must not exist, on `threads` threads. The result does not depend
/// on their number. The folder is written under a temporary name and renamed at the end. `progress` is called after
/// each picture with the total and the picture's id.
///
/// # Errors
/// A setting of the recipe is out of range, the source can't be opened or has too few readable pictures, or the folder
/// can't be written.
pub fn make(
    recipe: &Recipe,
    folder: &Path,
    threads: usize,
    progress: &(dyn Fn(usize, &str) + Sync),
) -> Result<Made, TestSetError> {
    recipe.validate()?;
    let source = source::open(&recipe.source, recipe.size.unwrap_or(512))?;
    if folder.symlink_metadata().is_ok() {
        return Err(TestSetError::Exists { path: folder.to_owned() });
    }
    let name = folder.file_name().map_or_else(|| recipe.name.clone(), |name| name.display().to_string());
    let part = folder.with_file_name(format!("{TEMPORARY}{name}"));
    match fs::remove_dir_all(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&part)(error)),
        _ => {}
    }
    let made = make_in(&part, recipe, &*source, threads, progress).and_then(|made| {
        fs::rename(&part, folder).map_err(io(folder))?;
        Ok(Made { folder: folder.to_owned(), ..made })
    });
    if made.is_err() {
        // The disk may be full; the first error is the one to report.
        let _ = fs::remove_dir_all(&part);
    }
    made
}

/// Makes the test set in the folder `part`.
fn make_in(
    part: &Path,
    recipe: &Recipe,
    source: &dyn Source,
    threads: usize,
    progress: &(dyn Fn(usize, &str) + Sync),
) -> Result<Made, TestSetError> {
    for below in [CLEAN, DEGRADED, SMALL] {
        fs::create_dir_all(part.join(below)).map_err(io(part))?;
    }

    let maker = Maker { recipe, source, folder: part };
    let (pictures, skipped) = maker.all(threads, progress)?;
    let mut sums = BTreeMap::new();
    let mut entries = vec![];
    for (entry, files) in pictures {
        entries.push(entry);
        sums.extend(files);
    }
    entries.sort_by(|a, b| a.id.cmp(&b.id));

    let prompts: String = entries.iter().map(json_line).collect();
    let description = Description {
        benchmark: &recipe.name,
        program: concat!("spire ", env!("CARGO_PKG_VERSION")),
        pictures: entries.len(),
        source_pictures: source.len(),
        skipped: skipped.iter().map(|skipped| format!("{}: {}", skipped.name, skipped.reason)).collect(),
        recipe,
    };
    for (name, text) in [(PROMPTS, prompts), (DESCRIPTION, json_pretty(&description))] {
        sums.extend([write(part, name, text.as_bytes())?]);
    }
    write(part, SUMS, lines(&sums).as_bytes())?;
    for below in [CLEAN, SMALL] {
        // Removes the folder if it is empty; otherwise this fails and the folder stays.
        let _ = fs::remove_dir(part.join(below));
    }
    sync_dir(part).map_err(|error| io(part)(error.source))?;
    Ok(Made { folder: part.to_owned(), entries, skipped, checksum: fingerprint(&sums) })
}

/// `benchmark.json`.
#[derive(Serialize)]
struct Description<'a> {
    benchmark: &'a str,
    program: &'a str,
    pictures: usize,
    source_pictures: usize,
    skipped: Vec<String>,
    recipe: &'a Recipe,
}

/// A picture's entry with the names and checksums of its files.
type MadePicture = (Entry, Vec<(String, String)>);

struct Maker<'a> {
    recipe: &'a Recipe,
    source: &'a dyn Source,
    folder: &'a Path,
}

impl Maker<'_> {
    /// Processes pictures in the drawn order until there are as many readable ones as the recipe asks for.
    fn all(
        &self,
        threads: usize,
        progress: &(dyn Fn(usize, &str) + Sync),
    ) -> Result<(Vec<MadePicture>, Vec<Skipped>), TestSetError> {
        let len = self.source.len();
        let wanted = self.recipe.count.unwrap_or(len);
        let most = if self.recipe.count.is_none() || !self.cuts_differ() { len } else { wanted + len };
        let mut ids = Ids::default();
        let mut made: Vec<MadePicture> = vec![];
        let mut broken: HashMap<usize, Skipped> = HashMap::new();
        let mut next = 0;
        while made.len() < wanted && next < most {
            let drawn = next..most.min(next + wanted - made.len());
            next = drawn.end;
            let chosen: Vec<(usize, usize, String)> = drawn
                .map(|n| (n, self.index(n)))
                .map(|(n, index)| (n, index, ids.of(&self.source.name(index))))
                .collect();
            let results = in_order(chosen.len(), threads, |i| {
                let (n, index, id) = &chosen[i];
                let result = match self.source.read(*index) {
                    Ok(sample) => self.picture(*n as u64, sample, id).map(Ok),
                    Err(error) => Ok(Err((*index, error.to_string()))),
                };
                progress(wanted, id);
                result
            })?;
            for result in results {
                match result {
                    Ok(picture) => made.push(picture),
                    Err((index, reason)) => {
                        let name = self.source.name(index);
                        broken.entry(index).or_insert_with(|| {
                            tracing::warn!(name, reason, "skipping a broken picture");
                            Skipped { name, reason }
                        });
                    }
                }
            }
        }
        let mut skipped: Vec<(usize, Skipped)> = broken.into_iter().collect();
        skipped.sort_by_key(|(index, _)| *index);
        let skipped: Vec<Skipped> =
            self.source.left_out().into_iter().chain(skipped.into_iter().map(|(_, skipped)| skipped)).collect();
        if made.is_empty() || self.recipe.count.is_some_and(|count| made.len() < count) {
            let first = skipped
                .first()
                .map(|skipped| format!("the first that is broken: {}: {}", skipped.name, skipped.reason));
            let first = first.unwrap_or_else(|| "more cuts of a picture need crop = \"random\"".to_owned());
            return Err(TestSetError::TooFew { good: made.len(), tried: next, wanted, first });
        }
        Ok((made, skipped))
    }

    fn cuts_differ(&self) -> bool {
        self.recipe.size.is_some() && self.recipe.crop == Crop::Random
    }

    /// The n-th picture drawn; every picture is drawn once before one repeats.
    fn index(&self, n: usize) -> usize {
        let len = self.source.len();
        match self.recipe.count {
            None => n,
            Some(_) => permuted(self.recipe.seed, "benchmark", (n / len) as u64, (n % len) as u64, len as u64) as usize,
        }
    }

    fn picture(&self, n: u64, sample: Sample, id: &str) -> Result<MadePicture, TestSetError> {
        let Recipe { seed, size, crop, multiple, degradation, .. } = self.recipe;
        let (width, height) = sample.picture.size();
        // The trimmed halves of a pair must fit too.
        let multiple = lcm(*multiple, sample.pair.as_ref().map_or(1, |pair| pair.factor));
        let whole = |side: usize| (side / multiple * multiple).max(side.min(multiple));
        let (width, height) = (whole(width), whole(height));
        let square =
            size.map(|size| (Square::draw(sample.picture.size(), size, *crop, &mut rng(*seed, "crop", n)), size));
        let clean = match square {
            Some((square, size)) => square.of(&sample.picture, size),
            None => sample.picture.crop(0, 0, width, height),
        };
        let semantic = sample.captions.choose(&mut rng(*seed, "caption", n)).cloned().unwrap_or_default();
        let Degraded { picture, prompt, steps, operations } = match sample.pair {
            Some(Pair { picture, factor, restoration }) => Degraded {
                picture: match square {
                    Some((square, size)) => square.of_smaller(&picture, factor, size),
                    None => picture.crop(0, 0, width / factor, height / factor),
                },
                prompt: restoration.unwrap_or_else(|| degradation.prompt.clone()),
                steps: vec![],
                operations: vec![],
            },
            None => {
                let degrade = |source| TestSetError::Degrade { picture: sample.name.clone(), source };
                degradation.apply(&clean, &mut rng(*seed, "degradation", n)).map_err(degrade)?
            }
        };

        let mut sums = vec![];
        if degradation.kind != RecipeKind::None {
            sums.push(self.png(CLEAN, id, &clean)?);
        }
        if (picture.width, picture.height) == (clean.width, clean.height) {
            sums.push(self.png(DEGRADED, id, &picture)?);
        } else {
            // The picture is rounded to 8 bits, as the file is, before it is enlarged.
            let stored = Picture::from_rgb8(&picture.to_rgb8());
            let mut back = resize(&stored, clean.width, clean.height, Filter::Bicubic);
            back.clamp();
            sums.push(self.png(SMALL, id, &stored)?);
            sums.push(self.png(DEGRADED, id, &back)?);
        }
        let entry = Entry {
            id: id.to_owned(),
            picture: sample.name,
            width: clean.width,
            height: clean.height,
            semantic,
            restoration: prompt,
            steps,
            operations,
        };
        Ok((entry, sums))
    }

    fn png(&self, below: &str, id: &str, picture: &Picture) -> Result<(String, String), TestSetError> {
        let name = format!("{below}/{id}.png");
        let encode = |source| TestSetError::Encode { path: self.folder.join(&name), source };
        let bytes = png_text::encode(picture, None, &[]).map_err(encode)?;
        write(self.folder, &name, &bytes)
    }
}

impl RecipeDegradation {
    fn apply(&self, clean: &Picture, rng: &mut Rng) -> Result<Degraded, DegradeError> {
        let (picture, operations) = match self.kind {
            RecipeKind::Parameterized => {
                let steps = self.parameterized.draw(rng);
                let prompt = self.parameterized.draw_prompt(&steps, rng);
                let (picture, operations) = parameterized::apply(&steps, clean, rng)?;
                return Ok(Degraded { picture, prompt, steps, operations });
            }
            RecipeKind::RealEsrgan => self.real_esrgan.degrade(clean, rng)?,
            RecipeKind::Operations => (operate(&self.operations, clean, rng)?, self.operations.clone()),
            RecipeKind::None | RecipeKind::Paired => (clean.clone(), vec![]),
        };
        Ok(Degraded { picture, prompt: self.prompt.clone(), steps: vec![], operations })
    }
}

/// The smallest number that both divide.
fn lcm(a: usize, b: usize) -> usize {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a / divisor * b
}

/// A degraded picture with the fields of its [`Entry`].
struct Degraded {
    picture: Picture,
    prompt: String,
    steps: Vec<Step>,
    operations: Vec<Operation>,
}

/// Generates unique file names.
#[derive(Default)]
struct Ids(HashSet<String>);

impl Ids {
    /// The last two parts of a sample's name, without the extension, with `_` in place of special characters.
    fn of(&mut self, name: &str) -> String {
        let path = Path::new(name);
        let named = ImageFormat::from_path(path).is_ok();
        let stem = if named { path.with_extension("") } else { path.to_owned() };
        let parts: Vec<String> =
            stem.components().rev().take(2).map(|part| part.as_os_str().display().to_string()).collect();
        let joined = parts.into_iter().rev().collect::<Vec<_>>().join("_");
        let plain = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '_' };
        let id: String = joined.chars().map(plain).take(120).collect();
        let more = (2..).map(|count| format!("{id}-{count}"));
        let free = std::iter::once(id.clone()).chain(more).find(|id| !self.0.contains(id)).unwrap_or_default();
        self.0.insert(free.clone());
        free
    }
}

fn json_line(entry: &Entry) -> String {
    format!("{}\n", serde_json::to_string(entry).unwrap_or_default())
}

fn json_pretty(description: &Description) -> String {
    format!("{}\n", serde_json::to_string_pretty(description).unwrap_or_default())
}

/// Writes a file of the folder; returns its name and checksum.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(String, String), TestSetError> {
    let path = folder.join(name);
    write_synced(&path, bytes).map_err(|error| io(&path)(error.source))?;
    Ok((name.to_owned(), sha256(bytes)))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> TestSetError {
    let path = path.to_owned();
    move |source| TestSetError::Io { path, source }
}
