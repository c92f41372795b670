//! Expands a sweep into its cells: each variant applied to the base configuration, with each seed.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use spire_core::settings::{self, Keys, SettingsError};
use spire_eval::evaluation::{EvalConfig, MethodConfig, slug};
use toml::{Table, Value};

use super::cells::Cell;
use super::config::{SweepConfig, SweepEvaluation};
use crate::config::RunConfig;

/// Keys that the sweep sets itself, and the key of the sweep that replaces each.
const OWN_KEYS: [(&str, &str); 2] = [("run.dir", "output"), ("run.seed", "seeds")];

/// One key of the configuration and its value.
#[derive(Clone, Debug)]
struct Assignment {
    key: String,
    value: Value,
    /// Its place in the sweep's file.
    at: Vec<String>,
}

impl Assignment {
    /// In the form that [`settings::load`] accepts.
    fn text(&self) -> String {
        format!("{}={}", self.key, self.value)
    }
}

/// A variant: a name and its changes.
#[derive(Clone, Debug)]
struct Variant {
    name: String,
    changes: Vec<Assignment>,
    methods: Vec<MethodConfig>,
}

/// The cells of a sweep, variant by variant. `path` and `text` are the sweep's file, for error messages. Run folders
/// are in `runs`.
///
/// # Errors
/// A key is unknown in the base configuration or its value does not fit; a key is set twice; two variants have the same
/// folder name.
pub fn expand(config: &SweepConfig, path: &Path, text: &str, runs: &Path) -> Result<Vec<Cell>> {
    let at = |keys: &[String]| place(path, text, keys);
    let common = flat(&config.set, &["set".to_owned()]);
    let mut cells: Vec<Cell> = vec![];
    for variant in variants(config, &at)? {
        let set: Vec<&Assignment> = common.iter().chain(&variant.changes).collect();
        for (i, assignment) in set.iter().enumerate() {
            if let Some((key, instead)) = OWN_KEYS.iter().find(|(key, _)| *key == assignment.key) {
                bail!("{}: {key} is set by the sweep; write {instead} = … above all sections", at(&assignment.at));
            }
            ensure!(
                config.devices.is_empty() || assignment.key != "run.device",
                "{}: run.device is set by devices",
                at(&assignment.at)
            );
            // A variant may override a common key, but may set each key only once.
            let own = if i < common.len() { 0 } else { common.len() };
            if let Some(other) = set[own..i].iter().find(|other| other.key == assignment.key) {
                bail!("{}: {} is set already, by {}", at(&assignment.at), assignment.key, at(&other.at));
            }
        }
        let folder = slug(&variant.name);
        ensure!(!folder.is_empty(), "variant \"{}\": the name needs a letter or a digit", variant.name);
        if let Some(other) = cells.iter().find(|cell| slug(&cell.variant) == folder) {
            bail!(
                "{}: variants \"{}\" and \"{}\" have the same folder name",
                path.display(),
                other.variant,
                variant.name
            );
        }
        let base: RunConfig = load(&config.base, &set, &at)?;
        let context = || format!("{}: variant \"{}\"", path.display(), variant.name);
        base.validate().with_context(context)?;
        ensure!(base.train.epochs.is_none(), "{}: train.epochs: a sweep counts steps; set train.steps", context());
        let of_all = config.evaluation.as_ref().map_or(&[][..], |evaluation| &evaluation.methods);
        let methods = match (&variant.methods[..], of_all) {
            ([], []) => vec![MethodConfig::default()],
            ([], of_all) => of_all.to_vec(),
            (own, _) => own.to_vec(),
        };
        for &seed in &config.seeds {
            let mut of_cell = base.clone();
            of_cell.run.seed = seed;
            of_cell.run.dir = runs.join(&folder).join(format!("seed-{seed}"));
            cells.push(Cell {
                variant: variant.name.clone(),
                seed,
                changes: variant.changes.iter().map(|change| format!("{} = {}", change.key, change.value)).collect(),
                config: of_cell,
                methods: methods.clone(),
            });
        }
    }
    Ok(cells)
}

/// The evaluation's configuration with `evaluation.set` of the sweep applied. `path` and `text` are the sweep's file.
///
/// # Errors
/// The configuration does not read; a key of `set` is unknown in it or its value does not fit.
pub fn evaluation_of(evaluation: &SweepEvaluation, path: &Path, text: &str) -> Result<EvalConfig> {
    let set = flat(&evaluation.set, &["evaluation".to_owned(), "set".to_owned()]);
    Ok(load(&evaluation.file, &set.iter().collect::<Vec<_>>(), &|keys| place(path, text, keys))?)
}

