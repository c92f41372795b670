//! Typed TOML settings whose errors name the file, the line, the key and the nearest valid key.
//!
//! The file is read, `--set section.key=value` overrides are laid over it, and the result is deserialised. A setting's
//! type comes from its struct alone: nothing is registered here.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::{DeserializeOwned, Unexpected};
use serde_path_to_error::Segment;
use strsim::normalized_damerau_levenshtein;
use thiserror::Error;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Why settings could not be read or written.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}:{line}:{column}: not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// A key is unknown, missing, or has a value of the wrong type.
    #[error("{origin}: {message}")]
    Key {
        /// `file:line`, or the override as it was given.
        origin: String,
        /// The key, what is wrong with it and what would be right.
        message: String,
    },
    /// A value that TOML can't hold.
    #[error("the settings can't be written as TOML: {0}")]
    Write(#[from] toml::ser::Error),
}

/// Reads the settings in the file at `path`, with `overrides` of the form `section.key=value` laid over it in order.
///
/// A value that is not TOML is taken for a string, so `run.device=cuda:0` needs no quotes. Keys through an array are
/// numbers from 0: `data.sources.0.dir=photos`.
///
/// # Errors
/// The file can't be read or is not TOML; a key is unknown, missing or ill-typed, in the file or in an override.
pub fn load<T>(path: &Path, overrides: &[String]) -> Result<T, SettingsError>
where
    T: DeserializeOwned + Serialize + Default,
{
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    parse(&text, path, overrides)
}

