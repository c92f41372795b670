//! The paper's tables: columns and published values.

use serde::Deserialize;

/// `published.toml`.
const TABLES: &str = include_str!("published.toml");

/// A table of the paper.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedTable {
    /// Its number in the paper.
    pub number: u8,
    /// Its subject.
    pub caption: String,
    /// Headings of the descriptive columns: prompts, fusion.
    pub marks: Vec<String>,
    /// Above these.
    #[serde(default)]
    pub marks_heading: String,
    /// The columns of values.
    pub groups: Vec<PublishedGroup>,
    /// One row per method.
    pub rows: Vec<PublishedRow>,
    /// The reason, if there are no rows.
    #[serde(default)]
    pub absent: Option<String>,
}

/// The columns of one test set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedGroup {
    /// Above its columns.
    pub heading: String,
    /// Names of matching test sets; several if the paper does not specify which.
    pub benchmarks: Vec<String>,
    /// The metrics, by [`Metric::name`](super::Metric::name).
    pub metrics: Vec<String>,
}

/// The values of one method.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedRow {
    /// Its name in the paper, without the reference.
    pub method: String,
    /// The values of the descriptive columns.
    pub marks: Vec<String>,
    /// As printed, group by group.
    pub figures: Vec<String>,
}

impl PublishedTable {
    /// All tables with values: 1 and 3 to 8. Table 2 has none.
    ///
    /// # Panics
    /// Never: a test reads the embedded tables.
    pub fn all() -> Vec<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            tables: Vec<PublishedTable>,
        }
        toml::from_str::<File>(TABLES).expect("published.toml is read by a test").tables
    }

    /// The table with this number.
    pub fn of(number: u8) -> Option<Self> {
        Self::all().into_iter().find(|table| table.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(table: u8, row: usize, column: usize) -> f64 {
        PublishedTable::of(table).unwrap().rows[row].figures[column].parse().unwrap()
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let tables = PublishedTable::all();
        assert_eq!(tables.iter().map(|table| table.number).collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7, 8]);
        for table in tables {
            let columns: usize = table.groups.iter().map(|group| group.metrics.len()).sum();
            assert_eq!(table.rows.is_empty(), table.absent.is_some(), "table {}", table.number);
            for row in &table.rows {
                assert_eq!(row.marks.len(), table.marks.len(), "table {}, {}", table.number, row.method);
                assert_eq!(row.figures.len(), columns, "table {}, {}", table.number, row.method);
                assert!(row.figures.iter().all(|figure| figure.parse::<f64>().is_ok()), "{:?}", row.figures);
            }
        }
    }

    /// Several tables contain the same method, so a typing error would show.
    #[test]
    fn tables_agree_where_the_paper_does() {
        let rows = |table: u8| PublishedTable::of(table).unwrap().rows;
        let ours = &rows(1)[8].figures[..6];
        assert_eq!(ours, rows(6)[3].figures);
        assert_eq!(ours[..5], rows(5)[3].figures[..5]);
        assert_eq!((rows(5)[3].figures[5].as_str(), ours[5].as_str()), ("0.305", "0.306"), "so they are printed");
        assert_eq!(rows(1)[3].figures[..6], rows(5)[0].figures);
        assert_eq!(rows(5)[2].figures, rows(6)[2].figures);
        assert_eq!(ours[..2], rows(7)[2].figures);
        assert_eq!(rows(5)[1].figures[..2], rows(7)[0].figures);
    }

    /// Statements in the paper's text about its tables.
    #[test]
    fn figures_say_what_the_text_says() {
        // SwinIR is first and "Ours w/o text" second in PSNR and SSIM; the full model has the best FID and LPIPS.
        let table = PublishedTable::of(1).unwrap();
        let column = |j: usize| (0..table.rows.len()).map(|i| figure(1, i, j)).collect::<Vec<f64>>();
        let order = |j: usize| {
            let mut rows: Vec<usize> = (0..table.rows.len()).collect();
            rows.sort_by(|&a, &b| column(j)[b].total_cmp(&column(j)[a]));
            rows
        };
        assert_eq!((&order(2)[..2], &order(3)[..2]), (&[0, 4][..], &[0, 4][..]));
        assert_eq!((order(0)[8], order(6)[8], order(1)[8]), (8, 8, 8));
        // Table 4: better from 0.6 to 2.0; "Remove all degradation" better than all four; unmatched better than short.
        let iqa: Vec<f64> = (2..10).map(|row| figure(4, row, 0)).collect();
        assert!(iqa[0] < iqa[1] && iqa[1] < iqa[2] && iqa[..4].iter().all(|&manual| manual < iqa[4]), "{iqa:?}");
        assert!(iqa[5] < iqa[6] && iqa[4] < iqa[6] && iqa[6] < iqa[7], "{iqa:?}");
        // Section 4.5: both prompts bring ControlNet-SR 1.5 of FID, the modulation 0.8 more and 0.11 dB.
        assert!((figure(5, 0, 0) - figure(5, 1, 0) - 1.5).abs() < 0.05);
        assert!((figure(5, 1, 0) - figure(5, 3, 0) - 0.8).abs() < 0.005);
        assert!((figure(5, 3, 2) - figure(5, 1, 2) - 0.11).abs() < 0.005);
        // Appendix I: 0.305 on CBSD68.
        assert_eq!(figure(8, 1, 1), 0.305);
    }
}
