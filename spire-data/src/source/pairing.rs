//! Which file of a folder of degraded pictures belongs to which clean picture, and the list of restoration prompts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;
use spire_core::bounded_read;

use super::metadata::MOST_LIST_BYTES;
use super::{Skipped, SourceError, caption};

/// The degraded picture of each clean one, and the restoration prompts.
#[derive(Debug)]
pub(super) struct Pairing {
    /// By the clean picture's name.
    degraded: HashMap<String, PathBuf>,
    /// By the clean picture's name; empty if there is no list.
    prompts: HashMap<String, String>,
}

impl Pairing {
    /// Finds the degraded pictures of the clean ones called `names` (paths relative to `root`) among `files` in `folder`, and
    /// reads the list of prompts. Also returns the names without a degraded picture and the degraded pictures without a clean
    /// one.
    ///
    /// # Errors
    /// The list of prompts can't be read, or a line of it is malformed.
    pub fn find(
        names: &[String],
        root: &Path,
        files: &[PathBuf],
        folder: &Path,
        prompts: Option<&Path>,
    ) -> Result<(Self, Vec<Skipped>), SourceError> {
        let candidates = Candidates::of(files, folder, is_same(root, folder));
        let (mut degraded, mut used, mut left_out) = (HashMap::new(), BTreeSet::new(), vec![]);
        for name in names.iter().filter(|name| candidates.may_be_clean(name)) {
            match candidates.find(name) {
                Ok(file) => {
                    used.insert(file);
                    degraded.insert(name.clone(), file.clone());
                }
                Err(reason) => left_out.push(Skipped { name: name.clone(), reason }),
            }
        }
        for file in candidates.all.iter().filter(|file| !used.contains(*file)) {
            let reason = format!("no clean picture of this name in {}", root.display());
            left_out.push(Skipped { name: file.display().to_string(), reason });
        }
        let prompts = prompts.map(read_prompts).transpose()?.unwrap_or_default();
        Ok((Self { degraded, prompts }, left_out))
    }

    /// The degraded picture of the clean one called `name`.
    pub fn degraded(&self, name: &str) -> Option<&Path> {
        self.degraded.get(name).map(PathBuf::as_path)
    }

    /// The restoration prompt of the clean picture called `name`, if it has one.
    pub fn prompt(&self, name: &str) -> Option<String> {
        self.prompts.get(name).cloned()
    }

    /// How many of `names` have no prompt although there is a list.
    pub fn without_prompt(&self, names: &[String]) -> usize {
        if self.prompts.is_empty() {
            return 0;
        }
        names.iter().filter(|name| !self.prompts.contains_key(*name)).count()
    }
}

/// Whether two folders are one.
fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// The degraded pictures by their names.
struct Candidates {
    all: Vec<PathBuf>,
    /// By the path without its extension; none if both halves lie in one folder.
    exact: BTreeMap<String, PathBuf>,
    /// By that path without its mark.
    bare: BTreeMap<String, Vec<PathBuf>>,
    in_one_folder: bool,
}

impl Candidates {
    fn of(files: &[PathBuf], folder: &Path, in_one_folder: bool) -> Self {
        let (mut exact, mut bare): (_, BTreeMap<String, Vec<PathBuf>>) = (BTreeMap::new(), BTreeMap::new());
        let mut all = vec![];
        for file in files {
            let stem = stem(&file.strip_prefix(folder).unwrap_or(file).to_string_lossy());
            let (name, mark) = without_mark(&stem);
            if in_one_folder && mark != Mark::Degraded {
                continue;
            }
            all.push(file.clone());
            bare.entry(name.to_owned()).or_default().push(file.clone());
            if !in_one_folder {
                exact.insert(stem, file.clone());
            }
        }
        Self { all, exact, bare, in_one_folder }
    }

    /// Whether a picture of the clean folder is a clean one: in a folder with both halves, some are not.
    fn may_be_clean(&self, name: &str) -> bool {
        !self.in_one_folder || without_mark(&stem(name)).1 != Mark::Degraded
    }

    fn find(&self, name: &str) -> Result<&PathBuf, String> {
        let stem = stem(name);
        if let Some(file) = self.exact.get(&stem) {
            return Ok(file);
        }
        match self.bare.get(without_mark(&stem).0).map(Vec::as_slice) {
            Some([file]) => Ok(file),
            Some([one, other, ..]) => {
                Err(format!("several degraded pictures fit its name: {}, {}", one.display(), other.display()))
            }
            _ => Err("there is no degraded picture of this name".to_owned()),
        }
    }
}

/// A path without its extension, with `/` between its parts.
fn stem(name: &str) -> String {
    let name = name.replace('\\', "/");
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].rfind('.') {
        Some(dot) if dot > 0 => name[..start + dot].to_owned(),
        _ => name,
    }
}

/// What the end of a file's name says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Clean,
    Degraded,
    None,
}

