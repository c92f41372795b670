//! The tables of an evaluation: first, if configured, in the layout of a table of the paper; then all scores of each
//! test set with intervals; then the differences.

use std::collections::BTreeMap;
use std::path::Path;

use super::metric::Metric;
use super::notes::Notes;
use super::published::{PublishedGroup, PublishedTable};
use super::results::{BenchmarkResults, Figure, MethodResults, Results};
use super::table::{Align, Table, TableCell, TableRow};

/// A cell without a value.
const NONE: &str = "–";

impl Results {
    /// The table in the paper's layout, if configured, and for each test set its scores and differences.
    pub fn tables(&self) -> Vec<Table> {
        let layout = self.paper_table.and_then(PublishedTable::of);
        let of_benchmarks = self.benchmarks.iter().flat_map(|of| [Some(self.figures(of)), differences(of)]).flatten();
        layout.iter().map(|layout| self.as_in_paper(layout)).chain(of_benchmarks).collect()
    }

    /// All scores on one test set, with intervals.
    pub(super) fn figures(&self, benchmark: &BenchmarkResults) -> Table {
        let metrics = measured(benchmark);
        let mut table = Table::new(&benchmark.title);
        let mut notes = Notes::default();
        table.column("", "Method", Align::Left);
        metrics.iter().for_each(|&metric| table.column("", &heading(metric), Align::Right));
        table.column("", "Hash of the method", Align::Left);
        let columns: Vec<_> = metrics.iter().map(|&metric| self.column(benchmark, metric, &mut notes)).collect();
        for (i, method) in self.methods.iter().enumerate() {
            let mut cells = vec![self.name_of(method, [benchmark], &mut notes)];
            cells.extend(columns.iter().map(|column| column[i].clone()));
            cells.push(benchmark.method(&method.name).map_or(NONE, |results| &results.made).into());
            table.rows.push(TableRow { cells, quoted: false });
        }
        let measure = |metric: &Metric| {
            let figures = benchmark.methods.iter().filter_map(|method| method.figures.get(metric));
            Some(format!("{} `{}`", metric.name(), self.usual_measure(figures)?))
        };
        table.note(&format!(
            "{} pictures, hash of the test set `{}`. Brackets: 95 % bootstrap intervals of the mean. Hashes of how each \
             metric was measured: {}; the last column has the hash of how the pictures were made. results.json has in full \
             what the hashes stand for.{}",
            benchmark.ids.len(),
            &benchmark.checksum[..benchmark.checksum.len().min(8)],
            metrics.iter().filter_map(measure).collect::<Vec<_>>().join(", "),
            self.about_bold()
        ));
        table.notes.extend(notes.0);
        for (metric, needed) in &self.missing {
            table.note(&format!("{} is missing: {needed}.", metric.name()));
        }
        self.cautions.iter().for_each(|caution| table.note(&format!("{caution}.")));
        table
    }

    /// One metric on one test set, one cell per method. The best restored one is bold. Cells with another measurement
    /// protocol than most are marked and excluded from the comparison.
    fn column(&self, benchmark: &BenchmarkResults, metric: Metric, notes: &mut Notes) -> Vec<TableCell> {
        let figure = |name: &str| benchmark.method(name).and_then(|method| method.figures.get(&metric));
        let figures: Vec<Option<&Figure>> = self.methods.iter().map(|method| figure(&method.name)).collect();
        let usual = self.usual_measure(figures.iter().copied().flatten());
        let alike = |figure: &Figure| self.measure(figure) == usual;
        let competes: Vec<bool> = self.methods.iter().map(|method| !method.is_input).collect();
        let others = figures.iter().zip(&competes).filter_map(|(figure, competes)| figure.filter(|_| *competes));
        let comparable: Vec<f64> = others.filter(|figure| alike(figure)).map(|figure| figure.value).collect();
        let best = comparable.iter().copied().reduce(if metric.rises() { f64::max } else { f64::min });
        let digits = metric.decimals();
        let mut cell = |(figure, competes): (&Option<&Figure>, &bool)| {
            let Some(figure) = figure else { return NONE.into() };
            let range = |found: super::Interval| format!("[{:.digits$}, {:.digits$}]", found.low, found.high);
            TableCell {
                text: format!("{:.digits$}", figure.value),
                range: figure.interval.map_or(String::new(), range),
                mark: if alike(figure) { String::new() } else { notes.mark(&self.otherwise(figure, &usual)) },
                bold: comparable.len() > 1 && *competes && alike(figure) && Some(figure.value) == best,
            }
        };
        figures.iter().zip(&competes).map(&mut cell).collect()
    }

