//! The figures of a sweep: for each variant the mean over seeds, with its standard error.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use spire_eval::evaluation::{BenchmarkResults, Metric, Results};

use super::cells::{Cell, State, row_of_seed};
use super::config::SweepConfig;
use super::statistics::Estimate;
use super::trends::{self, Trend};

/// `results.json`.
#[derive(Clone, Debug, Serialize)]
pub struct SweepResults {
    /// The sweep's name.
    pub name: String,
    /// The program that trained, with its version.
    pub program: String,
    /// The configuration of the sweep.
    pub sweep: SweepConfig,
    /// The columns of the table.
    pub columns: Vec<ResultColumn>,
    /// The rows of the table.
    pub rows: Vec<ResultRow>,
    /// Rank correlations with a requested strength.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trends: Vec<Trend>,
    /// Each variant with each seed.
    pub cells: Vec<CellResult>,
    /// Remarks below the table.
    pub notes: Vec<String>,
    /// Why the requested evaluation is missing.
    pub evaluation_failed: Option<String>,
}

/// A column of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultColumn {
    /// The test set; empty for figures at the end of training.
    pub group: String,
    /// The metric.
    pub name: String,
    /// Whether higher is better; `None` if neither is.
    pub rises: Option<bool>,
    /// Digits after the decimal point.
    pub decimals: usize,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct ResultRow {
    /// Its name.
    pub name: String,
    /// The variant; `None` for methods of the evaluation without a model.
    pub variant: Option<String>,
    /// One per column; `None` if it was not measured.
    pub figures: Vec<Option<Estimate>>,
}

/// A variant with a seed.
#[derive(Clone, Debug, Serialize)]
pub struct CellResult {
    /// The variant.
    pub variant: String,
    /// The seed.
    pub seed: u64,
    /// The changes of the variant, `key = value`.
    pub changes: Vec<String>,
    /// Its progress.
    #[serde(flatten)]
    pub state: State,
    /// The run folder.
    pub folder: PathBuf,
    /// The file with its full configuration.
    pub configuration: PathBuf,
    /// The commands that trained it.
    pub commands: Vec<String>,
    /// The run's `summary.json`.
    pub summary: Option<Value>,
}

impl SweepResults {
    /// Collects the figures from the run folders and from the evaluation. `evaluated` is `Err` with the reason if a
    /// requested evaluation failed.
    ///
    /// # Errors
    /// A file of a run can't be read.
    pub fn collect(config: &SweepConfig, cells: &[Cell], evaluated: Option<Result<Results, String>>) -> Result<Self> {
        let read = cells.iter().map(CellResult::read).collect::<Result<Vec<_>>>()?;
        let mut results = Self {
            name: config.name.clone(),
            program: concat!("spire ", env!("CARGO_PKG_VERSION")).to_owned(),
            sweep: config.clone(),
            columns: vec![],
            rows: vec![],
            trends: vec![],
            cells: read,
            notes: vec![],
            evaluation_failed: None,
        };
        match evaluated {
            Some(Ok(evaluated)) => {
                results.add_evaluation(&evaluated, cells);
                results.trends = trends::of(config, cells, &evaluated);
            }
            Some(Err(reason)) => {
                results
                    .notes
                    .push(format!("The evaluation is missing, so these are the figures of training: {reason}."));
                results.evaluation_failed = Some(reason);
                results.add_training(cells)?;
            }
            None => results.add_training(cells)?,
        }
        Ok(results)
    }

    /// Whether every cell is trained, and evaluated if the sweep has an evaluation.
    pub fn is_complete(&self) -> bool {
        self.cells.iter().all(|cell| cell.state == State::Done)
            && self.evaluation_failed.is_none()
            && self
                .rows
                .iter()
                .all(|row| row.figures.iter().flatten().any(|figure| figure.values.len() == self.seeds_of(row)))
    }

    /// The cells of a row's variant.
    pub(super) fn cells_of(&self, row: &ResultRow) -> impl Iterator<Item = &CellResult> {
        self.cells.iter().filter(move |cell| Some(&cell.variant) == row.variant.as_ref())
    }

    /// The number of values of a complete figure of a row.
    pub(super) fn seeds_of(&self, row: &ResultRow) -> usize {
        self.cells_of(row).count().max(1)
    }

    /// The names of the variants, in order.
    fn variants(&self) -> Vec<String> {
        let mut variants: Vec<String> = self.cells.iter().map(|cell| cell.variant.clone()).collect();
        variants.dedup();
        variants
    }