/// The place of a key: `FILE:LINE`.
fn place(path: &Path, text: &str, keys: &[String]) -> String {
    match settings::line_of(text, keys) {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

/// The named variants, each with every combination of the grid.
fn variants(config: &SweepConfig, at: &dyn Fn(&[String]) -> String) -> Result<Vec<Variant>> {
    let mut combinations = vec![Variant { name: String::new(), changes: vec![], methods: vec![] }];
    let lists = flat(&config.grid, &["grid".to_owned()]);
    for list in &lists {
        let Value::Array(values) = &list.value else {
            bail!("{}: grid: {} must be a list of values, found {}", at(&list.at), list.key, list.value);
        };
        ensure!(!values.is_empty(), "{}: grid: {} has no values", at(&list.at), list.key);
        let label = label(&list.key, &lists);
        let with = |combination: &Variant, (i, value): (usize, &Value)| {
            let value_text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let mut next = combination.clone();
            next.name = joined(&next.name, &format!("{label}={value_text}"));
            let at = [&list.at[..], &[i.to_string()]].concat();
            next.changes.push(Assignment { key: list.key.clone(), value: value.clone(), at });
            next
        };
        combinations = combinations
            .iter()
            .flat_map(|combination| values.iter().enumerate().map(move |value| (combination, value)))
            .map(|(combination, value)| with(combination, value))
            .collect();
    }
    let mut named: Vec<Variant> = vec![];
    for (i, variant) in config.variants.iter().enumerate() {
        let place = ["variants".to_owned(), i.to_string(), "set".to_owned()];
        let (name, methods) = (variant.name.clone(), variant.methods.clone());
        named.push(Variant { name, changes: flat(&variant.set, &place), methods });
    }
    if named.is_empty() {
        let name = if lists.is_empty() { "base".to_owned() } else { String::new() };
        named.push(Variant { name, changes: vec![], methods: vec![] });
    }
    let both = |variant: &Variant, combination: &Variant| Variant {
        name: joined(&variant.name, &combination.name),
        changes: [&variant.changes[..], &combination.changes].concat(),
        methods: variant.methods.clone(),
    };
    Ok(named.iter().flat_map(|variant| combinations.iter().map(|combination| both(variant, combination))).collect())
}

/// The entries of a table and of the tables in it, with dotted keys: `model.fusion = …`, quoted or not.
fn flat(table: &Table, place: &[String]) -> Vec<Assignment> {
    let mut found = vec![];
    for (key, value) in table {
        let at = [place, std::slice::from_ref(key)].concat();
        match value {
            Value::Table(inner) => {
                let inner = flat(inner, &at).into_iter();
                found.extend(inner.map(|below| Assignment { key: format!("{key}.{}", below.key), ..below }));
            }
            value => found.push(Assignment { key: key.clone(), value: value.clone(), at }),
        }
    }
    found
}

/// The last part of a key; the whole key if another list's key has the same last part.
fn label<'a>(key: &'a str, lists: &[Assignment]) -> &'a str {
    let last = |key: &'a str| key.rsplit('.').next().unwrap_or(key);
    let alike = lists.iter().filter(|list| list.key.rsplit('.').next() == Some(last(key))).count();
    if alike > 1 { key } else { last(key) }
}

