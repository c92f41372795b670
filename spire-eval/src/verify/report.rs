//! The table that `spire verify` prints.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use spire_core::message::with_causes;

use super::case::{Case, Worst};

/// The results of all cases.
#[derive(Clone, Debug)]
pub struct Report {
    /// One result per case.
    pub rows: Vec<CaseResult>,
}

/// The result of one case. In JSON a NaN is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// The case's folder.
    pub path: PathBuf,
    /// The kind of case; empty if `case.toml` is unreadable.
    pub kind: String,
    /// The largest difference of an output, in the kind's own measure; NaN if nothing could be compared.
    pub worst: f64,
    /// The tolerance; NaN if `case.toml` is unreadable.
    pub tolerance: f64,
    /// Time of the network in seconds, without reading its weights; 0 without a network.
    pub seconds: f64,
    /// Whether every output is within the tolerance.
    pub ok: bool,
    /// The reason, if not.
    pub error: Option<String>,
}

impl CaseResult {
    pub(super) fn compared(case: &Case, worst: &Worst) -> Self {
        let ok = worst.difference <= case.tolerance;
        let error = (!ok).then(|| format!("{} differs by more than the tolerance", worst.name));
        Self {
            path: case.folder.clone(),
            kind: case.kind.clone(),
            worst: worst.difference,
            tolerance: case.tolerance,
            seconds: case.seconds(),
            ok,
            error,
        }
    }

    pub(super) fn failed(path: PathBuf, case: Option<&Case>, error: &anyhow::Error) -> Self {
        let kind = case.map_or_else(String::new, |case| case.kind.clone());
        let tolerance = case.map_or(f64::NAN, |case| case.tolerance);
        Self {
            path,
            kind,
            worst: f64::NAN,
            tolerance,
            seconds: 0.0,
            ok: false,
            error: Some(with_causes(error.as_ref())),
        }
    }
}

impl Report {
    /// Whether every case passed.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["case", "kind", "worst", "tolerance", "seconds"].map(str::to_owned);
        let table: Vec<[String; 5]> = std::iter::once(header)
            .chain(self.rows.iter().map(|row| {
                [
                    row.path.display().to_string(),
                    row.kind.clone(),
                    number(row.worst),
                    number(row.tolerance),
                    seconds(row.seconds),
                ]
            }))
            .collect();
        let [path, kind, worst, tolerance, seconds] =
            [0, 1, 2, 3, 4].map(|column| table.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0));
        let results = std::iter::once(String::new()).chain(self.rows.iter().map(result));
        for (cells, result) in table.iter().zip(results) {
            let line = format!(
                "{:path$}  {:kind$}  {:>worst$}  {:>tolerance$}  {:>seconds$}  {result}",
                cells[0], cells[1], cells[2], cells[3], cells[4]
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        let passed = self.rows.iter().filter(|row| row.ok).count();
        write!(f, "{passed} of {} cases passed", self.rows.len())
    }
}

fn result(row: &CaseResult) -> String {
    match &row.error {
        None => "ok".to_owned(),
        // One line per case, even if the error has several lines.
        Some(error) => format!("FAILED: {}", error.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

fn seconds(seconds: f64) -> String {
    if seconds == 0.0 { String::new() } else { format!("{seconds:.2}") }
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "-".to_owned()
    } else if value == 0.0 {
        "0".to_owned()
    } else {
        format!("{value:.1e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_failures_have_a_reason() {
        let row = |path: &str, worst: f64, error: Option<&str>| CaseResult {
            path: path.into(),
            kind: "unet".into(),
            worst,
            tolerance: 1e-4,
            seconds: if error.is_none() { 12.5 } else { 0.0 },
            ok: error.is_none(),
            error: error.map(str::to_owned),
        };
        let report = Report { rows: vec![row("a", 2.5e-6, None), row("long/path", f64::NAN, Some("no\n tensor"))] };
        assert!(!report.passed());
        let expected = "\
case       kind   worst  tolerance  seconds
a          unet  2.5e-6     1.0e-4    12.50  ok
long/path  unet       -     1.0e-4           FAILED: no tensor
1 of 2 cases passed";
        assert_eq!(report.to_string(), expected);
    }
}
