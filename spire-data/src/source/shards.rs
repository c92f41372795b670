//! Lists of shards, and a cache of what was read last.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lru::LruCache;

use super::{Skipped, SourceConfig, SourceError};

/// How shards are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Samples are shuffled within so many.
    pub shuffle_buffer: usize,
    /// The parts of a pass that are read side by side; see [`ShardOrder`](crate::order::ShardOrder).
    pub lanes: usize,
    /// In a store: how many shards are fetched ahead, of each lane.
    pub shards_ahead: usize,
    /// In a store: how many samples each tar shard has, where no list says so.
    pub samples_per_shard: Option<usize>,
    /// In a store: the size of the cache on the disk, in megabytes.
    pub cache_megabytes: Option<u64>,
}

/// Shards that are shuffled within so many samples, and otherwise read by the defaults.
impl From<usize> for Reading {
    fn from(shuffle_buffer: usize) -> Self {
        Self { shuffle_buffer, ..Self::of(&SourceConfig::default()) }
    }
}

impl Reading {
    pub(super) fn of(config: &SourceConfig) -> Self {
        let &SourceConfig { shuffle_buffer, lanes, shards_ahead, samples_per_shard, cache_megabytes, .. } = config;
        Self { shuffle_buffer, lanes, shards_ahead, samples_per_shard, cache_megabytes }
    }
}

/// The most files that braces may list.
const MOST_LISTED: u128 = 1_000_000;

/// The deepest nesting of braces.
const DEEPEST: usize = 32;

/// Checks how many names the braces of a pattern list, without listing them: the product over all braces, which is too
/// high only for nested ones.
fn check_braces(pattern: &str) -> Result<(), String> {
    // Where each open brace began, and the number of its alternatives so far.
    let mut open: Vec<(usize, u128)> = vec![];
    let mut listed: u128 = 1;
    for (at, c) in pattern.char_indices() {
        match (c, open.last_mut()) {
            ('{', _) => open.push((at + 1, 1)),
            (',', Some((_, alternatives))) => *alternatives += 1,
            ('}', Some(_)) => {
                let (start, alternatives) = open.pop().unwrap_or_default();
                listed = listed.saturating_mul(alternatives.max(range(&pattern[start..at])));
            }
            _ => {}
        }
        if open.len() > DEEPEST {
            return Err(format!("braces are nested deeper than {DEEPEST} levels"));
        }
    }
    match listed > MOST_LISTED {
        true => Err(format!("the braces list {listed} files; the most are {MOST_LISTED}")),
        false => Ok(()),
    }
}

/// The number of elements of `000..099`; 1 for any other text.
fn range(text: &str) -> u128 {
    let Some((first, last)) = text.split_once("..") else { return 1 };
    // A step only makes it less.
    let last = last.split("..").next().unwrap_or(last);
    match (first.trim().parse::<i128>(), last.trim().parse::<i128>()) {
        (Ok(first), Ok(last)) => first.abs_diff(last).saturating_add(1),
        // Too long for a number: no list of files.
        _ if first.len().max(last.len()) > 30 => u128::MAX,
        _ => 1,
    }
}

/// Expands the braces of a pattern, as a shell does: `{000..099}`, `{a,b}`.
pub(super) fn expand_braces(pattern: &str) -> Result<Vec<String>, SourceError> {
    let wrong = |reason: String| SourceError::Pattern { pattern: pattern.to_owned(), reason };
    check_braces(pattern).map_err(wrong)?;
    match pattern.contains('{') {
        true => bracoxide::explode(pattern).map_err(|error| wrong(format!("the braces: {error}"))),
        false => Ok(vec![pattern.to_owned()]),
    }
}

/// Expands a pattern: [braces](expand_braces), then the wildcards `*`, `?` and `[…]`, which list existing files, sorted.
/// Files listed by braces alone must exist.
pub(super) fn expand(pattern: &str) -> Result<Vec<PathBuf>, SourceError> {
    let wrong = |reason: String| SourceError::Pattern { pattern: pattern.to_owned(), reason };
    let mut files = vec![];
    for name in expand_braces(pattern)? {
        if !name.contains(['*', '?', '[']) {
            files.push(PathBuf::from(name));
            continue;
        }
        let found = glob::glob(&name).map_err(|error| wrong(error.to_string()))?;
        let before = files.len();
        for file in found {
            files.push(file.map_err(|error| wrong(error.to_string()))?);
        }
        if files.len() == before {
            return Err(wrong(format!("no file is called {name}")));
        }
    }
    let missing: Vec<&PathBuf> = files.iter().filter(|file| !file.is_file()).collect();
    match missing.first() {
        Some(&first) => {
            Err(SourceError::MissingShards { first: first.clone(), missing: missing.len(), listed: files.len() })
        }
        None => Ok(files),
    }
}