/// [`load`], of a text already read. `path` is named in errors only.
///
/// # Errors
/// As [`load`].
pub fn parse<T>(text: &str, path: &Path, overrides: &[String]) -> Result<T, SettingsError>
where
    T: DeserializeOwned + Serialize + Default,
{
    let syntax = |error: toml::de::Error| {
        let (line, column) = error.span().map_or((1, 1), |span| position(text, span.start));
        SettingsError::Syntax { path: path.to_owned(), line, column, message: error.message().replace('\n', ", ") }
    };
    let document = DeValue::Table(DeTable::parse(text).map_err(syntax)?.into_inner());
    let overrides = overrides.iter().map(|text| Override::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let mut settings: Value = toml::from_str::<Table>(text).map_err(syntax)?.into();
    for change in &overrides {
        change.apply(&mut settings)?;
    }
    serde_path_to_error::deserialize(settings.clone()).map_err(|error| {
        let (keys, message) = explain::<T>(&settings, &error);
        SettingsError::Key { origin: origin(&keys, path, text, &document, &overrides), message }
    })
}

/// The settings as TOML text, defaults included: what [`parse`] reads back as an equal value.
///
/// # Errors
/// A value that TOML can't hold, such as an integer above `i64::MAX`.
pub fn resolved<T: Serialize>(settings: &T) -> Result<String, SettingsError> {
    Ok(toml::to_string_pretty(settings)?)
}

/// The deepest that an override may reach. TOML files have a limit of their own.
const MAX_DEPTH: usize = 32;

struct Override {
    text: String,
    keys: Vec<String>,
    value: Value,
}

impl Override {
    fn parse(text: &str) -> Result<Self, SettingsError> {
        let (keys, value) = text
            .split_once('=')
            .ok_or_else(|| bad_override(text, "expected section.key=value, for example train.steps=500"))?;
        let keys: Vec<String> = keys.split('.').map(|key| key.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) {
            return Err(bad_override(text, "a part of the key is empty; expected section.key=value"));
        }
        if keys.len() > MAX_DEPTH {
            return Err(bad_override(text, "the key has too many parts"));
        }
        let value = value.trim();
        let value = value.parse().unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok(Self { text: text.to_owned(), keys, value })
    }

    fn apply(&self, settings: &mut Value) -> Result<(), SettingsError> {
        let mut place = settings;
        for (depth, key) in self.keys.iter().enumerate() {
            place = match place {
                Value::Table(table) => table.entry(key.as_str()).or_insert_with(|| Table::new().into()),
                Value::Array(array) => {
                    let (name, length) = (dotted(&self.keys[..depth]), array.len());
                    key.parse::<usize>().ok().and_then(|index| array.get_mut(index)).ok_or_else(|| {
                        let message = format!("\"{name}\" is an array of {length}; {key:?} is not one of its indices");
                        bad_override(&self.text, message)
                    })?
                }
                other => {
                    let message = format!("\"{}\" is {}, not a section", dotted(&self.keys[..depth]), describe(other));
                    return Err(bad_override(&self.text, message));
                }
            };
        }
        *place = self.value.clone();
        Ok(())
    }
}

fn bad_override(text: &str, message: impl Display) -> SettingsError {
    SettingsError::Key { origin: format!("--set {text}"), message: message.to_string() }
}

/// The key at fault, and a sentence on what is wrong with it.
fn explain<T: Serialize + Default>(
    settings: &Value,
    error: &serde_path_to_error::Error<toml::de::Error>,
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
    let message = error.inner().message().trim();

    if let Some((name, expected)) = quoted(message, "unknown field `") {
        // serde's path stops at an enum that is chosen by a key of its own: the rest is found by name.
        if keys.last().is_none_or(|last| last != name) {
            keys.extend(find(at(settings, &keys), &|key, _| key == name).unwrap_or_else(|| vec![name.to_owned()]));
        }
        let message = unknown_key::<T>(&keys, &backticked(expected));
        return (keys, message);
    }
    if let Some((name, _)) = quoted(message, "missing field `") {
        keys.push(name.to_owned());
        let message = format!("the key \"{}\" is missing", dotted(&keys));
        return (keys, message);
    }
    if let Some((name, expected)) = quoted(message, "unknown variant `") {
        keys.extend(find(at(settings, &keys), &|_, value| value.as_str() == Some(name)).unwrap_or_default());
        let expected = backticked(expected);
        let hint = match nearest(name, &expected) {
            Some(near) => format!("; did you mean \"{near}\"?"),
            None => String::new(),
        };
        let message = format!("\"{}\" must be {}, found \"{name}\"{hint}", dotted(&keys), alternatives(&expected));
        return (keys, message);
    }
    let ill_typed = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = ill_typed.and_then(|rest| rest.rsplit_once(", expected ")) {
        keys.extend(find(at(settings, &keys), &|_, value| unexpected(value) == found).unwrap_or_default());
        let found = match at(settings, &keys) {
            Some(value) if unexpected(value) == found => describe(value),
            _ => found.to_owned(),
        };
        let expected = type_in_words(expected, message.starts_with("invalid value"));
        let message = format!("\"{}\" must be {expected}, found {found}", dotted(&keys));
        return (keys, message);
    }
    let message = if keys.is_empty() { message.to_owned() } else { format!("\"{}\": {message}", dotted(&keys)) };
    (keys, message)
}

/// "unknown key …", with the nearest sibling, or a key of the same name in another section, or else all siblings.
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

/// Where the value at `keys` was written: the override that set it, or its line in the file.
fn origin(keys: &[String], path: &Path, text: &str, document: &DeValue<'_>, overrides: &[Override]) -> String {
    let overridden = |matches: &dyn Fn(&Override) -> bool| {
        overrides.iter().rev().find(|change| matches(change)).map(|change| format!("--set {}", change.text))
    };
    let (depth, line) = deepest_line(keys, text, document);
    overridden(&|change| keys.starts_with(&change.keys))
        .or_else(|| if depth < keys.len() { overridden(&|change| change.keys.starts_with(keys)) } else { None })
        .unwrap_or_else(|| match line {
            Some(line) => format!("{}:{line}", path.display()),
            None => path.display().to_string(),
        })
}

/// The line, from 1, on which the TOML `text` has the key at `keys`; `None` where it has not.
pub fn line_of(text: &str, keys: &[String]) -> Option<usize> {
    let document = DeValue::Table(DeTable::parse(text).ok()?.into_inner());
    let (depth, line) = deepest_line(keys, text, &document);
    line.filter(|_| depth == keys.len())
}

/// How many of `keys` lead somewhere in the document, and the line that they lead to.
fn deepest_line(keys: &[String], text: &str, document: &DeValue<'_>) -> (usize, Option<usize>) {
    let mut place = document;
    let mut line = None;
    for (depth, key) in keys.iter().enumerate() {
        let next = match place {
            DeValue::Table(table) => table.get_key_value(key.as_str()).map(|(key, value)| (key.span(), value)),
            DeValue::Array(array) => {
                key.parse::<usize>().ok().and_then(|index| array.get(index)).map(|value| (value.span(), value))
            }
            _ => None,
        };
        let Some((span, value)) = next else { return (depth, line) };
        line = Some(position(text, span.start).0);
        place = value.get_ref();
    }
    (keys.len(), line)
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    (line, 1 + String::from_utf8_lossy(&before[line_start..]).chars().count())
}

fn at<'a>(settings: &'a Value, keys: &[String]) -> Option<&'a Value> {
    keys.iter().try_fold(settings, |value, key| match value {
        Value::Array(array) => array.get(key.parse::<usize>().ok()?),
        other => other.get(key.as_str()),
    })
}

