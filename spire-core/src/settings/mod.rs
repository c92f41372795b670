//! Typed TOML settings whose errors name the file, the line, the key and the nearest valid key.
//!
//! The file is read, overrides (`--set section.key=value`) are applied, and the result is deserialised into a struct.
//! The struct alone defines the keys, their types and their defaults. A key that a section lacks has its value in the
//! default of the whole struct.

mod deserialize;
mod differences;
mod error;
mod explain;
mod overrides;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use deserialize::Node;
pub use differences::{Difference, differences};
pub use error::SettingsError;
use explain::explain;
use overrides::Override;
pub use tree::line_of;
use tree::{deepest_line, position};

/// The most bytes of settings.
const MOST_BYTES: u64 = 1 << 24;

/// A struct that settings are read into.
pub trait Keys: DeserializeOwned + Serialize + Default {
    /// Sets keys that `settings` lacks and whose default depends on other keys. Without any, it does nothing. A key of the
    /// wrong type is left for the error that follows.
    fn fill_in(settings: &mut Table) {
        let _ = settings;
    }
}

/// Reads the settings in the file at `path` and applies `overrides` of the form `section.key=value` in order.
///
/// An override whose value is not valid TOML is a string, so that `run.device=cuda:0` needs no quotes. Keys of array
/// elements are numbers from 0: `data.sources.0.dir=photos`.
///
/// # Errors
/// The file can't be read or is not TOML; a key is unknown, missing or has a value of the wrong type.
pub fn load<T: Keys>(path: &Path, overrides: &[String]) -> Result<T, SettingsError> {
    let text = read(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    parse(&text, path, overrides)
}

/// The text of a file, or of a pipe, of at most [`MOST_BYTES`].
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MOST_BYTES} bytes of settings")));
    }
    Ok(text)
}

/// As [`load`], for the content `text` of a file. `path` is only used in errors.
///
/// # Errors
/// As [`load`].
pub fn parse<T: Keys>(text: &str, path: &Path, overrides: &[String]) -> Result<T, SettingsError> {
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
    let mut completed = settings.clone();
    if let Value::Table(completed) = &mut completed {
        T::fill_in(completed);
        complete(completed, Table::try_from(T::default())?);
    }
    serde_path_to_error::deserialize(Node(completed)).map_err(|error| {
        let (keys, message) = explain::<T>(&settings, &error);
        SettingsError::Key { origin: origin(&keys, path, text, &document, &overrides), message }
    })
}

/// Adds the keys of `defaults` that the sections of `settings` lack.
fn complete(settings: &mut Table, defaults: Table) {
    for (key, default) in defaults {
        match (settings.get_mut(&key), default) {
            (Some(Value::Table(section)), Value::Table(defaults)) => complete(section, defaults),
            (Some(_), _) => {}
            (None, default) => _ = settings.insert(key, default),
        }
    }
}

/// The settings as TOML with all keys; [`parse`] reads it back as an equal value.
///
/// # Errors
/// A value that TOML can't represent, such as an integer above `i64::MAX`.
pub fn resolved<T: Serialize>(settings: &T) -> Result<String, SettingsError> {
    Ok(toml::to_string_pretty(settings)?)
}

/// Where the value at `keys` comes from: the override that set it, or its line in the file.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::path::PathBuf;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        run: Run,
        train: Train,
        data: Data,
        stage: Stage,
    }

    /// A section with a part whose defaults are its own.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Stage {
        run: Run,
    }

    impl Default for Stage {
        fn default() -> Self {
            Self { run: Run { seed: 9, ..Run::default() } }
        }
    }

    impl Keys for Settings {
        /// A run on a GPU has another seed, unless it is set.
        fn fill_in(settings: &mut Table) {
            if let Some(Value::Table(run)) = settings.get_mut("run")
                && run.get("device").and_then(Value::as_str) == Some("gpu")
            {
                run.entry("seed").or_insert(Value::Integer(7));
            }
        }
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
    fn a_default_may_depend_on_another_key() {
        let seed = |text: &str, change: &[&str]| read(text, change).unwrap().run.seed;
        assert_eq!(seed("run.device = 'gpu'", &[]), 7);
        assert_eq!(seed(TEXT, &["run.device=gpu"]), 7);
        assert_eq!([seed("run.device = 'gpu'\nrun.seed = 3", &[]), seed(TEXT, &[])], [3, 1]);
        assert!(error("run = 3", &[]).contains("must be a section"));
    }

    #[test]
    fn a_section_with_some_keys_keeps_its_other_defaults() {
        let run = |text: &str, change: &[&str]| read(text, change).unwrap().stage.run;
        assert_eq!(run("[stage.run]\ndir = 'b'", &[]), Run { dir: "b".into(), ..Stage::default().run });
        assert_eq!(run("", &["stage.run.dir=b"]).seed, 9);
        assert_eq!(run("[stage.run]\nseed = 2", &[]).seed, 2);
    }

    #[test]
    fn keys_in_the_file_replace_the_defaults() {
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
    fn an_override_may_add_a_section_and_a_string_needs_no_quotes() {
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
    fn a_key_in_the_wrong_section_suggests_the_right_one() {
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
    fn a_key_without_a_similar_one_lists_the_valid_ones() {
        assert_eq!(
            error("[run]\nqqqqqq = 3\n", &[]),
            "configs/tiny.toml:2: unknown key \"run.qqqqqq\"; valid here, nearest first: dir, seed, device"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_the_right_type() {
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
            ("train = [1]", "\"train\" must be a section, found an array"),
            ("run.dir = 2", "\"run.dir\" must be a path in quotes, found the integer 2"),
            ("data.blur.sigma = [1, 'b']", "\"data.blur.sigma.1\" must be a number, found the string \"b\""),
            ("data.sources = 1", "\"data.sources\" must be an array, found the integer 1"),
            ("train.schedule = 3", "\"train.schedule\" must be a name in quotes, found the integer 3"),
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
    fn an_error_in_the_file_names_the_file_beside_a_good_override() {
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
            // The result does not matter here: this test fails only on a panic.
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
