//! All figures of an evaluation, with their protocols.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spire_data::benchmark::Benchmark;

use super::bootstrap::{Interval, interval};
use super::metric::Metric;
use super::protocol::{MethodProtocol, Protocol};
use super::score::Scores;
use super::scorer::Scorer;
use super::table::{Align, Table};

/// `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The evaluation's name.
    pub name: String,
    /// The program that measured.
    pub program: String,
    /// One table each.
    pub benchmarks: Vec<BenchmarkResults>,
    /// Metrics that could not be computed, and what is needed for each.
    pub missing: BTreeMap<Metric, String>,
    /// What should be kept in mind.
    pub cautions: Vec<String>,
    /// Every protocol in full, by its fingerprint.
    pub protocols: BTreeMap<String, Protocol>,
}

/// The figures on one benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkResults {
    /// The table's title.
    pub title: String,
    /// The benchmark's folder.
    pub folder: String,
    /// SHA-256 of the benchmark's checksums.
    pub checksum: String,
    /// The names of the pictures.
    pub ids: Vec<String>,
    /// One row each.
    pub methods: Vec<MethodResults>,
    /// The method that the others' differences are to.
    pub against: Option<String>,
}

/// The figures of one method on one benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodResults {
    /// The row's name.
    pub name: String,
    /// Fingerprint of how its pictures were made.
    pub made: String,
    /// The figures.
    pub figures: BTreeMap<Metric, Figure>,
    /// Differences to the method that is compared with, picture by picture: their mean, and where it lies.
    pub differences: BTreeMap<Metric, Interval>,
    /// One value a picture, in the order of `ids`.
    pub per_image: BTreeMap<Metric, Vec<f64>>,
}

/// One cell of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The value.
    pub value: f64,
    /// Where a mean over pictures lies; `None` for figures of all pictures together.
    pub interval: Option<Interval>,
    /// Fingerprint of the protocol.
    pub protocol: String,
}

impl Results {
    /// Nothing measured yet.
    pub fn new(name: &str, scorer: &Scorer) -> Self {
        Self {
            name: name.to_owned(),
            program: concat!("spire ", env!("CARGO_PKG_VERSION")).to_owned(),
            benchmarks: vec![],
            missing: scorer.missing().clone(),
            cautions: vec![],
            protocols: BTreeMap::new(),
        }
    }

    /// Adds a table: the scores of each method, with its name and how its pictures were made.
    pub fn add(
        &mut self,
        title: &str,
        benchmark: &Benchmark,
        scorer: &Scorer,
        methods: &[(String, MethodProtocol, Scores)],
        against: Option<&str>,
    ) {
        let base = against.and_then(|name| methods.iter().find(|(other, ..)| other == name)).map(|(.., scores)| scores);
        let mut rows = vec![];
        for (name, made, scores) in methods {
            let mut figures = BTreeMap::new();
            let means = scores.per_image.iter().filter_map(|(&metric, values)| Some((metric, interval(values)?)));
            let means = means.map(|(metric, interval)| (metric, interval.mean, Some(interval), 0));
            let of_all = scores.of_all.iter().map(|(&metric, &(value, rows))| (metric, value, None, rows));
            for (metric, value, interval, rows) in means.chain(of_all) {
                let protocol = scorer.protocol(metric, benchmark, made);
                let fingerprint = protocol.fingerprint();
                self.protocols.insert(fingerprint.clone(), protocol);
                figures.insert(metric, Figure { value, interval, protocol: fingerprint });
                for caution in scorer.cautions(metric, rows) {
                    if !self.cautions.contains(&caution) {
                        self.cautions.push(caution);
                    }
                }
            }
            let difference = |(&metric, values): (&Metric, &Vec<f64>)| {
                let others = base?.per_image.get(&metric)?;
                let differences: Vec<f64> = values.iter().zip(others).map(|(value, other)| value - other).collect();
                Some((metric, interval(&differences)?))
            };
            let itself = against == Some(name.as_str());
            rows.push(MethodResults {
                name: name.clone(),
                made: made.fingerprint(),
                figures,
                differences: if itself {
                    BTreeMap::new()
                } else {
                    scores.per_image.iter().filter_map(difference).collect()
                },
                per_image: scores.per_image.clone(),
            });
        }
        self.benchmarks.push(BenchmarkResults {
            title: title.to_owned(),
            folder: benchmark.folder.display().to_string(),
            checksum: benchmark.checksum.clone(),
            ids: benchmark.entries.iter().map(|entry| entry.id.clone()).collect(),
            methods: rows,
            against: against.map(str::to_owned),
        });
    }