/// The keys from `value` down to the one entry that matches. Nothing if there are several.
fn find(value: Option<&Value>, matches: &dyn Fn(&str, &Value) -> bool) -> Option<Vec<String>> {
    fn walk(
        value: &Value,
        keys: &mut Vec<String>,
        found: &mut Vec<Vec<String>>,
        matches: &dyn Fn(&str, &Value) -> bool,
    ) {
        let entries: Vec<(String, &Value)> = match value {
            Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(array) => array.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
            _ => Vec::new(),
        };
        for (key, value) in entries {
            let hit = matches(&key, value);
            keys.push(key);
            if hit {
                found.push(keys.clone());
            }
            walk(value, keys, found, matches);
            keys.pop();
        }
    }
    let mut found = Vec::new();
    walk(value?, &mut Vec::new(), &mut found, matches);
    if found.len() == 1 { found.pop() } else { None }
}

fn dotted(keys: &[String]) -> String {
    keys.join(".")
}

/// Splits serde's "unknown field `name`, expected …" into the name and what follows.
fn quoted<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = message.strip_prefix(prefix)?;
    rest.split_once("`, ").or_else(|| rest.strip_suffix('`').map(|name| (name, "")))
}

fn backticked(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn alternatives(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "left out".to_owned(),
    }
}

/// serde's own words for a value found where another type was expected.
fn unexpected(value: &Value) -> String {
    match value {
        Value::String(text) => Unexpected::Str(text).to_string(),
        Value::Integer(number) => Unexpected::Signed(*number).to_string(),
        Value::Float(number) => Unexpected::Float(*number).to_string(),
        Value::Boolean(flag) => Unexpected::Bool(*flag).to_string(),
        Value::Array(_) => Unexpected::Seq.to_string(),
        Value::Table(_) | Value::Datetime(_) => Unexpected::Map.to_string(),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string {text:?}"),
        Value::Integer(number) => format!("the integer {number}"),
        Value::Float(number) => format!("the number {number:?}"),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(date) => format!("the date {date}"),
        Value::Array(_) => "an array".to_owned(),
        Value::Table(_) => "a section".to_owned(),
    }
}