    /// What bold means, if the input is a row.
    fn about_bold(&self) -> &'static str {
        match self.methods.iter().any(|method| method.is_input) {
            true => " Bold is the best of the restored ones; the reference is the input.",
            false => "",
        }
    }

    /// The fingerprint of a score's measurement, without the method.
    fn measure(&self, figure: &Figure) -> Option<String> {
        Some(self.protocols.get(&figure.protocol)?.measure())
    }

    /// The most frequent measurement protocol; the first of equally frequent ones.
    fn usual_measure<'a>(&self, figures: impl Iterator<Item = &'a Figure>) -> Option<String> {
        let measures: Vec<String> = figures.filter_map(|figure| self.measure(figure)).collect();
        let mut count: BTreeMap<&String, usize> = BTreeMap::new();
        measures.iter().for_each(|measure| *count.entry(measure).or_default() += 1);
        let most = count.values().max()?;
        measures.iter().find(|measure| count[measure] == *most).cloned()
    }

    /// The differences between a score's protocol and the column's.
    fn otherwise(&self, figure: &Figure, usual: &Option<String>) -> String {
        let column = self.protocols.values().find(|protocol| Some(protocol.measure()) == *usual);
        match self.protocols.get(&figure.protocol).zip(column) {
            Some((protocol, column)) => {
                format!("measured otherwise than the rest of its column: {}", protocol.differences(column).join("; "))
            }
            None => "it is not known how this was measured".to_owned(),
        }
    }

    /// A table in the paper's layout, with the published values above the measured ones.
    pub(super) fn as_in_paper(&self, layout: &PublishedTable) -> Table {
        let places = self.places(layout);
        let elsewhere: Vec<String> =
            layout.groups.iter().zip(&places).filter_map(|(group, place)| other_pictures(group, (*place)?)).collect();
        let mut table = Table::new(&match elsewhere.is_empty() {
            true => format!("Table {}: {}", layout.number, layout.caption),
            false => format!("In the layout of Table {}", layout.number),
        });
        table.compact = true;
        let mut notes = Notes::default();
        table.column("", "Method", Align::Left);
        layout.marks.iter().for_each(|mark| table.column(&layout.marks_heading, mark, Align::Left));
        table.column("", "Source", Align::Left);

        let mut columns: Vec<Vec<TableCell>> = vec![];
        for (group, place) in layout.groups.iter().zip(&places) {
            for name in &group.metrics {
                let metric = Metric::ALL.into_iter().find(|metric| metric.name() == name);
                table.column(&group.heading, &metric.map_or_else(|| name.clone(), heading), Align::Right);
                columns.push(match self.why_empty(group, name, metric, *place) {
                    Some(reason) => {
                        let mark = notes.mark(&reason);
                        self.methods.iter().map(|_| TableCell { mark: mark.clone(), ..NONE.into() }).collect()
                    }
                    None => {
                        place.zip(metric).map(|(on, metric)| self.column(on, metric, &mut notes)).unwrap_or_default()
                    }
                });
            }
        }
        if elsewhere.is_empty() {
            for row in &layout.rows {
                let texts = [&row.method].into_iter().chain(&row.marks);
                let mut cells: Vec<TableCell> = texts.map(TableCell::from).collect();
                cells.push("paper".into());
                cells.extend(row.figures.iter().map(TableCell::from));
                table.rows.push(TableRow { cells, quoted: true });
            }
        }
        for (i, method) in self.methods.iter().enumerate() {
            let mut cells = vec![self.name_of(method, places.iter().copied().flatten(), &mut notes)];
            cells.extend(
                layout.marks.iter().map(|mark| TableCell::from(method.marks.get(mark).map_or(NONE, String::as_str))),
            );
            cells.push("measured".into());
            cells.extend(columns.iter().map(|column| column[i].clone()));
            table.rows.push(TableRow { cells, quoted: false });
        }

        match &layout.absent {
            _ if !elsewhere.is_empty() => table.note(&format!(
                "The paper's figures are left out: they are of other pictures. Measured here: {}.",
                elsewhere.join(", ")
            )),
            Some(reason) => table.note(&format!("There are no rows of the paper: {reason}.")),
            None => table.note(&format!(
                "Source “paper”, in italics: as printed in Table {} of arXiv:2312.11595, by models, weights, pictures and \
                 settings of metrics that were not published. Source “measured”: by {}, as the tables below say in full, \
                 with intervals. The two are not compared: bold is the best of the restored ones.",
                layout.number, self.program
            )),
        }
        table.notes.extend(notes.0);
        table
    }

    /// The test set of each group of the layout: by name, or by position if no name matches.
    fn places(&self, layout: &PublishedTable) -> Vec<Option<&BenchmarkResults>> {
        let by_name = |group: &PublishedGroup| {
            self.benchmarks.iter().find(|on| group.benchmarks.iter().any(|name| name == folder_name(on)))
        };
        let named: Vec<_> = layout.groups.iter().map(by_name).collect();
        match named.iter().any(Option::is_some) {
            true => named,
            false => (0..layout.groups.len()).map(|i| self.benchmarks.get(i)).collect(),
        }
    }

    /// Why a column of the layout has no measured values.
    fn why_empty(
        &self,
        group: &PublishedGroup,
        name: &str,
        metric: Option<Metric>,
        place: Option<&BenchmarkResults>,
    ) -> Option<String> {
        let Some(place) = place else {
            return Some(format!("not measured: no benchmark of the evaluation is {}", group.benchmarks.join(" or ")));
        };
        let Some(metric) = metric else { return Some(format!("{name} is not measured by {}", self.program)) };
        let there = place.methods.iter().any(|method| method.figures.contains_key(&metric));
        let needed = self.missing.get(&metric).map(|needed| format!("{name} is missing: {needed}"));
        let unasked = || {
            format!("{name} was not measured on {}: not among the metrics, or there are no clean pictures", place.title)
        };
        (!there).then(|| needed.unwrap_or_else(unasked))
    }
}

