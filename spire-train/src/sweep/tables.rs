//! The tables of a sweep, for people and for programs.

use spire_eval::evaluation::{Align, Notes, Table, TableCell, TableRow};

use super::cells::State;
use super::results::{CellResult, ResultColumn, ResultRow, SweepResults};
use super::statistics::Estimate;

impl SweepResults {
    /// One table per test set, with a row per variant: means over seeds ± standard errors, the number of seeds, the
    /// best variant in bold.
    pub fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = self.columns_by_group().iter().map(|columns| self.table(columns)).collect();
        if tables.is_empty() {
            tables.push(self.table(&[])); // for its notes
        }
        if let Some(last) = tables.last_mut() {
            last.note(
                "Mean over seeds ± standard error (no error for a single seed). Bold: the best of the variants with all seeds.",
            );
            self.notes.iter().for_each(|note| last.note(note));
        }
        tables
    }

    /// The columns of each table, each with its index.
    pub(super) fn columns_by_group(&self) -> Vec<Vec<(usize, &ResultColumn)>> {
        let columns: Vec<(usize, &ResultColumn)> = self.columns.iter().enumerate().collect();
        columns.chunk_by(|(_, a), (_, b)| a.group == b.group).map(<[_]>::to_vec).collect()
    }

    /// The table of some columns, each with its index.
    fn table(&self, columns: &[(usize, &ResultColumn)]) -> Table {
        let mut table = Table::new(&self.title(columns, ""));
        let mut notes = Notes::default();
        table.column("", "Variant", Align::Left);
        table.column("", "Seeds", Align::Right);
        for (_, column) in columns {
            table.column("", &column.heading(), Align::Right);
        }
        let best: Vec<Option<f64>> = columns.iter().map(|&(i, _)| self.best(i)).collect();
        for row in &self.rows {
            let mut cells = vec![row.name.as_str().into(), self.seeds(row, &mut notes)];
            for (&(i, column), best) in columns.iter().zip(&best) {
                let digits = column.decimals;
                cells.push(match &row.figures[i] {
                    Some(figure) => TableCell {
                        text: format!("{:.digits$}", figure.mean),
                        range: figure.standard_error.map_or(String::new(), |error| range(error, digits)),
                        mark: String::new(),
                        bold: row.variant.is_some() && *best == Some(figure.mean),
                    },
                    None => "–".into(),
                });
            }
            table.rows.push(TableRow { cells, quoted: false });
        }
        table.notes.extend(notes.0);
        table
    }

    /// The sweep's name, the group of a table's columns, and what the table has: those of them that are not empty.
    pub(super) fn title(&self, columns: &[(usize, &ResultColumn)], content: &str) -> String {
        let group = columns.first().map_or("", |(_, column)| column.group.as_str());
        let parts = [self.name.as_str(), group, content].into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(": ")
    }

    /// All results in one table for programs: with all digits; means, standard errors and numbers of seeds in separate
    /// columns.
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
            table.rows.push(TableRow { cells, quoted: false });
        }
        table
    }

    /// Rank correlations with a requested strength; `None` without trends.
    pub fn trends_table(&self) -> Option<Table> {
        let columns = &self.trends.first()?.columns;
        let mut table = Table::new("Rank correlation with the requested strength");
        table.column("", "Trend", Align::Left);
        columns.iter().for_each(|(benchmark, metric)| table.column(benchmark, metric.name(), Align::Right));
        for trend in &self.trends {
            let cell = |correlation: &Option<Estimate>| match correlation {
                Some(estimate) => TableCell {
                    text: format!("{:.2}", estimate.mean),
                    range: estimate.standard_error.map_or(String::new(), |error| range(error, 2)),
                    ..TableCell::default()
                },
                None => "–".into(),
            };
            let cells = std::iter::once(trend.name.as_str().into()).chain(trend.correlations.iter().map(cell));
            table.rows.push(TableRow { cells: cells.collect(), quoted: false });
        }
        table.note(
            "Spearman's rank correlation between the order of a trend's methods and a picture's figure; mean over pictures, \
             then over seeds ± standard error. 1: the figure rises with every step; -1: it falls with every step.",
        );
        Some(table)
    }

    /// All cells with their progress, their changes and the commands that trained them.
    pub fn cells_table(&self) -> Table {
        let mut table = Table::new("Cells");
        for heading in ["Cell", "State", "Changes", "Trained by"] {
            table.column("", heading, Align::Left);
        }
        for cell in &self.cells {
            let state = match &cell.state {
                State::Done => "done".to_owned(),
                State::ToDo => "to do".to_owned(),
                State::CutOff { step } => format!("continues at step {step}"),
                State::Failed { reason } => format!("failed: {reason}"),
            };
            let commands: Vec<String> = cell.commands.iter().map(|command| format!("`{command}`")).collect();
            let name = format!("{}, seed {}", cell.variant, cell.seed);
            let cells = [name, state, cell.changes.join(", "), commands.join(", ")].map(TableCell::from);
            table.rows.push(TableRow { cells: cells.into(), quoted: false });
        }
        table.note("In each folder, cell.toml is the full configuration and log.txt the output of the commands.");
        table
    }

    /// "2/3", with a note on the third.
    fn seeds(&self, row: &ResultRow, notes: &mut Notes) -> TableCell {
        let Some(variant) = &row.variant else { return "–".into() };
        let reason = |cell: &CellResult| match &cell.state {
            State::Done => None,
            State::ToDo => Some(format!("seed {} is not trained yet", cell.seed)),
            State::CutOff { step } => Some(format!("seed {} was interrupted and continues at step {step}", cell.seed)),
            State::Failed { reason } => Some(format!("seed {} failed: {}", cell.seed, reason.replace('\n', " "))),
        };
        let missing: Vec<String> = self.cells_of(row).filter_map(reason).collect();
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

    /// The best mean of a column over the variants with all seeds; `None` if there are fewer than two.
    fn best(&self, column: usize) -> Option<f64> {
        let rises = self.columns[column].rises?;
        let complete = |row: &ResultRow| {
            let figure = row.figures[column].as_ref()?;
            (figure.values.len() == self.seeds_of(row) && figure.mean.is_finite()).then_some(figure.mean)
        };
        let variants = self.rows.iter().filter(|row| row.variant.is_some());
        let means: Vec<f64> = variants.filter_map(complete).collect();
        if means.len() < 2 {
            return None;
        }
        means.into_iter().reduce(if rises { f64::max } else { f64::min })
    }
}

