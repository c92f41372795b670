//! The differences of a sweep's rows to one of them, seed by seed.

use spire_eval::evaluation::{Align, Table, TableCell, TableRow};

use super::results::{ResultColumn, SweepResults};
use super::statistics::Estimate;
use super::tables::range;

impl SweepResults {
    /// One table per test set: the mean difference of every other row to the row `against`, ± its standard error, where the
    /// values of a seed are subtracted from each other. Bold: more than two standard errors. Empty without `against`.
    pub fn difference_tables(&self) -> Vec<Table> {
        let Some(against) = &self.sweep.against else { return vec![] };
        let groups = self.columns_by_group();
        let mut tables: Vec<Table> = groups.iter().map(|columns| self.differences(columns, against)).collect();
        if let Some(last) = tables.last_mut() {
            last.note(&format!(
                "Figures minus those of “{against}” with the same seed: mean over seeds ± standard error. Bold: more than two \
                 standard errors, where there are several seeds."
            ));
        }
        tables
    }

    /// The table of some columns, each with its index.
    fn differences(&self, columns: &[(usize, &ResultColumn)], against: &str) -> Table {
        let mut table = Table::new(&self.title(columns, &format!("differences to {against}")));
        table.column("", "Variant", Align::Left);
        for (_, column) in columns {
            table.column("", &column.heading(), Align::Right);
        }
        let Some(reference) = self.rows.iter().find(|row| row.name == *against) else { return table };
        for row in self.rows.iter().filter(|row| row.name != *against) {
            let difference = |&(i, column): &(usize, &ResultColumn)| {
                let difference = row.figures[i].as_ref()?.minus(reference.figures[i].as_ref()?)?;
                Some(cell(&difference, column.decimals))
            };
            let cells = columns.iter().map(|column| difference(column).unwrap_or_else(|| "–".into()));
            let cells = std::iter::once(TableCell::from(row.name.as_str())).chain(cells).collect();
            table.rows.push(TableRow { cells, quoted: false });
        }
        table
    }
}

fn cell(difference: &Estimate, digits: usize) -> TableCell {
    TableCell {
        text: format!("{:+.digits$}", difference.mean),
        range: difference.standard_error.map_or(String::new(), |error| range(error, digits)),
        mark: String::new(),
        bold: difference.standard_error.is_some_and(|error| difference.mean.abs() > 2.0 * error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::tests::results;
    use super::*;

    fn differences_to(against: &str) -> Vec<String> {
        let mut results = results();
        results.sweep.against = Some(against.to_owned());
        results.difference_tables().iter().map(Table::markdown).collect()
    }

    #[test]
    fn rows_are_compared_seed_by_seed() {
        let texts = differences_to("C");
        let [up, down] = &texts[..] else { panic!("{texts:?}") };
        for (text, line) in [
            (up, "### S: G: differences to C"),
            (up, "| Variant | up ↑ |"),
            // The degraded pictures are the same for every seed.
            (up, "| input | **+0.25 ± 0.00** |"),
            (up, "| A | -0.25 ± 1.00 |"),
            (up, "| B | +5.75 |"),
            (down, "| A | **-0.50 ± 0.00** |"),
            (down, "| B | – |"),
            (down, "minus those of “C” with the same seed"),
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!up.contains("| C |") && !up.contains("minus those"), "{up}");
        assert!(differences_to("input")[0].contains("| C | **-0.25 ± 0.00** |"));
    }

    #[test]
    fn without_a_reference_there_are_none() {
        assert!(results().difference_tables().is_empty());
    }
}