/// A note on the test set, if it is not the one of the paper's group.
fn other_pictures(group: &PublishedGroup, place: &BenchmarkResults) -> Option<String> {
    let name = folder_name(place);
    let same = group.benchmarks.iter().any(|paper| paper == name);
    (!same).then(|| format!("{name} (the paper's: {})", group.benchmarks.join(" or ")))
}

/// A metric's name with an arrow for its better direction.
pub(super) fn heading(metric: Metric) -> String {
    format!("{} {}", metric.name(), if metric.rises() { "↑" } else { "↓" })
}

/// The name of the test set's folder.
fn folder_name(benchmark: &BenchmarkResults) -> &str {
    Path::new(&benchmark.folder).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The metrics that at least one method has, in the order of the columns.
pub(super) fn measured(benchmark: &BenchmarkResults) -> Vec<Metric> {
    let there = |metric: &Metric| benchmark.methods.iter().any(|method| method.figures.contains_key(metric));
    Metric::ALL.into_iter().filter(there).collect()
}

pub(super) fn differences(benchmark: &BenchmarkResults) -> Option<Table> {
    let against = benchmark.against.as_ref()?;
    let there = |metric: &Metric| benchmark.methods.iter().any(|method| method.differences.contains_key(metric));
    let metrics: Vec<Metric> = Metric::ALL.into_iter().filter(there).collect();
    let mut table = Table::new(&format!("{}: differences to {against}", benchmark.title));
    table.column("", "Method", Align::Left);
    metrics.iter().for_each(|metric| table.column("", metric.name(), Align::Right));
    let cell = |method: &MethodResults, metric: &Metric| {
        let Some(found) = method.differences.get(metric) else { return NONE.into() };
        let digits = metric.decimals();
        TableCell {
            text: format!("{:+.digits$}", found.mean),
            range: format!("[{:+.digits$}, {:+.digits$}]", found.low, found.high),
            mark: String::new(),
            bold: found.low > 0.0 || found.high < 0.0,
        }
    };
    for method in benchmark.methods.iter().filter(|method| !method.differences.is_empty()) {
        let mut cells = vec![TableCell::from(&method.name)];
        cells.extend(metrics.iter().map(|metric| cell(method, metric)));
        table.rows.push(TableRow { cells, quoted: false });
    }
    table.note(
        "Picture by picture, with 95 % bootstrap intervals of the mean difference; bold where the interval excludes 0.",
    );
    (!table.rows.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::{Interval, MethodProtocol, MethodSummary, Protocol};

    /// Two methods of three on each of two benchmarks; the first has been measured with other weights of LPIPS.
    fn results(folders: [&str; 2]) -> Results {
        let mut results = Results {
            name: "test".into(),
            program: "spire 0".into(),
            paper_table: None,
            methods: ["First", "Second", "Third"]
                .map(|name| MethodSummary { name: name.into(), marks: BTreeMap::new(), is_input: false })
                .to_vec(),
            benchmarks: vec![],
            missing: BTreeMap::from([(Metric::Ssim, "a reason".to_owned())]),
            cautions: vec![],
            protocols: BTreeMap::new(),
        };
        results.methods[0].marks = BTreeMap::from([("Sem".into(), "✓".into()), ("Res".into(), "wo param".into())]);
        for folder in folders {
            let mut methods = vec![];
            for (name, psnr, lpips) in [("First", 20.0, 0.1), ("Second", 25.0, 0.3)] {
                let mut figures = BTreeMap::new();
                for (metric, value) in [(Metric::Psnr, psnr), (Metric::Lpips, lpips)] {
                    let other = metric == Metric::Lpips && name == "First";
                    let protocol = Protocol {
                        metric: metric.name().into(),
                        variant: String::new(),
                        weights: Some(if other { "0123456789" } else { "fedcba98" }.into()),
                        preprocessing: String::new(),
                        images: 9,
                        benchmark: folder.into(),
                        method: MethodProtocol::Folder { files: name.into() },
                    };
                    let interval = Some(Interval { mean: value, low: value - 1.0, high: value + 1.0 });
                    figures.insert(metric, Figure { value, interval, protocol: protocol.fingerprint() });
                    results.protocols.insert(protocol.fingerprint(), protocol);
                }
                methods.push(MethodResults {
                    name: name.into(),
                    made: String::new(),
                    files: String::new(),
                    figures,
                    differences: BTreeMap::new(),
                    per_image: BTreeMap::new(),
                });
            }
            results.benchmarks.push(BenchmarkResults {
                title: format!("On {folder}"),
                folder: format!("benchmarks/{folder}"),
                checksum: folder.into(),
                ids: vec!["a".into()],
                methods,
                unmeasured: BTreeMap::from([("Third".into(), "there is no folder".into())]),
                against: None,
            });
        }
        results
    }

    fn cells(table: &Table, row: usize) -> Vec<String> {
        table.rows[row].cells.iter().map(|cell| [cell.text.as_str(), &cell.mark].join("")).collect()
    }

    #[test]
    fn figures_measured_in_different_ways_are_marked_and_not_compared() {
        let table = &results(["x", "y"]).tables()[0];
        assert_eq!(cells(table, 0), ["First", "0.100", "20.00", ""]);
        assert_eq!(cells(table, 1), ["Second", "0.300(a)", "25.00", ""]);
        let all = table.rows.iter().flat_map(|row| &row.cells);
        let bold: Vec<&str> = all.filter(|cell| cell.bold).map(|cell| cell.text.as_str()).collect();
        assert_eq!(bold, ["25.00"], "PSNR can be compared, LPIPS can't");
        let note = "(a) measured otherwise than the rest of its column: weights fedcba98, not 01234567.";
        assert!(table.notes.iter().any(|there| there == note), "{:?}", table.notes);
    }

    #[test]
    fn the_input_is_a_reference_and_never_the_best() {
        let mut results = results(["x", "y"]);
        results.methods[1].is_input = true;
        let table = &results.tables()[0];
        assert_eq!(cells(table, 1)[0], "Second (reference)");
        assert!(table.rows.iter().flat_map(|row| &row.cells).all(|cell| !cell.bold), "one method has no competitor");
        assert!(table.notes[0].ends_with("the reference is the input."), "{:?}", table.notes);
        results.methods[1].is_input = false;
        results.methods[0].is_input = true;
        assert!(results.tables()[0].rows.iter().flat_map(|row| &row.cells).all(|cell| !cell.bold));
    }

    #[test]
    fn models_with_the_same_pictures_have_a_note() {
        let mut results = results(["x", "y"]);
        let model = MethodProtocol::Model {
            model: "run".into(),
            base: String::new(),
            control: String::new(),
            precision: String::new(),
            semantic: true,
            restoration: "none".into(),
            seed: 0,
            sampling: Box::default(),
            captions: None,
            upscale: None,
        };
        let note = "(b) on “On x” the rows First, Second are equal by construction: they have the same prompts and settings, \
            and so the same pictures.";
        let noted = |results: &Results| results.tables()[0].notes.iter().any(|there| there == note);
        results.benchmarks[0].methods.iter_mut().for_each(|method| method.files = "the same".into());
        let copies = &results.tables()[0].notes;
        assert!(copies.iter().all(|there| !there.contains("construction")), "copies of files: {copies:?}");
        results.protocols.values_mut().for_each(|protocol| protocol.method = model.clone());
        assert!(noted(&results), "{:?}", results.tables()[0].notes);
        assert_eq!(cells(&results.tables()[0], 1)[0], "Second(b)");
        assert!(results.tables()[1].notes.iter().all(|there| !there.contains("construction")));
    }

    #[test]
    fn a_method_that_was_not_measured_is_a_row_of_dashes_with_its_reason() {
        let results = results(["x", "y"]);
        for table in [&results.tables()[0], &Results { paper_table: Some(1), ..results.clone() }.tables()[0]] {
            let row = cells(table, 2);
            let mark = row[0].strip_prefix("Third").unwrap();
            assert!(row[1..].iter().all(|cell| cell.starts_with('–') || cell == "measured"), "{row:?}");
            let mark = mark.split(' ').next().unwrap();
            let reason = format!("{mark} Third was not measured on “On x”: there is no folder.");
            assert!(table.notes.contains(&reason), "{reason} in {:?}", table.notes);
        }
    }

    #[test]
    fn the_paper_s_layout_has_its_columns_and_its_figures_apart_from_ours() {
        let results = Results { paper_table: Some(1), ..results(["coco-real-esrgan", "coco-parameterized"]) };
        let tables = results.tables();
        assert_eq!(tables.len(), 3, "the full tables follow");
        let table = &tables[0];
        let groups =
            [("", 1), ("Prompts", 2), ("", 1), ("Parameterised degradation", 6), ("Real-ESRGAN degradation", 6)];
        assert_eq!(table.groups(), groups);
        let heading = |column: &super::super::Column| column.heading.split(' ').next().unwrap().to_owned();
        let metrics = ["FID", "LPIPS", "PSNR", "SSIM", "CLIP-I", "CLIP-T"];
        let expected = [&["Method", "Sem", "Res", "Source"][..], &metrics, &metrics].concat();
        assert_eq!(table.columns.iter().map(heading).collect::<Vec<_>>(), expected);

        let quoted: Vec<bool> = table.rows.iter().map(|row| row.quoted).collect();
        assert_eq!(quoted, [[true; 9].as_slice(), &[false; 3]].concat());
        assert_eq!(cells(table, 8)[..6], ["Ours", "✓", "✓", "paper", "11.34", "0.219"]);
        assert!(
            table.rows[..9].iter().flat_map(|row| &row.cells).all(|cell| !cell.bold),
            "the paper's are not compared"
        );
        let ours = cells(table, 9);
        assert_eq!(ours[..4], ["First", "✓", "wo param", "measured"]);
        assert_eq!((ours[6].as_str(), ours[12].as_str()), ("20.00", "20.00"));
        assert!(table.rows[10].cells[6].bold, "the best of ours");
        let mark = ours[7].strip_prefix('–').unwrap();
        assert!(table.notes.contains(&format!("{mark} SSIM is missing: a reason.")), "{:?}", table.notes);
        assert!(table.notes[0].contains("not compared") && table.notes[0].contains("Table 1 of arXiv:2312.11595"));
        assert!(!table.markdown().contains("[19.00"), "intervals are in the full tables");
        assert!(tables[1].markdown().contains("20.00 [19.00, 21.00]"));
    }

    #[test]
    fn on_other_pictures_the_paper_s_figures_are_left_out() {
        let table = &Results { paper_table: Some(1), ..results(["tiny", "coco"]) }.tables()[0];
        assert_eq!(table.title, "In the layout of Table 1");
        assert!(table.rows.iter().all(|row| !row.quoted));
        assert!(
            table.notes[0].contains("left out") && table.notes[0].contains("tiny (the paper's: coco-parameterized)")
        );
        // Where one half is there, the other has dashes, and the paper's figures stay.
        let half = Results { paper_table: Some(1), ..results(["tiny", "coco-parameterized"]) };
        let table = &half.tables()[0];
        assert_eq!(cells(table, 9)[6], "20.00");
        let mark = cells(table, 9)[12].strip_prefix('–').unwrap().to_owned();
        let note = format!("{mark} not measured: no benchmark of the evaluation is coco-real-esrgan.");
        assert!(table.notes.contains(&note), "{:?}", table.notes);
    }

    #[test]
    fn every_table_of_the_paper_is_a_layout() {
        let table = &Results { paper_table: Some(8), ..results(["set5-x4", "live1-jpeg40"]) }.tables()[0];
        assert_eq!(table.groups()[1..], [("Super-resolution", 1), ("Denoising", 1), ("De-JPEG", 1)]);
        let row = cells(table, 2);
        assert_eq!((row[2].as_str(), &row[3][..3], row[4].as_str()), ("0.100", "–", "0.100"));
        for number in [1, 3, 4, 5, 6, 7, 8] {
            let results = Results { paper_table: Some(number), ..results(["x", "y"]) };
            let table = &results.tables()[0];
            assert!(table.rows.iter().all(|row| row.cells.len() == table.columns.len()), "table {number}");
        }
    }
}