    /// The tables: of each benchmark the figures, and the differences where a method is compared with.
    pub fn tables(&self) -> Vec<Table> {
        self.benchmarks
            .iter()
            .flat_map(|results| [Some(self.figures(results)), differences(results)])
            .flatten()
            .collect()
    }

    fn figures(&self, results: &BenchmarkResults) -> Table {
        let metrics = measured(results);
        let mut table = Table::new(&results.title);
        table.column("Method", Align::Left);
        for &metric in &metrics {
            table.column(&format!("{} {}", metric.name(), if metric.rises() { "↑" } else { "↓" }), Align::Right);
        }
        table.column("made", Align::Left);
        for method in &results.methods {
            let cell = |metric: &Metric| {
                let Some(figure) = method.figures.get(metric) else { return "–".to_owned() };
                let digits = metric.decimals();
                let range = figure
                    .interval
                    .map_or(String::new(), |found| format!(" [{:.digits$}, {:.digits$}]", found.low, found.high));
                format!("{:.digits$}{range}", figure.value)
            };
            let mut row = vec![method.name.clone()];
            row.extend(metrics.iter().map(cell));
            row.push(method.made.clone());
            table.rows.push(row);
        }
        for (column, &metric) in metrics.iter().enumerate() {
            let value = |method: &MethodResults| method.figures.get(&metric).map(|figure| figure.value);
            let values: Vec<f64> = results.methods.iter().filter_map(value).collect();
            let best = values.iter().copied().fold(f64::NAN, |a, b| if metric.rises() { a.max(b) } else { a.min(b) });
            for (row, method) in results.methods.iter().enumerate() {
                if values.len() > 1 && value(method) == Some(best) {
                    table.bold.insert((row, column + 1));
                }
            }
        }
        let measures: Vec<String> = metrics
            .iter()
            .filter_map(|metric| {
                let figure = results.methods.iter().find_map(|method| method.figures.get(metric))?;
                Some(format!("{} `{}`", metric.name(), self.protocols.get(&figure.protocol)?.measure()))
            })
            .collect();
        table.note(&format!(
            "{} pictures, benchmark `{}`. Brackets: 95 % bootstrap intervals of the mean. Measured by {}; the last column is how the pictures were made. In full: results.json.",
            results.ids.len(),
            &results.checksum[..results.checksum.len().min(8)],
            measures.join(", ")
        ));
        for (metric, needed) in &self.missing {
            table.note(&format!("{} is missing: {needed}.", metric.name()));
        }
        self.cautions.iter().for_each(|caution| table.note(&format!("{caution}.")));
        table
    }
}

/// The metrics that any method has, in the order of the columns.
fn measured(results: &BenchmarkResults) -> Vec<Metric> {
    let there = |metric: &Metric| results.methods.iter().any(|method| method.figures.contains_key(metric));
    Metric::ALL.into_iter().filter(there).collect()
}

fn differences(results: &BenchmarkResults) -> Option<Table> {
    let against = results.against.as_ref()?;
    let there = |metric: &Metric| results.methods.iter().any(|method| method.differences.contains_key(metric));
    let metrics: Vec<Metric> = Metric::ALL.into_iter().filter(there).collect();
    let mut table = Table::new(&format!("{}: differences to {against}", results.title));
    table.column("Method", Align::Left);
    metrics.iter().for_each(|metric| table.column(metric.name(), Align::Right));
    for (row, method) in results.methods.iter().filter(|method| !method.differences.is_empty()).enumerate() {
        let mut cells = vec![method.name.clone()];
        for (column, metric) in metrics.iter().enumerate() {
            let digits = metric.decimals();
            cells.push(method.differences.get(metric).map_or("–".to_owned(), |found| {
                format!("{:+.digits$} [{:+.digits$}, {:+.digits$}]", found.mean, found.low, found.high)
            }));
            if method.differences.get(metric).is_some_and(|found| found.low > 0.0 || found.high < 0.0) {
                table.bold.insert((row, column + 1));
            }
        }
        table.rows.push(cells);
    }
    table.note("Picture by picture, with 95 % bootstrap intervals of the mean difference; bold where it leaves 0 out.");
    (!table.rows.is_empty()).then_some(table)
}
