//! All scores of an evaluation with their protocols.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spire_data::testset::TestSet;

use super::bootstrap::{Interval, interval};
use super::config::EvalConfig;
use super::method::{MethodConfig, MethodKind};
use super::metric::Metric;
use super::protocol::{MethodProtocol, Protocol};
use super::score::Scores;
use super::scorer::Scorer;

/// `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The evaluation's name.
    pub name: String,
    /// The program and its version.
    pub program: String,
    /// The number of the paper's table whose layout the first table has.
    pub paper_table: Option<u8>,
    /// The rows of every table, in order, measured or not.
    pub methods: Vec<MethodSummary>,
    /// The test sets; one table each.
    pub benchmarks: Vec<BenchmarkResults>,
    /// Metrics that could not be computed, with what each needs.
    pub missing: BTreeMap<Metric, String>,
    /// Warnings.
    pub cautions: Vec<String>,
    /// Every complete protocol, by its fingerprint.
    pub protocols: BTreeMap<String, Protocol>,
}

/// A method, independent of the test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodSummary {
    /// The row's name.
    pub name: String,
    /// The values of the paper's descriptive columns, by heading.
    pub marks: BTreeMap<String, String>,
    /// Whether its pictures are the degraded ones themselves.
    #[serde(default)]
    pub is_input: bool,
}

/// The scores on one test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkResults {
    /// The table's title.
    pub title: String,
    /// The test set's folder.
    pub folder: String,
    /// SHA-256 of the test set's checksums.
    pub checksum: String,
    /// The names of the pictures.
    pub ids: Vec<String>,
    /// The methods that were measured.
    pub methods: Vec<MethodResults>,
    /// The reasons why other methods were not measured, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unmeasured: BTreeMap<String, String>,
    /// The baseline of the differences.
    pub against: Option<String>,
}

/// The scores of one method on one test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodResults {
    /// The row's name.
    pub name: String,
    /// Fingerprint of how its pictures were produced.
    pub made: String,
    /// SHA-256 of the checksums of its pictures' files.
    #[serde(default)]
    pub files: String,
    /// The scores.
    pub figures: BTreeMap<Metric, Figure>,
    /// Paired differences to the baseline: mean and confidence interval.
    pub differences: BTreeMap<Metric, Interval>,
    /// One value per picture, in the order of `ids`.
    pub per_image: BTreeMap<Metric, Vec<f64>>,
}

/// One cell of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The value.
    pub value: f64,
    /// Confidence interval of a mean over pictures; `None` for scores of the whole set.
    pub interval: Option<Interval>,
    /// Fingerprint of the protocol.
    pub protocol: String,
}

impl Results {
    /// No results yet.
    pub fn new(config: &EvalConfig, scorer: &Scorer) -> Self {
        let summary = |method: &MethodConfig| MethodSummary {
            name: method.name.clone(),
            marks: method.table_marks(),
            is_input: method.kind == MethodKind::Input,
        };
        Self {
            name: config.name.clone(),
            program: concat!("spire ", env!("CARGO_PKG_VERSION")).to_owned(),
            paper_table: config.paper_table,
            methods: config.methods.iter().map(summary).collect(),
            benchmarks: vec![],
            missing: scorer.missing().clone(),
            cautions: vec![],
            protocols: BTreeMap::new(),
        }
    }

    /// Adds a table: the name, protocol and scores of each method, and why other methods have none.
    pub fn add(
        &mut self,
        title: &str,
        benchmark: &TestSet,
        scorer: &Scorer,
        methods: &[(String, MethodProtocol, Scores)],
        unmeasured: BTreeMap<String, String>,
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
                files: scores.files.clone(),
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
            unmeasured,
            against: against.map(str::to_owned),
        });
    }
}

impl BenchmarkResults {
    /// The scores of the method with this name.
    pub fn method(&self, name: &str) -> Option<&MethodResults> {
        self.methods.iter().find(|method| method.name == name)
    }
}
