//! What is wrong with a key, in a sentence with a hint.

use serde::Serialize;
use serde_path_to_error::Segment;
use strsim::normalized_damerau_levenshtein;
use toml::Value;

use super::deserialize::{Found, Problem};
use super::tree::{at, dotted, find};

/// The keys to the value at fault, and a sentence about it.
pub fn explain<T: Serialize + Default>(
    settings: &Value,
    error: &serde_path_to_error::Error<Problem>,
) -> (Vec<String>, String) {
    let mut keys: Vec<String> = error
        .path()
        .iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    // The path ends at an enum that has its variant as one of its keys. `find` completes it.
    let complete = |keys: &mut Vec<String>, matches: &dyn Fn(&str, &Value) -> bool| {
        keys.extend(find(at(settings, keys), matches).unwrap_or_default());
    };
    let message = match error.inner() {
        Problem::UnknownKey { name, valid } => {
            if keys.last() != Some(name) {
                let found = find(at(settings, &keys), &|key, _| key == name);
                keys.extend(found.unwrap_or_else(|| vec![name.clone()]));
            }
            unknown_key::<T>(&keys, valid)
        }
        Problem::MissingKey { name } => {
            keys.push((*name).to_owned());
            format!("the key \"{}\" is missing", dotted(&keys))
        }
        Problem::UnknownName { name, valid } => {
            complete(&mut keys, &|_, value| value.as_str() == Some(name));
            let hint = match nearest(name, valid) {
                Some(near) => format!("; did you mean \"{near}\"?"),
                None => String::new(),
            };
            format!("\"{}\" must be {}, found \"{name}\"{hint}", dotted(&keys), alternatives(valid))
        }
        Problem::WrongType { found, expected } => {
            complete(&mut keys, &|_, value| Found::of(value) == *found);
            format!("\"{}\" must be {}, found {found}", dotted(&keys), type_in_words(expected))
        }
        Problem::OutOfRange { found, expected } => {
            complete(&mut keys, &|_, value| Found::of(value) == *found);
            format!("\"{}\" must be {}, found {found}", dotted(&keys), range_in_words(expected))
        }
        Problem::Other(message) if keys.is_empty() => message.clone(),
        Problem::Other(message) => format!("\"{}\": {message}", dotted(&keys)),
    };
    (keys, message)
}

/// "unknown key …", with a hint: a key of the same name in another section, or a similar key, or else all valid keys.
fn unknown_key<T: Serialize + Default>(keys: &[String], siblings: &[&str]) -> String {
    let (name, parents) = keys.split_last().map_or(("", keys), |(name, parents)| (name.as_str(), parents));
    let mut message = format!("unknown key \"{}\"", dotted(keys));
    let path = |sibling: &str| dotted(&[parents, &[sibling.to_owned()]].concat());

    let elsewhere =
        Value::try_from(T::default()).ok().and_then(|defaults| find(Some(&defaults), &|key, _| key == name));
    if let Some(near) = elsewhere.map(|keys| dotted(&keys)).or_else(|| nearest(name, siblings).map(path)) {
        message += &format!("; did you mean \"{near}\"?");
    } else if !siblings.is_empty() {
        let mut siblings = siblings.to_vec();
        siblings.sort_by(|a, b| similarity(name, b).total_cmp(&similarity(name, a)));
        message += &format!("; valid here, nearest first: {}", siblings.join(", "));
    }
    message
}

fn similarity(a: &str, b: &str) -> f64 {
    normalized_damerau_levenshtein(&a.to_lowercase(), &b.to_lowercase())
}

fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let near = candidates.iter().copied().filter(|candidate| similarity(name, candidate) >= 0.5);
    near.max_by(|a, b| similarity(name, a).total_cmp(&similarity(name, b)))
}

fn alternatives(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "left out".to_owned(),
    }
}

/// A type in words, from serde's description of it.
fn type_in_words(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => {
            "an integer".to_owned()
        }
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "path string" => "a path in quotes".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "a section".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum ") => "a section".to_owned(),
        other => other.to_owned(),
    }
}

/// The range of an integer type in words, from serde's description of it.
fn range_in_words(expected: &str) -> String {
    match expected {
        "u8" => "an integer from 0 to 255".to_owned(),
        "u16" => "an integer from 0 to 65535".to_owned(),
        "u32" => "an integer from 0 to 4294967295".to_owned(),
        "u64" | "u128" | "usize" => "an integer of at least 0".to_owned(),
        other => type_in_words(other),
    }
}
