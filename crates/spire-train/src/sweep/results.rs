//! The figures of a sweep: for each variant a mean over seeds, and how far that could be off.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use spire_eval::evaluation::{Align, BenchmarkResults, Cell as TableCell, Metric, Notes, Results, Row, Table};

use super::cell::{Cell, State};
use super::config::SweepConfig;
use super::{Sweep, evaluation};

/// `results.json`.
#[derive(Clone, Debug, Serialize)]
pub struct SweepResults {
    /// The sweep's name.
    pub name: String,
    /// The program that trained.
    pub program: String,
    /// The sweep's file in full.
    pub sweep: SweepConfig,
    /// What was measured, from left to right.
    pub columns: Vec<ResultColumn>,
    /// The rows of the table.
    pub rows: Vec<ResultRow>,
    /// Every variant with every seed.
    pub cells: Vec<CellResult>,
    /// What should be known beside.
    pub notes: Vec<String>,
    /// Why there is no evaluation, where one was asked for and did not come about.
    pub evaluation_failed: Option<String>,
}

/// A column of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultColumn {
    /// The benchmark; empty for figures at the end of training.
    pub group: String,
    /// What was measured.
    pub name: String,
    /// Whether more is better; `None` where it is neither.
    pub rises: Option<bool>,
    /// Digits after the point.
    pub decimals: usize,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct ResultRow {
    /// What it is called.
    pub name: String,
    /// The variant; `None` for methods of the evaluation that are no model.
    pub variant: Option<String>,
    /// One for each column; `None` where nothing was measured.
    pub figures: Vec<Option<Estimate>>,
}

/// A mean over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Standard error of the mean: the sample's deviation over the root of its size. `None` of one value.
    pub standard_error: Option<f64>,
    /// The value of each seed; of a method without seeds one value without a name.
    pub values: BTreeMap<String, f64>,
}

/// A variant with a seed.
#[derive(Clone, Debug, Serialize)]
pub struct CellResult {
    /// The variant.
    pub variant: String,
    /// The seed.
    pub seed: u64,
    /// What the variant changes.
    pub changes: Vec<String>,
    /// How far it is.
    #[serde(flatten)]
    pub state: State,
    /// The run's folder.
    pub folder: PathBuf,
    /// The configuration in full.
    pub configuration: PathBuf,
    /// The commands that trained it.
    pub commands: Vec<String>,
    /// The run's summary.
    pub summary: Option<Value>,
}

impl Estimate {
    /// Of the values of some seeds; `None` of no values.
    pub fn of(values: BTreeMap<String, f64>) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.values().sum::<f64>() / count;
        let squares: f64 = values.values().map(|value| (value - mean).powi(2)).sum();
        let standard_error = (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
        (!values.is_empty()).then_some(Self { mean, standard_error, values })
    }
}

impl SweepResults {
    /// From the runs' folders, and from an evaluation: `Err` with the reason where one was asked for and there is none.
    ///
    /// # Errors
    /// The file of a run can't be read.
    pub fn collect(sweep: &Sweep, evaluated: Option<Result<Results, String>>) -> Result<Self> {
        let cells = sweep.cells.iter().map(CellResult::read).collect::<Result<Vec<_>>>()?;
        let mut results = Self {
            name: sweep.config.name.clone(),
            program: concat!("spire ", env!("CARGO_PKG_VERSION")).to_owned(),
            sweep: sweep.config.clone(),
            columns: vec![],
            rows: vec![],
            cells,
            notes: vec![],
            evaluation_failed: None,
        };
        match evaluated {
            Some(Ok(evaluated)) => results.add_evaluation(&evaluated),
            Some(Err(reason)) => {
                results.notes.push(format!("There are no benchmarks, but the figures of training: {reason}."));
                results.evaluation_failed = Some(reason);
                results.add_training(&sweep.cells)?;
            }
            None => results.add_training(&sweep.cells)?,
        }
        Ok(results)
    }

    /// Whether every cell is trained, and measured where that was asked for.
    pub fn is_complete(&self) -> bool {
        self.cells.iter().all(|cell| cell.state == State::Done)
            && self.evaluation_failed.is_none()
            && self.rows.iter().all(|row| {
                let seeds = self.cells_of(row).count().max(1);
                row.figures.iter().flatten().any(|figure| figure.values.len() == seeds)
            })
    }

    /// The variants, in their order.
    fn variants(&self) -> Vec<String> {
        let mut variants: Vec<String> = self.cells.iter().map(|cell| cell.variant.clone()).collect();
        variants.dedup();
        variants
    }

    /// The figures that each run ended with.
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