/// "± 0.02"; an error that is too small for the mean's digits has up to three more.
pub(super) fn range(error: f64, digits: usize) -> String {
    let first = (-error.log10()).ceil().max(0.0) as usize;
    let digits = if error > 0.0 { digits.max(first.min(digits + 3)) } else { digits };
    format!("± {error:.digits$}")
}

impl ResultColumn {
    pub(super) fn heading(&self) -> String {
        match self.rises {
            Some(true) => format!("{} ↑", self.name),
            Some(false) => format!("{} ↓", self.name),
            None => self.name.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::sweep::config::SweepConfig;

    fn estimate(values: &[f64]) -> Option<Estimate> {
        let named: BTreeMap<String, f64> =
            values.iter().enumerate().map(|(seed, &value)| (seed.to_string(), value)).collect();
        Estimate::of(named)
    }

    /// The value of a row without seeds.
    fn single(value: f64) -> Option<Estimate> {
        Estimate::of(BTreeMap::from([(String::new(), value)]))
    }

    pub fn results() -> SweepResults {
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
        let column = |group: &str, name: &str, rises| ResultColumn {
            group: group.into(),
            name: name.into(),
            rises: Some(rises),
            decimals: 2,
        };
        let row = |name: &str, variant: Option<&str>, values: [&[f64]; 2]| ResultRow {
            name: name.into(),
            variant: variant.map(str::to_owned),
            figures: values.map(estimate).into(),
        };
        SweepResults {
            name: "S".into(),
            program: String::new(),
            sweep: SweepConfig::default(),
            columns: vec![column("G", "up", true), column("H", "down", false)],
            rows: vec![
                ResultRow { name: "input".into(), variant: None, figures: [2.5, 9.0].map(single).into() },
                row("A", Some("A"), [&[1.0, 3.0], &[4.0, 4.0]]),
                row("B", Some("B"), [&[8.0], &[]]),
                row("C", Some("C"), [&[2.25, 2.25], &[4.5, 4.5]]),
            ],
            cells: vec![
                cell("A", 1, State::Done),
                cell("A", 2, State::Done),
                cell("B", 1, State::Done),
                cell("B", 2, failed),
                cell("C", 1, State::Done),
                cell("C", 2, State::Done),
            ],
            trends: vec![],
            notes: vec![],
            evaluation_failed: None,
        }
    }

    #[test]
    fn tables_note_missing_seeds_and_compare_complete_variants_only() {
        let tables = results().tables();
        let texts: Vec<String> = tables.iter().map(Table::markdown).collect();
        let [up, down] = &texts[..] else { panic!("{texts:?}") };
        for (text, line) in [
            (up, "### S: G"),
            (up, "| Variant | Seeds | up ↑ |"),
            (up, "| input | – | 2.50 |"),
            (up, "| A | 2/2 | 2.00 ± 1.00 |"),
            (up, "| B | 1/2 (a) | 8.00 |"),
            (up, "| C | 2/2 | **2.25 ± 0.00** |"),
            (up, "(a) B: seed 2 failed: the loss is NaN."),
            (down, "### S: H"),
            (down, "| input | – | 9.00 |"),
            (down, "| A | 2/2 | **4.00 ± 0.00** |"),
            (down, "| B | 1/2 (a) | – |"),
            (down, "Bold: the best of the variants"),
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!up.contains("Bold:"), "only the last table explains bold: {up}");
        assert!(!results().is_complete());
        assert!(tables[0].latex().contains("2.00 $\\pm$ 1.00"));
    }

    #[test]
    fn a_standard_error_has_a_significant_digit() {
        let ranges = [0.25, 0.000_31, 3e-9, 0.0, 12.3].map(|error| range(error, 2));
        assert_eq!(ranges, ["± 0.25", "± 0.0003", "± 0.00000", "± 0.00", "± 12.30"]);
    }

    #[test]
    fn the_plain_table_has_all_digits() {
        let csv = results().plain_table().csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert!(lines[0].starts_with("Variant,G: up,G: up standard error,G: up seeds,H: down,"), "{csv}");
        assert_eq!(lines[2], "A,2,1,2,4,0,2");
        assert_eq!(lines[3], "B,8,,1,,,0");
    }
}