    /// Adds the figures at the end of training.
    fn add_training(&mut self, cells: &[Cell]) -> Result<()> {
        let mut figures: Vec<BTreeMap<&str, f64>> = vec![];
        for (cell, result) in cells.iter().zip(&self.cells) {
            let mut of_cell = BTreeMap::new();
            if let (State::Done, Some(summary)) = (&result.state, &result.summary) {
                for (column, path) in TRAINING {
                    of_cell.extend(summary.pointer(path).and_then(Value::as_f64).map(|value| (column.0, value)));
                }
                let validations = cell.steps()?;
                let validation = validations.iter().rev().find_map(|step| step.more.get("validation_loss").copied()?);
                of_cell.extend(validation.map(|loss| (VALIDATION.0, loss)));
            }
            figures.push(of_cell);
        }
        let known: Vec<_> = TRAINING
            .map(|(column, _)| column)
            .into_iter()
            .chain([VALIDATION])
            .filter(|(name, ..)| figures.iter().any(|of_cell| of_cell.contains_key(name)))
            .collect();
        self.columns = known
            .iter()
            .map(|&(name, rises, decimals)| ResultColumn { group: String::new(), name: name.into(), rises, decimals })
            .collect();
        for variant in self.variants() {
            let of_column = |name: &str| {
                let of_variant = self.cells.iter().zip(&figures).filter(|(cell, _)| cell.variant == variant);
                Estimate::of(
                    of_variant.filter_map(|(cell, of)| Some((cell.seed.to_string(), *of.get(name)?))).collect(),
                )
            };
            let figures = known.iter().map(|(name, ..)| of_column(name)).collect();
            self.rows.push(ResultRow { name: variant.clone(), variant: Some(variant), figures });
        }
        Ok(())
    }

    /// Adds the figures of each test set.
    fn add_evaluation(&mut self, evaluated: &Results, cells: &[Cell]) {
        let mut columns: Vec<(&BenchmarkResults, Metric)> = vec![];
        for benchmark in &evaluated.benchmarks {
            let there = |metric: &Metric| benchmark.methods.iter().any(|method| method.figures.contains_key(metric));
            columns.extend(Metric::ALL.into_iter().filter(there).map(|metric| (benchmark, metric)));
        }
        self.columns = columns
            .iter()
            .map(|(benchmark, metric)| ResultColumn {
                group: benchmark.title.clone(),
                name: metric.name().into(),
                rises: Some(metric.rises()),
                decimals: metric.decimals(),
            })
            .collect();
        let value = |(benchmark, metric): &(&BenchmarkResults, Metric), method: &str| {
            Some(benchmark.method(method)?.figures.get(metric)?.value)
        };
        let mut of_cells = vec![];
        let mut rows = vec![];
        for of_variant in cells.chunk_by(|a, b| a.variant == b.variant) {
            for row in of_variant[0].rows() {
                let name = |cell: &Cell| (cell.seed.to_string(), row_of_seed(&row, cell.seed));
                let names: Vec<(String, String)> = of_variant.iter().map(name).collect();
                let estimate = |column| {
                    let values = names.iter().filter_map(|(seed, name)| Some((seed.clone(), value(column, name)?)));
                    Estimate::of(values.collect())
                };
                let figures = columns.iter().map(estimate).collect();
                of_cells.extend(names.into_iter().map(|(_, name)| name));
                rows.push(ResultRow { name: row, variant: Some(of_variant[0].variant.clone()), figures });
            }
        }
        for method in evaluated.methods.iter().filter(|method| !of_cells.contains(&method.name)) {
            let once = |column| {
                Estimate::of(value(column, &method.name).map(|value| (String::new(), value)).into_iter().collect())
            };
            let figures = columns.iter().map(once).collect();
            self.rows.push(ResultRow { name: method.name.clone(), variant: None, figures });
        }
        self.rows.extend(rows);
        self.notes.push("evaluation/tables.md says how every figure was measured, and has a row for each seed.".into());
        for (metric, needed) in &evaluated.missing {
            self.notes.push(format!("{} is missing: {needed}.", metric.name()));
        }
        self.notes.extend(evaluated.cautions.iter().cloned());
        for benchmark in &evaluated.benchmarks {
            for (method, reason) in &benchmark.unmeasured {
                self.notes.push(format!("{method} was not measured on “{}”: {reason}.", benchmark.title));
            }
        }
    }
}

/// Name, whether higher is better, digits after the decimal point.
type Column = (&'static str, Option<bool>, usize);

/// Figures in `summary.json`, and where they are.
const TRAINING: [(Column, &str); 5] = [
    (("PSNR", Some(true), 2), "/held_out/restored/psnr"),
    (("SSIM", Some(true), 3), "/held_out/restored/ssim"),
    (("Fréchet (CLIP)", Some(false), 3), "/held_out/restored/clip_frechet"),
    (("training loss", Some(false), 4), "/last_smoothed_loss"),
    (("images/s", None, 1), "/images_per_second"),
];

/// The last validation loss.
const VALIDATION: Column = ("validation loss", Some(false), 4);

impl CellResult {
    fn read(cell: &Cell) -> Result<Self> {
        let state = cell.state();
        let summary = match state {
            State::Done => Some(serde_json::from_slice(&fs::read(cell.run().summary())?)?),
            _ => None,
        };
        let commands = fs::read_to_string(cell.commands()).unwrap_or_default();
        Ok(Self {
            variant: cell.variant.clone(),
            seed: cell.seed,
            changes: cell.changes.clone(),
            state,
            folder: cell.config.run.dir.clone(),
            configuration: cell.config_file(),
            commands: commands.lines().map(str::to_owned).collect(),
            summary,
        })
    }
}
