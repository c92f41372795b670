//! Verifies a test set against its checksums.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use spire_core::message::printable;
use walkdir::WalkDir;

use super::{DESCRIPTION, SUMS, TestSetError};
use crate::checksum::sha256;
use crate::parallel::in_order;
use crate::picture;

/// A problem with one file of a test set; the name is relative to the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The file is listed but missing or unreadable.
    Missing(String),
    /// The content differs from the checksum.
    Changed(String),
    /// The file exists but is not listed.
    Unlisted(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, problem) = match self {
            Self::Missing(name) => (name, "missing"),
            Self::Changed(name) => (name, "changed"),
            Self::Unlisted(name) => (name, "not part of the test set"),
        };
        write!(formatter, "{}: {problem}", printable(name))
    }
}

/// Compares every file of the test set in `folder` with its checksum, on `threads` threads. Returns the number of
/// listed files, one checksum over all pictures and prompts, and the problems.
///
/// # Errors
/// The list of checksums is missing or malformed.
pub fn check(folder: &Path, threads: usize) -> Result<(usize, String, Vec<Problem>), TestSetError> {
    let path = folder.join(SUMS);
    let text = std::fs::read(&path).map_err(|source| TestSetError::Io { path: path.clone(), source })?;
    let sums = parse(&text, &path)?;
    let listed: Vec<(&String, &String)> = sums.iter().collect();
    let compared = in_order(listed.len(), threads, |i| {
        let (name, sum) = listed[i];
        Ok::<_, std::convert::Infallible>(match picture::read(&folder.join(name)) {
            Err(_) => Some(Problem::Missing(name.clone())),
            Ok(bytes) if sha256(&bytes) != *sum => Some(Problem::Changed(name.clone())),
            Ok(_) => None,
        })
    });
    let mut problems: Vec<Problem> = compared.unwrap_or_else(|never| match never {}).into_iter().flatten().collect();
    for file in WalkDir::new(folder).sort_by_file_name().into_iter().filter_map(Result::ok) {
        let name = file.path().strip_prefix(folder).unwrap_or(file.path());
        let name = name.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
        if !file.file_type().is_dir() && name != SUMS && !sums.contains_key(&name) {
            problems.push(Problem::Unlisted(name));
        }
    }
    Ok((sums.len(), fingerprint(&sums), problems))
}

/// The checksum over the pictures and prompts. The description is excluded: it contains local paths.
pub(super) fn fingerprint(sums: &BTreeMap<String, String>) -> String {
    sha256(lines(sums.iter().filter(|(name, _)| *name != DESCRIPTION)).as_bytes())
}

/// Formats names and checksums as `sha256sum` does.
pub(super) fn lines<'a>(sums: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    sums.into_iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect()
}

/// Parses the lines of `sha256sum` into a map from names to checksums.
fn parse(text: &[u8], path: &Path) -> Result<BTreeMap<String, String>, TestSetError> {
    let wrong = |line: usize| TestSetError::Sums { path: path.to_owned(), line: line + 1 };
    let mut sums = BTreeMap::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let line = str::from_utf8(line).map_err(|_| wrong(number))?;
        let (sum, name) = line.split_once("  ").ok_or_else(|| wrong(number))?;
        let hexadecimal = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        let inside = PathBuf::from(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !hexadecimal || !inside || name.is_empty() {
            return Err(wrong(number));
        }
        sums.insert(name.to_owned(), sum.to_ascii_lowercase());
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_error_names_a_malformed_line() {
        let sum = "0".repeat(64);
        let parsed = |text: String| parse(text.as_bytes(), Path::new("SHA256SUMS"));
        assert_eq!(parsed(format!("{sum}  a/b.png\n")).unwrap().len(), 1);
        for wrong in
            [format!("{sum} a.png"), format!("{}  a.png", &sum[1..]), format!("{sum}  ../a.png"), format!("{sum}  /a")]
        {
            let error = parsed(format!("{sum}  fine.png\n{wrong}\n")).unwrap_err().to_string();
            assert!(error.starts_with("SHA256SUMS:2:"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, Path::new("SHA256SUMS"));
        }
    }
}