fn type_in_words(expected: &str, out_of_range: bool) -> String {
    match expected {
        "u8" if out_of_range => "an integer from 0 to 255".to_owned(),
        "u16" if out_of_range => "an integer from 0 to 65535".to_owned(),
        "u32" if out_of_range => "an integer from 0 to 4294967295".to_owned(),
        "u64" | "u128" | "usize" if out_of_range => "an integer of at least 0".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        run: Run,
        train: Train,
        data: Data,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Run {
        dir: PathBuf,
        seed: u32,
        device: String,
    }

    impl Default for Run {
        fn default() -> Self {
            Self { dir: "runs/a".into(), seed: 1, device: "flex".into() }
        }
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Train {
        steps: u64,
        learning_rate: f64,
        schedule: Schedule,
        ema: Option<f32>,
        validate: bool,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Schedule {
        #[default]
        Cosine,
        Constant,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Data {
        sources: Vec<Source>,
        blur: Range,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Range {
        sigma: [f32; 2],
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    enum Source {
        World { size: u32 },
        Folder { dir: PathBuf, extra: Option<Range> },
    }

    const TEXT: &str = "\
[run]
dir = \"runs/b\"

[train]
steps = 100
learning_rate = 1e-4

[[data.sources]]
kind = \"world\"
size = 64

[[data.sources]]
kind = \"folder\"
dir = \"photos\"
";

    fn read(text: &str, overrides: &[&str]) -> Result<Settings, SettingsError> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        parse(text, Path::new("configs/tiny.toml"), &overrides)
    }

    fn error(text: &str, overrides: &[&str]) -> String {
        read(text, overrides).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_over_the_defaults() {
        let settings = read(TEXT, &[]).unwrap();
        assert_eq!(settings.run, Run { dir: "runs/b".into(), ..Run::default() });
        assert_eq!((settings.train.steps, settings.train.learning_rate), (100, 1e-4));
        assert_eq!(settings.data.sources[1], Source::Folder { dir: "photos".into(), extra: None });
    }

    #[test]
    fn resolved_settings_read_back_equal() {
        let settings = read(TEXT, &["train.ema=0.3", "data.blur.sigma=[0.2, 5.0]", "run.dir=a b\"c"]).unwrap();
        assert_eq!(read(&resolved(&settings).unwrap(), &[]).unwrap(), settings);
    }

    #[test]
    fn later_overrides_win_over_earlier_ones_and_over_the_file() {
        let settings =
            read(TEXT, &["train.steps=7", "train.steps = 8", "train.ema=1", "data.sources.0.size=32"]).unwrap();
        assert_eq!((settings.train.steps, settings.train.ema), (8, Some(1.0)));
        assert_eq!(settings.data.sources[0], Source::World { size: 32 });
    }

    #[test]
    fn an_override_may_name_a_section_that_the_file_lacks_and_a_string_needs_no_quotes() {
        let settings = read("", &["run.device=cuda:0", "run.dir=\"7\"", "train.schedule=constant"]).unwrap();
        assert_eq!((settings.run.device.as_str(), settings.run.dir.as_path()), ("cuda:0", Path::new("7")));
        assert_eq!(settings.train.schedule, Schedule::Constant);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
        assert_eq!(
            error("[train]\nsteps = 3\nlearning_rat = 1\n", &[]),
            "configs/tiny.toml:3: unknown key \"train.learning_rat\"; did you mean \"train.learning_rate\"?"
        );
        assert_eq!(
            error("\n[trian]\nsteps = 3\n", &[]),
            "configs/tiny.toml:2: unknown key \"trian\"; did you mean \"train\"?"
        );
        assert_eq!(
            error("[data]\nblur = { sigm = [1.0, 2.0] }\n", &[]),
            "configs/tiny.toml:2: unknown key \"data.blur.sigm\"; did you mean \"data.blur.sigma\"?"
        );
        assert_eq!(
            error("data.blur.sigm = 1\n", &[]),
            "configs/tiny.toml:1: unknown key \"data.blur.sigm\"; did you mean \"data.blur.sigma\"?"
        );
    }

    #[test]
    fn a_key_in_the_wrong_section_is_sent_to_the_right_one() {
        assert_eq!(
            error("steps = 3\n", &[]),
            "configs/tiny.toml:1: unknown key \"steps\"; did you mean \"train.steps\"?"
        );
    }

    #[test]
    fn an_optional_key_is_suggested_too() {
        assert_eq!(
            error("[train]\nema_ = 1", &[]),
            "configs/tiny.toml:2: unknown key \"train.ema_\"; did you mean \"train.ema\"?"
        );
    }

    #[test]
    fn a_key_like_no_other_lists_the_valid_ones() {
        assert_eq!(
            error("[run]\nqqqqqq = 3\n", &[]),
            "configs/tiny.toml:2: unknown key \"run.qqqqqq\"; valid here, nearest first: dir, seed, device"
        );
    }

    #[test]
    fn an_ill_typed_value_is_named_with_what_it_must_be() {
        let cases = [
            ("train.steps = 'many'", "\"train.steps\" must be an integer, found the string \"many\""),
            ("train.steps = 1.0", "\"train.steps\" must be an integer, found the number 1.0"),
            ("train.steps = 1e20", "\"train.steps\" must be an integer, found the number 1e20"),
            ("train.steps = -1", "\"train.steps\" must be an integer of at least 0, found the integer -1"),
            (
                "run.seed = 5_000_000_000",
                "\"run.seed\" must be an integer from 0 to 4294967295, found the integer 5000000000",
            ),
            ("train.learning_rate = true", "\"train.learning_rate\" must be a number, found true"),
            ("train.validate = 1", "\"train.validate\" must be true or false, found the integer 1"),
            ("train.ema = 'x'", "\"train.ema\" must be a number, found the string \"x\""),
            ("train = 3", "\"train\" must be a section, found the integer 3"),
            ("run.dir = 2", "\"run.dir\" must be a path in quotes, found the integer 2"),
            ("data.blur.sigma = [1, 'b']", "\"data.blur.sigma.1\" must be a number, found the string \"b\""),
            ("data.sources = 1", "\"data.sources\" must be an array, found the integer 1"),
        ];
        for (line, message) in cases {
            assert_eq!(error(&format!("\n# above\n{line}\n"), &[]), format!("configs/tiny.toml:3: {message}"));
        }
    }

    #[test]
    fn an_unknown_variant_is_named_with_the_valid_ones() {
        assert_eq!(
            error("[train]\nschedule = 'cosin'", &[]),
            "configs/tiny.toml:2: \"train.schedule\" must be \"cosine\" or \"constant\", found \"cosin\"; did you mean \"cosine\"?"
        );
    }

    #[test]
    fn errors_inside_a_tagged_enum_name_the_key_inside() {
        let source = |lines: &str| error(&format!("[[data.sources]]\n{lines}\n"), &[]);
        assert_eq!(
            source("kind = 'wrld'\nsize = 1"),
            "configs/tiny.toml:2: \"data.sources.0.kind\" must be \"world\" or \"folder\", found \"wrld\"; did you mean \"world\"?"
        );
        assert_eq!(
            source("kind = 'world'\nsiz = 1"),
            "configs/tiny.toml:3: unknown key \"data.sources.0.siz\"; did you mean \"data.sources.0.size\"?"
        );
        assert_eq!(
            source("kind = 'world'\nsize = 'big'"),
            "configs/tiny.toml:3: \"data.sources.0.size\" must be an integer, found the string \"big\""
        );
        assert_eq!(
            source("kind = 'folder'\ndir = 'a'\nextra = { sigmo = [1, 2] }"),
            "configs/tiny.toml:4: unknown key \"data.sources.0.extra.sigmo\"; did you mean \"data.sources.0.extra.sigma\"?"
        );
        assert_eq!(source("kind = 'folder'"), "configs/tiny.toml:1: the key \"data.sources.0.dir\" is missing");
        assert_eq!(source("size = 1"), "configs/tiny.toml:1: the key \"data.sources.0.kind\" is missing");
    }

    #[test]
    fn a_bad_override_is_quoted() {
        assert_eq!(
            error(TEXT, &["train.stepz=3"]),
            "--set train.stepz=3: unknown key \"train.stepz\"; did you mean \"train.steps\"?"
        );
        assert_eq!(
            error(TEXT, &["trian.steps=3"]),
            "--set trian.steps=3: unknown key \"trian\"; did you mean \"train\"?"
        );
        assert_eq!(
            error(TEXT, &["train.steps=many"]),
            "--set train.steps=many: \"train.steps\" must be an integer, found the string \"many\""
        );
        assert_eq!(error(TEXT, &["run=3"]), "--set run=3: \"run\" must be a section, found the integer 3");
        assert_eq!(
            error(TEXT, &["train.steps.x=3"]),
            "--set train.steps.x=3: \"train.steps\" is the integer 100, not a section"
        );
        assert_eq!(
            error(TEXT, &["data.sources.2.size=3"]),
            "--set data.sources.2.size=3: \"data.sources\" is an array of 2; \"2\" is not one of its indices"
        );
        assert!(error(TEXT, &["steps"]).starts_with("--set steps: expected section.key=value"));
        assert!(error(TEXT, &["train..steps=3"]).contains("empty"));
        assert!(error(TEXT, &[&format!("{}x=3", "a.".repeat(60_000))]).contains("too many parts"));
    }

    #[test]
    fn the_file_is_blamed_for_its_own_errors_beside_a_good_override() {
        assert!(error("[train]\nstepz = 3\n", &["train.steps=4"]).starts_with("configs/tiny.toml:2: "));
    }

    #[test]
    fn a_syntax_error_has_line_and_column() {
        let message = error("[train]\nsteps = = 3\n", &[]);
        assert!(message.starts_with("configs/tiny.toml:2:9: not valid TOML: "), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = load::<Settings>(Path::new("no/such.toml"), &[]).unwrap_err().to_string();
        assert!(message.starts_with("no/such.toml: "), "{message}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", change in ".*") {
            let _ = read(&text, &[&change]);
        }

        #[test]
        fn no_toml_panics(
            section in "run|train|data|data\\.sources|[a-z`\"'. ]{0,6}",
            key in "steps|sources|kind|seed|[a-z`\"'., ]{0,8}",
            value in "-?[0-9.e]{1,6}|'.{0,5}'|\\[[0-9,{}a=]{0,6}\\]|\\{ kind = 'world', [a-z]{0,4} = 1 \\}",
        ) {
            for text in [format!("[{section}]\n{key} = {value}\n"), format!("[[{section}]]\n{key} = {value}\n")] {
                if let Err(error) = read(&text, &[&format!("{section}.{key}={value}")]) {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }
}