    /// The figures of each benchmark.
    fn add_evaluation(&mut self, evaluated: &Results) {
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
        let asked = self.sweep.evaluation.clone();
        let mut of_cells = vec![];
        let mut rows = vec![];
        for variant in self.variants() {
            let seeds = self.cells.iter().filter(|cell| cell.variant == variant).map(|cell| cell.seed);
            let seeds: Vec<u64> = seeds.collect();
            for row in evaluation::rows(asked.as_ref(), &variant) {
                let names: Vec<(String, String)> =
                    seeds.iter().map(|&seed| (seed.to_string(), evaluation::of_seed(&row, seed))).collect();
                let estimate = |column| {
                    let values = names.iter().filter_map(|(seed, name)| Some((seed.clone(), value(column, name)?)));
                    Estimate::of(values.collect())
                };
                let figures = columns.iter().map(estimate).collect();
                of_cells.extend(names.into_iter().map(|(_, name)| name));
                rows.push(ResultRow { name: row, variant: Some(variant.clone()), figures });
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
        self.notes.push("How every figure was measured, and each seed's row, is in evaluation/tables.md.".into());
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

    /// A row a variant: means over seeds with their standard errors, how many seeds there are, the best in bold.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&self.name);
        let mut notes = Notes::default();
        table.column("", "Variant", Align::Left);
        table.column("", "Seeds", Align::Right);
        for column in &self.columns {
            table.column(&column.group, &column.heading(), Align::Right);
        }
        let best: Vec<Option<f64>> = (0..self.columns.len()).map(|i| self.best(i)).collect();
        for row in &self.rows {
            let mut cells = vec![row.name.as_str().into(), self.seeds(row, &mut notes)];
            for ((figure, column), best) in row.figures.iter().zip(&self.columns).zip(&best) {
                let digits = column.decimals;
                cells.push(match figure {
                    Some(figure) => TableCell {
                        text: format!("{:.digits$}", figure.mean),
                        range: figure.standard_error.map_or(String::new(), |error| format!("± {error:.digits$}")),
                        mark: String::new(),
                        bold: *best == Some(figure.mean),
                    },
                    None => "–".into(),
                });
            }
            table.rows.push(Row { cells, quoted: false });
        }
        let of_all =
            "Mean over seeds ± its standard error (none of a single seed). Bold: the best of the rows with all seeds.";
        table.note(of_all);
        table.notes.extend(notes.0);
        self.notes.iter().for_each(|note| table.note(note));
        table
    }

    /// The same for programs: all digits, means and standard errors and numbers of seeds in columns of their own.
    pub fn plain_table(&self) -> Table {
        let mut table = Table::new(&self.name);
        table.column("", "Variant", Align::Left);
        for column in &self.columns {
            for heading in
                [column.name.clone(), format!("{} standard error", column.name), format!("{} seeds", column.name)]
            {
                table.column(&column.group, &heading, Align::Right);
            }
        }
        for row in &self.rows {
            let mut cells = vec![TableCell::from(row.name.as_str())];
            for figure in &row.figures {
                let figure = figure.as_ref();
                let number =
                    |value: Option<f64>| TableCell::from(value.map_or(String::new(), |value| value.to_string()));
                cells.push(number(figure.map(|figure| figure.mean)));
                cells.push(number(figure.and_then(|figure| figure.standard_error)));
                cells.push(figure.map_or(0, |figure| figure.values.len()).to_string().into());
            }
            table.rows.push(Row { cells, quoted: false });
        }
        table
    }

    /// Every cell: how far it is, what it changes, and the command that trains it.
    pub fn cells_table(&self) -> Table {
        let mut table = Table::new("Cells");
        for heading in ["Cell", "State", "Changes", "Trained by"] {
            table.column("", heading, Align::Left);
        }
        for cell in &self.cells {
            let state = match &cell.state {
                State::Done => "done".to_owned(),
                State::ToDo => "to do".to_owned(),
                State::CutOff { step } => format!("goes on at step {step}"),
                State::Failed { reason } => format!("failed: {reason}"),
            };
            let commands: Vec<String> = cell.commands.iter().map(|command| format!("`{command}`")).collect();
            let name = format!("{}, seed {}", cell.variant, cell.seed);
            let cells = [name, state, cell.changes.join(", "), commands.join(", ")].map(TableCell::from);
            table.rows.push(Row { cells: cells.into(), quoted: false });
        }
        table.note("Each folder's cell.toml is the configuration in full, its log.txt what the commands said.");
        table
    }

    /// The cells of a row's variant.
    fn cells_of(&self, row: &ResultRow) -> impl Iterator<Item = &CellResult> {
        self.cells.iter().filter(move |cell| Some(&cell.variant) == row.variant.as_ref())
    }

    /// "2/3", and what became of the third.
    fn seeds(&self, row: &ResultRow, notes: &mut Notes) -> TableCell {
        let Some(variant) = &row.variant else { return "–".into() };
        let told = |cell: &CellResult| match &cell.state {
            State::Done => None,
            State::ToDo => Some(format!("seed {} is still to be trained", cell.seed)),
            State::CutOff { step } => Some(format!("seed {} was cut off and goes on at step {step}", cell.seed)),
            State::Failed { reason } => Some(format!("seed {} failed: {}", cell.seed, reason.replace('\n', " "))),
        };
        let missing: Vec<String> = self.cells_of(row).filter_map(told).collect();
        let all = self.cells_of(row).count();
        TableCell {
            text: format!("{}/{all}", all - missing.len()),
            mark: if missing.is_empty() {
                String::new()
            } else {
                notes.mark(&format!("{variant}: {}", missing.join("; ")))
            },
            ..TableCell::default()
        }
    }

    /// The best mean of a column over the rows that have all seeds; `None` where there is nothing to compare.
    fn best(&self, column: usize) -> Option<f64> {
        let rises = self.columns[column].rises?;
        let whole = |row: &&ResultRow| self.cells_of(row).all(|cell| cell.state == State::Done);
        let means: Vec<f64> = self
            .rows
            .iter()
            .filter(whole)
            .filter_map(|row| Some(row.figures[column].as_ref()?.mean))
            .filter(|mean| mean.is_finite())
            .collect();
        if means.len() < 2 {
            return None;
        }
        means.into_iter().reduce(if rises { f64::max } else { f64::min })
    }
}

impl ResultColumn {
    fn heading(&self) -> String {
        match self.rises {
            Some(true) => format!("{} ↑", self.name),
            Some(false) => format!("{} ↓", self.name),
            None => self.name.clone(),
        }
    }
}

/// Name, whether more is better, digits.
type Column = (&'static str, Option<bool>, usize);

/// What `summary.json` has of a run, and where.
const TRAINING: [(Column, &str); 5] = [
    (("PSNR", Some(true), 2), "/held_out/restored/psnr"),
    (("SSIM", Some(true), 3), "/held_out/restored/ssim"),
    (("Fréchet (CLIP)", Some(false), 3), "/held_out/restored/clip_frechet"),
    (("training loss", Some(false), 4), "/last_smoothed_loss"),
    (("images/s", None, 1), "/images_per_second"),
];

/// The moving average's loss on held-out pictures, the last that was measured.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(values: &[f64]) -> Option<Estimate> {
        Estimate::of(values.iter().enumerate().map(|(seed, &value)| (seed.to_string(), value)).collect())
    }

    #[test]
    fn mean_and_standard_error() {
        let found = estimate(&[1.0, 2.0, 4.0, 5.0]).unwrap();
        // Deviation √(10 / 3), over √4.
        assert_eq!(found.mean, 3.0);
        assert!((found.standard_error.unwrap() - 0.912_870_929).abs() < 1e-9);
        assert_eq!(estimate(&[2.5]).unwrap().standard_error, None);
        assert_eq!(estimate(&[2.0, 2.0]).unwrap().standard_error, Some(0.0));
        assert_eq!(estimate(&[]), None);
    }

    fn results() -> SweepResults {
        let cell = |variant: &str, seed, state| CellResult {
            variant: variant.into(),
            seed,
            changes: vec![],
            state,
            folder: PathBuf::new(),
            configuration: PathBuf::new(),
            commands: vec![],
            summary: None,
        };
        let failed = State::Failed { reason: "the loss\nis NaN".into() };
        let column =
            |name: &str, rises| ResultColumn { group: "G".into(), name: name.into(), rises: Some(rises), decimals: 2 };
        let row = |name: &str, variant: Option<&str>, values: [&[f64]; 2]| ResultRow {
            name: name.into(),
            variant: variant.map(str::to_owned),
            figures: values.map(estimate).into(),
        };
        SweepResults {
            name: "S".into(),
            program: String::new(),
            sweep: SweepConfig::default(),
            columns: vec![column("up", true), column("down", false)],
            rows: vec![
                row("input", None, [&[2.5], &[9.0]]),
                row("A", Some("A"), [&[1.0, 3.0], &[4.0, 4.0]]),
                row("B", Some("B"), [&[8.0], &[]]),
            ],
            cells: vec![
                cell("A", 1, State::Done),
                cell("A", 2, State::Done),
                cell("B", 1, State::Done),
                cell("B", 2, failed),
            ],
            notes: vec![],
            evaluation_failed: None,
        }
    }

    #[test]
    fn the_table_says_what_is_missing_and_compares_whole_rows_only() {
        let text = results().table().markdown();
        for line in [
            "| **Variant** | **Seeds** | **up ↑** | **down ↓** |",
            "| input | – | **2.50** | 9.00 |",
            "| A | 2/2 | 2.00 ± 1.00 | **4.00 ± 0.00** |",
            "| B | 1/2 (a) | 8.00 | – |",
            "(a) B: seed 2 failed: the loss is NaN.",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!results().is_complete());
        assert!(results().table().latex().contains("2.00 $\\pm$ 1.00"));
    }

    #[test]
    fn programs_get_all_digits() {
        let csv = results().plain_table().csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert!(lines[0].starts_with("Variant,G: up,G: up standard error,G: up seeds,G: down,"), "{csv}");
        assert_eq!(lines[2], "A,2,1,2,4,0,2");
        assert_eq!(lines[3], "B,8,,1,,,0");
    }
}