/// The name without the mark that published sets put at its end: `_HR`, `_LR4` (RealSR), `_x1`, `_x4` (DRealSR), `x4` (DIV2K),
/// `_GT`, `_HQ`, `_LQ`.
fn without_mark(stem: &str) -> (&str, Mark) {
    let name = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered = name.len() < stem.len();
    if numbered && let Some(bare) = name.strip_suffix(['x', 'X']) {
        return (bare.strip_suffix('_').unwrap_or(bare), Mark::None);
    }
    let marks = [
        ("_hr", Mark::Clean),
        ("_hq", Mark::Clean),
        ("_gt", Mark::Clean),
        ("_lr", Mark::Degraded),
        ("_lq", Mark::Degraded),
    ];
    let found = marks.into_iter().find_map(|(mark, kind)| {
        let at = name.len().checked_sub(mark.len())?;
        let fits = name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(mark);
        // Digits follow only the marks of degraded pictures: their factor.
        (fits && (!numbered || kind == Mark::Degraded)).then(|| (&name[..at], kind))
    });
    found.unwrap_or((stem, Mark::None))
}

/// Reads a list of prompts: lines of JSON with `file_name` and `restoration`.
fn read_prompts(path: &Path) -> Result<HashMap<String, String>, SourceError> {
    let text = bounded_read::read(path, MOST_LIST_BYTES).map_err(|source| SourceError::Io {
        path: path.to_owned(),
        key: "restoration",
        source,
    })?;
    let mut prompts = HashMap::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |message: String| SourceError::Line { path: path.to_owned(), line: number + 1, message };
        let value: Value = serde_json::from_slice(line).map_err(|error| wrong(format!("not JSON: {error}")))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let (Some(name), Some(prompt)) = (text("file_name"), text("restoration")) else {
            return Err(wrong("each line needs \"file_name\" and \"restoration\"".into()));
        };
        prompts.extend(caption::tidy(&prompt).map(|prompt| (name, prompt)));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_published_sets_are_not_part_of_the_name() {
        for (stem, name, mark) in [
            ("Canon/Canon_001_HR", "Canon/Canon_001", Mark::Clean),
            ("Canon/Canon_001_LR4", "Canon/Canon_001", Mark::Degraded),
            ("Canon_10_x4", "Canon_10", Mark::None),
            ("Canon_10_x1", "Canon_10", Mark::None),
            ("0801x4", "0801", Mark::None),
            ("0801", "0801", Mark::None),
            ("0801_pch_00001", "0801_pch_00001", Mark::None),
            ("photo_lq", "photo", Mark::Degraded),
            ("photo_HR2", "photo_HR2", Mark::None),
            ("é_GT", "é", Mark::Clean),
            ("", "", Mark::None),
        ] {
            assert_eq!(without_mark(stem), (name, mark), "{stem}");
        }
        assert_eq!([stem("a/b.c.png"), stem("a.b/c"), stem(".hidden")], ["a/b.c", "a.b/c", ".hidden"]);
    }

    fn paired(clean: &[&str], degraded: &[&str]) -> (Vec<(String, String)>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let [high, low] = ["high", "low"].map(|name| dir.path().join(name));
        [&high, &low].iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let names: Vec<String> = clean.iter().map(ToString::to_string).collect();
        let files: Vec<PathBuf> = degraded.iter().map(|name| low.join(name)).collect();
        let (pairing, left_out) = Pairing::find(&names, &high, &files, &low, None).unwrap();
        let found = names.iter().filter_map(|name| {
            let file = pairing.degraded(name)?.strip_prefix(&low).unwrap().display().to_string();
            Some((name.clone(), file))
        });
        let left_out = left_out.iter().map(|skipped| format!("{}: {}", skipped.name, skipped.reason)).collect();
        (found.collect(), left_out)
    }

    #[test]
    fn halves_are_found_by_name_and_missing_ones_are_named() {
        let (found, left_out) = paired(&["a/1.png", "2.png", "3.png"], &["a/1.png", "2.png", "4.png", "3_a.png"]);
        assert_eq!(found, [("a/1.png".into(), "a/1.png".into()), ("2.png".into(), "2.png".into())]);
        assert_eq!(left_out.len(), 3);
        assert!(left_out[0].starts_with("3.png: there is no degraded picture"), "{left_out:?}");
        assert!(left_out[1..].iter().all(|text| text.contains("no clean picture")), "{left_out:?}");
        let (found, left_out) = paired(&["0801.png"], &["0801x2.png", "0801x4.png"]);
        assert_eq!(found, []);
        assert!(left_out[0].contains("several degraded pictures"), "{left_out:?}");
        let (found, left_out) = paired(&["P_1_x4.png"], &["P_1_x1.png"]);
        assert_eq!((found.len(), left_out.len()), (1, 0));
    }

    #[test]
    fn both_halves_may_lie_in_one_folder() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["N_1_HR.png", "N_1_LR4.png", "N_2_HR.png", "N_3_LR4.png"];
        let (files, names) = (names.map(|name| dir.path().join(name)), names.map(String::from));
        let (pairing, left_out) = Pairing::find(&names, dir.path(), &files, dir.path(), None).unwrap();
        assert_eq!(pairing.degraded("N_1_HR.png"), Some(dir.path().join("N_1_LR4.png").as_path()));
        assert_eq!(names.iter().filter(|name| pairing.degraded(name).is_some()).count(), 1);
        let left_out: Vec<bool> = left_out.iter().map(|skipped| skipped.name.contains("N_1")).collect();
        assert_eq!(left_out, [false, false]);
    }
}