/// The error for a `pattern` without samples; `left_out` shards could not be read.
pub(super) fn nothing(pattern: &str, shards: usize, left_out: Vec<Skipped>) -> SourceError {
    match left_out.into_iter().next() {
        Some(Skipped { name, reason }) => SourceError::NoShard { shards, first: format!("{name}: {reason}") },
        None => SourceError::Empty { place: format!("{pattern} (data.source.shards)") },
    }
}

/// A cache of the most recently used items, by number. The first thread that requests an item creates it; other threads
/// wait only for that item.
pub(super) struct Recent<T> {
    things: Mutex<LruCache<usize, Arc<OnceLock<T>>>>,
}

impl<T> Recent<T> {
    /// A cache of `capacity` items, at least one.
    pub fn new(capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { things: Mutex::new(LruCache::new(capacity)) }
    }

    /// Calls `look` with item `number`, which `make` creates if it is not cached.
    pub fn with<R>(&self, number: usize, make: impl FnOnce() -> T, look: impl FnOnce(&T) -> R) -> R {
        let place = {
            let mut things = self.things.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(things.get_or_insert(number, || Arc::new(OnceLock::new())))
        };
        look(place.get_or_init(make))
    }

    /// The items that were created.
    #[cfg(feature = "object-store")]
    pub fn into_items(self) -> impl Iterator<Item = (usize, T)> {
        let things = self.things.into_inner().unwrap_or_else(PoisonError::into_inner);
        things.into_iter().filter_map(|(number, thing)| Some((number, Arc::into_inner(thing)?.into_inner()?)))
    }

    /// Removes item `number`, so that the next request creates it again.
    pub fn forget(&self, number: usize) {
        self.things.lock().unwrap_or_else(PoisonError::into_inner).pop(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn patterns_list_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a-008.tar", "a-009.tar", "a-010.tar", "b-1.tar"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let names = |pattern: &str| {
            let files = expand(&format!("{}/{pattern}", dir.path().display()))?;
            Ok::<_, SourceError>(
                files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(names("a-{008..010}.tar").unwrap(), ["a-008.tar", "a-009.tar", "a-010.tar"]);
        assert_eq!(names("{b-1,a-009}.tar").unwrap(), ["b-1.tar", "a-009.tar"]);
        assert_eq!(names("a-*.tar").unwrap(), ["a-008.tar", "a-009.tar", "a-010.tar"]);
        assert_eq!(names("{a-*,b-?}.tar").unwrap().len(), 4);
        assert_eq!(names("b-1.tar").unwrap(), ["b-1.tar"]);
        let missing = names("a-{008..013}.tar").unwrap_err().to_string();
        assert!(missing.contains("a-011.tar") && missing.contains("3 of the 6"), "{missing}");
        let none = names("c-*.tar").unwrap_err().to_string();
        assert!(none.contains("no file is called") && none.contains("data.source.shards"), "{none}");
        for endless in
            ["{0..999999999999}.tar", "{0..9999}/{0..9999}.tar", "{1..99999999999999999999999999999999999999999}"]
        {
            let message = names(endless).unwrap_err().to_string();
            assert!(message.contains("the most are 1000000"), "{message}");
        }
        assert!(names(&format!("{}a{}", "{".repeat(40), "}".repeat(40))).unwrap_err().to_string().contains("nested"));
        for senseless in ["a-{008..", "a-{}.tar", "a-[.tar"] {
            assert!(names(senseless).is_err(), "{senseless}");
        }
    }

    #[test]
    fn recent_items_are_created_once() {
        let recent = Recent::new(2);
        let made = Cell::new(0);
        let get = |number: usize| {
            let make = || {
                made.set(made.get() + 1);
                number * 10
            };
            recent.with(number, make, |&thing| thing)
        };
        assert_eq!([1, 2, 1, 2, 1].map(get), [10, 20, 10, 20, 10]);
        assert_eq!(made.get(), 2);
        assert_eq!([3, 1, 2].map(get), [30, 10, 20]);
        assert_eq!(made.get(), 4, "2 made room for 3");
        recent.forget(1);
        assert_eq!([1, 2].map(get), [10, 20]);
        assert_eq!(made.get(), 5);
    }
}