fn joined(left: &str, right: &str) -> String {
    [left, right].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Loads settings with the keys in `set` applied. An error in one of them names its line in the sweep's file.
fn load<T: Keys>(file: &Path, set: &[&Assignment], at: &dyn Fn(&[String]) -> String) -> Result<T, SettingsError> {
    let overrides: Vec<String> = set.iter().map(|assignment| assignment.text()).collect();
    settings::load(file, &overrides).map_err(|error| {
        let SettingsError::Key { origin, message } = error else { return error };
        let source = set.iter().rev().find(|assignment| origin == format!("--set {}", assignment.text()));
        SettingsError::Key { origin: source.map_or(origin, |assignment| at(&assignment.at)), message }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spire_model::fusion::Fusion;

    fn expanded(text: &str) -> Result<Vec<Cell>> {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/tiny.toml");
        let text = format!("base = '{}'\n{text}", base.display());
        let config: SweepConfig = settings::parse(&text, Path::new("sweep.toml"), &[])?;
        expand(&config, Path::new("sweep.toml"), &text, Path::new("out/runs"))
    }

    fn names(text: &str) -> Vec<String> {
        let mut names: Vec<String> = expanded(text).unwrap().into_iter().map(|cell| cell.variant).collect();
        names.dedup();
        names
    }

    fn error(text: &str) -> String {
        format!("{:#}", expanded(text).unwrap_err())
    }

    #[test]
    fn each_variant_and_seed_is_a_cell() {
        let text = "seeds = [5, 7]\n[set]\ntrain.steps = 9\n\
            [[variants]]\nname = 'Add, plain'\nset = { 'model.fusion' = 'add' }\n\
            [[variants]]\nname = 'Skip'\nset = { train.steps = 11 }\n";
        let cells = expanded(text).unwrap();
        let found: Vec<_> = cells
            .iter()
            .map(|cell| {
                (cell.variant.as_str(), cell.config.run.seed, cell.config.train.steps, cell.config.model.fusion)
            })
            .collect();
        assert_eq!(
            found,
            [
                ("Add, plain", 5, 9, Some(Fusion::Add)),
                ("Add, plain", 7, 9, Some(Fusion::Add)),
                ("Skip", 5, 11, None),
                ("Skip", 7, 11, None),
            ]
        );
        assert_eq!(cells[1].config.run.dir, Path::new("out/runs/add-plain/seed-7"));
        assert_eq!(cells[0].changes, ["model.fusion = \"add\""]);
        // Other keys keep the value of the base.
        assert_eq!(cells[0].config.data.source.count, 4000);
    }

    #[test]
    fn a_grid_is_every_combination() {
        let grid =
            "seeds = [1]\n[grid]\nmodel.fusion = ['add', 'modulate_skip']\n'train.learning_rate' = [1e-3, 1e-4]\n";
        assert_eq!(
            names(grid),
            [
                "fusion=add, learning_rate=0.001",
                "fusion=add, learning_rate=0.0001",
                "fusion=modulate_skip, learning_rate=0.001",
                "fusion=modulate_skip, learning_rate=0.0001",
            ]
        );
        let both =
            format!("{grid}[[variants]]\nname = 'short'\nset = {{ train.steps = 2 }}\n[[variants]]\nname = 'long'\n");
        assert_eq!(names(&both).len(), 8);
        assert_eq!(names(&both)[4], "long, fusion=add, learning_rate=0.001");
        let alike = "[grid]\ntrain.batch_size = [1]\nevaluate.batch_size = [2]\nevaluate.rows = [1]";
        assert_eq!(names(alike), ["evaluate.batch_size=2, rows=1, train.batch_size=1"]);
        assert_eq!(names("seeds = [1, 2]"), ["base"]);
    }

    fn evaluation_with(set: &str) -> Result<EvalConfig> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/benchmarks/evidence.toml");
        let text = format!("[evaluation]\nfile = '{}'\n{set}", file.display());
        let config: SweepConfig = settings::parse(&text, Path::new("sweep.toml"), &[])?;
        evaluation_of(&config.evaluation.unwrap(), Path::new("sweep.toml"), &text)
    }

    #[test]
    fn an_evaluation_is_its_file_with_changes() {
        let (plain, other) =
            (evaluation_with("").unwrap(), evaluation_with("set = { clip = 'c', sampling.steps = 3 }").unwrap());
        assert_eq!((other.clip.as_path(), other.sampling.steps), (Path::new("c"), 3));
        assert_eq!(other.sampling.guidance_scale, plain.sampling.guidance_scale);
        assert_eq!(other.methods.len(), plain.methods.len());
        assert_ne!(plain.clip, other.clip);
        let error = format!("{:#}", evaluation_with("\nset = { clipp = 'c' }").unwrap_err());
        assert!(error.starts_with("sweep.toml:4: unknown key \"clipp\""), "{error}");
    }

    #[test]
    fn errors_name_the_line() {
        for (text, expected) in [
            ("[set]\ntrain.stepz = 3", "sweep.toml:3: unknown key \"train.stepz\"; did you mean \"train.steps\"?"),
            (
                "[[variants]]\nname = 'a'\n\n[[variants]]\nname = 'b'\nset = { 'model.fusio' = 'add' }",
                "sweep.toml:7: unknown key \"model.fusio\"; did you mean \"model.fusion\"?",
            ),
            (
                "[grid]\ntrain.steps = [\n10,\n'many',\n]",
                "sweep.toml:5: \"train.steps\" must be an integer, found the string \"many\"",
            ),
            ("[grid]\ntrain.steps = 3", "sweep.toml:3: grid: train.steps must be a list of values, found 3"),
            ("[grid]\ntrain.steps = []", "sweep.toml:3: grid: train.steps has no values"),
            ("[set]\nrun.seed = 3", "sweep.toml:3: run.seed is set by the sweep; write seeds = … above all sections"),
            ("devices = ['flex']\n[set]\nrun.device = 'flex'", "sweep.toml:4: run.device is set by devices"),
            ("[set]\n'train.steps' = 3\ntrain.steps = 4", "sweep.toml:3: train.steps is set already, by sweep.toml:4"),
            (
                "[[variants]]\nname = 'A b'\n[[variants]]\nname = 'a-B'",
                "sweep.toml: variants \"A b\" and \"a-B\" have the same folder name",
            ),
            ("[[variants]]\nname = '…'", "variant \"…\": the name needs a letter or a digit"),
            (
                "[set]\ntrain.epochs = 2.0",
                "sweep.toml: variant \"base\": train.epochs: a sweep counts steps; set train.steps",
            ),
            ("[set]\ntrain.steps = 0", "sweep.toml: variant \"base\": train.steps must be at least 1"),
            ("seedz = [1]", "sweep.toml:2: unknown key \"seedz\"; did you mean \"seeds\"?"),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
    }
}
