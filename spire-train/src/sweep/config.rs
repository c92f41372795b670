//! What is swept: a base configuration, variants of it, seeds.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use spire_eval::evaluation::{MethodConfig, MethodKind};
use toml::Table;

/// A sweep: a file such as `configs/sweeps/smallest.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepConfig {
    /// What the sweep is called.
    pub name: String,
    /// The configuration that all variants start from.
    pub base: PathBuf,
    /// The folder for runs and results; unset, `sweeps/NAME`.
    pub output: Option<PathBuf>,
    /// The folder for runs; unset, `runs` within the output. Sweeps that name the same one share their cells.
    pub runs: Option<PathBuf>,
    /// Every variant is trained once with each, as `run.seed`.
    pub seeds: Vec<u64>,
    /// Cells that are trained at a time, on each device.
    pub parallel: usize,
    /// Devices that cells are trained on, each taking the next; empty, `run.device` of the configuration.
    pub devices: Vec<String>,
    /// Keys of the configuration that are the same for all: `train.steps = 100`.
    pub set: Table,
    /// Variants by name.
    pub variants: Vec<VariantConfig>,
    /// Variants by lists of values: every combination. With `variants`, of each of them.
    pub grid: Table,
    /// Benchmarks that all cells are measured on; unset, the table has the figures at the end of training.
    pub evaluation: Option<SweepEvaluation>,
}

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
            evaluation: None,
        }
    }
}

/// A variant by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VariantConfig {
    /// What its row is called.
    pub name: String,
    /// The keys in which it differs: `{ model.fusion = "add" }`.
    pub set: Table,
    /// How its runs restore, in place of the evaluation's methods.
    pub methods: Vec<MethodConfig>,
}

/// What the cells are measured by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepEvaluation {
    /// A file of `spire eval`. Of its methods those stay that need no model of this project (`input`, `folder`).
    pub file: PathBuf,
    /// Keys of that file which are other here: `{ clip = "runs/second-clip" }`.
    pub set: Table,
    /// How every cell's run restores, each making a row of every variant: `semantic`, `restoration`, `sampling` and the other
    /// keys of a method, without a model. None: once, with both prompts.
    pub methods: Vec<MethodConfig>,
    /// How the figures of a picture follow a strength, over methods that ask for more and more of it.
    pub trends: Vec<TrendConfig>,
}

/// Methods in the order of the strength that they ask for (the paper's Figures 7 and 10).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrendConfig {
    /// What its row is called.
    pub title: String,
    /// Names of methods, three at least.
    pub methods: Vec<String>,
}

impl SweepConfig {
    /// Whether names and numbers make sense; the variants' keys are checked where they are laid over the base.
    ///
    /// # Errors
    /// Names the first key that does not.
    pub fn validate(&self) -> Result<()> {
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        let named = !self.name.is_empty() && !self.name.starts_with('.') && self.name.chars().all(plain);
        ensure!(named, "name = \"{}\": letters, digits, \"-\", \"_\" and \".\" only", self.name);
        ensure!(!self.seeds.is_empty(), "seeds is empty: there is nothing to train");
        for (i, seed) in self.seeds.iter().enumerate() {
            ensure!(!self.seeds[..i].contains(seed), "seeds: {seed} is there twice");
        }
        ensure!(self.parallel > 0, "parallel must be at least 1");
        for (i, variant) in self.variants.iter().enumerate() {
            ensure!(!variant.name.is_empty(), "variants.{i}.name is not set");
            check_methods(&format!("variants.{i}.methods"), &variant.methods)?;
        }
        let Some(evaluation) = &self.evaluation else { return Ok(()) };
        check_methods("evaluation.methods", &evaluation.methods)?;
        for (i, trend) in evaluation.trends.iter().enumerate() {
            let key = format!("evaluation.trends.{i}");
            ensure!(!trend.title.is_empty(), "{key}.title is not set");
            ensure!(trend.methods.len() > 2, "{key}.methods: fewer than three have no trend");
            let unknown = |name: &&String| !evaluation.methods.iter().any(|method| method.name == **name);
            if let Some(name) = trend.methods.iter().find(unknown) {
                bail!("{key}.methods: \"{name}\" is none of evaluation.methods");
            }
        }
        Ok(())
    }
}

fn check_methods(key: &str, methods: &[MethodConfig]) -> Result<()> {
    for (i, method) in methods.iter().enumerate() {
        let key = format!("{key}.{i}");
        ensure!(!method.name.is_empty(), "{key}.name is not set");
        ensure!(method.kind == MethodKind::Model, "{key}.kind: each cell's run is the model; leave the key out");
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
    fn what_makes_no_sense_is_named() {
        SweepConfig::default().validate().unwrap();
        for (text, part) in [
            ("name = 'a/b'", "name = \"a/b\""),
            ("seeds = []", "seeds is empty"),
            ("seeds = [3, 1, 3]", "seeds: 3 is there twice"),
            ("parallel = 0", "parallel must be"),
            ("[[variants]]\nset = { model.fusion = 'add' }", "variants.0.name"),
            ("[[evaluation.methods]]", "evaluation.methods.0.name"),
            ("[[evaluation.methods]]\nname = 'a'\nrun = 'runs/a'", "run, base and control"),
            ("[[evaluation.methods]]\nname = 'a'\nkind = 'input'", "evaluation.methods.0.kind"),
            ("[[variants]]\nname = 'v'\nmethods = [{ name = 'a', run = 'r' }]", "variants.0.methods.0: run"),
            ("[[evaluation.trends]]", "evaluation.trends.0.title"),
            ("[[evaluation.trends]]\ntitle = 't'\nmethods = ['a', 'b']", "evaluation.trends.0.methods: fewer"),
            ("[[evaluation.trends]]\ntitle = 't'\nmethods = ['a', 'b', 'c']", "\"a\" is none of"),
        ] {
            assert!(error(text).contains(part), "{text}: {}", error(text));
        }
    }
}
