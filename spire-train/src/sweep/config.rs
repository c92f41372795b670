//! The configuration of a sweep: a base configuration, variants of it and seeds.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use spire_core::settings::Keys;
use spire_eval::evaluation::{MethodConfig, MethodKind};
use toml::Table;

/// A sweep: a file such as `configs/sweeps/smallest.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepConfig {
    /// The name of the sweep.
    pub name: String,
    /// The configuration of which all variants are changes.
    pub base: PathBuf,
    /// The folder for runs and results; by default `sweeps/NAME`.
    pub output: Option<PathBuf>,
    /// The folder for runs; by default `runs` in the output folder. Sweeps with the same folder share their cells.
    pub runs: Option<PathBuf>,
    /// Each variant is trained once with each seed, as `run.seed`.
    pub seeds: Vec<u64>,
    /// Cells that train at the same time on each device.
    pub parallel: usize,
    /// Devices; each takes the next cell when it is free. If empty, cells use `run.device` of their configuration.
    pub devices: Vec<String>,
    /// Keys of the configuration that change for all variants: `train.steps = 100`.
    pub set: Table,
    /// Named variants.
    pub variants: Vec<VariantConfig>,
    /// Lists of values; every combination is a variant. With `variants`, every combination of each variant.
    pub grid: Table,
    /// The row to which all others are compared, seed by seed: a variant, or with methods `VARIANT, METHOD`.
    pub against: Option<String>,
    /// The test sets on which all cells are measured. Without it, the table has the figures at the end of training.
    pub evaluation: Option<SweepEvaluation>,
}

impl Keys for SweepConfig {}

impl Default for SweepConfig {
    fn default() -> Self {
        Self {
            name: "sweep".to_owned(),
            base: "configs/tiny.toml".into(),
            output: None,
            runs: None,
            seeds: vec![1, 2, 3],
            parallel: 1,
            devices: vec![],
            set: Table::new(),
            variants: vec![],
            grid: Table::new(),
            against: None,
            evaluation: None,
        }
    }
}

/// A named variant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VariantConfig {
    /// The name of its row.
    pub name: String,
    /// The keys that it changes: `{ model.fusion = "add" }`.
    pub set: Table,
    /// How its runs restore, instead of the evaluation's methods.
    pub methods: Vec<MethodConfig>,
}

/// How the cells are measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepEvaluation {
    /// A configuration of `spire eval`. Only its methods of kind `input` and `folder` are kept.
    pub file: PathBuf,
    /// Keys of that file that change here: `{ clip = "runs/second-clip" }`.
    pub set: Table,
    /// How each cell's run restores; each method makes a row of every variant. They have the keys of a method
    /// (`semantic`, `restoration`, `sampling`, …) without a model. If empty: one method with both prompts.
    pub methods: Vec<MethodConfig>,
    /// Rank correlations of figures with the strength that the prompts of several methods request.
    pub trends: Vec<TrendConfig>,
}

/// Methods in the order of the strength that they request (paper, Figures 7 and 10).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrendConfig {
    /// The name of its row.
    pub title: String,
    /// Names of methods, at least three.
    pub methods: Vec<String>,
}

impl SweepConfig {
    /// Checks names and numbers. The keys of variants are checked when they are applied to the base configuration.
    ///
    /// # Errors
    /// A value is invalid; the error names the key.
    pub fn validate(&self) -> Result<()> {
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        let named = !self.name.is_empty() && !self.name.starts_with('.') && self.name.chars().all(plain);
        ensure!(named, "name = \"{}\": letters, digits, \"-\", \"_\" and \".\" only", self.name);
        ensure!(!self.seeds.is_empty(), "seeds is empty: there is nothing to train");
        for (i, seed) in self.seeds.iter().enumerate() {
            ensure!(!self.seeds[..i].contains(seed), "seeds: {seed} is listed twice");
        }
        for (key, folder) in [("output", &self.output), ("runs", &self.runs)] {
            let empty = folder.as_ref().is_some_and(|folder| folder.as_os_str().is_empty());
            ensure!(!empty, "{key} is empty: name a folder");
        }
        ensure!((1..=1024).contains(&self.parallel), "parallel must be from 1 to 1024");
        for (i, variant) in self.variants.iter().enumerate() {
            ensure!(!variant.name.is_empty(), "variants.{i}.name is not set");
            check_methods(&format!("variants.{i}.methods"), &variant.methods)?;
        }
        let Some(evaluation) = &self.evaluation else { return Ok(()) };
        check_methods("evaluation.methods", &evaluation.methods)?;
        for (i, trend) in evaluation.trends.iter().enumerate() {
            let key = format!("evaluation.trends.{i}");
            ensure!(!trend.title.is_empty(), "{key}.title is not set");
            ensure!(trend.methods.len() > 2, "{key}.methods: at least three are needed");
            let unknown = |name: &&String| !evaluation.methods.iter().any(|method| method.name == **name);
            if let Some(name) = trend.methods.iter().find(unknown) {
                bail!("{key}.methods: \"{name}\" is not one of evaluation.methods");
            }
        }
        Ok(())
    }
}

fn check_methods(key: &str, methods: &[MethodConfig]) -> Result<()> {
    for (i, method) in methods.iter().enumerate() {
        let key = format!("{key}.{i}");
        ensure!(!method.name.is_empty(), "{key}.name is not set");
        ensure!(method.kind == MethodKind::Model, "{key}.kind: each cell's run is the model; remove the key");
        let own = method.run.is_some() || method.base.is_some() || method.control.is_some();
        ensure!(!own, "{key}: run, base and control can't be set: each cell's run is the model");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        toml::from_str::<SweepConfig>(text).unwrap().validate().unwrap_err().to_string()
    }

    #[test]
    fn the_error_names_an_invalid_key() {
        SweepConfig::default().validate().unwrap();
        for (text, part) in [
            ("name = 'a/b'", "name = \"a/b\""),
            ("output = ''", "output is empty"),
            ("runs = ''", "runs is empty"),
            ("seeds = []", "seeds is empty"),
            ("seeds = [3, 1, 3]", "seeds: 3 is listed twice"),
            ("parallel = 0", "parallel must be"),
            ("[[variants]]\nset = { model.fusion = 'add' }", "variants.0.name"),
            ("[[evaluation.methods]]", "evaluation.methods.0.name"),
            ("[[evaluation.methods]]\nname = 'a'\nrun = 'runs/a'", "run, base and control"),
            ("[[evaluation.methods]]\nname = 'a'\nkind = 'input'", "evaluation.methods.0.kind"),
            ("[[variants]]\nname = 'v'\nmethods = [{ name = 'a', run = 'r' }]", "variants.0.methods.0: run"),
            ("[[evaluation.trends]]", "evaluation.trends.0.title"),
            ("[[evaluation.trends]]\ntitle = 't'\nmethods = ['a', 'b']", "evaluation.trends.0.methods: at least three"),
            ("[[evaluation.trends]]\ntitle = 't'\nmethods = ['a', 'b', 'c']", "\"a\" is not one of"),
        ] {
            assert!(error(text).contains(part), "{text}: {}", error(text));
        }
    }
}
