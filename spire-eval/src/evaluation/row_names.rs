//! The names of a table's rows, with what a reader must know about a row.

use super::notes::Notes;
use super::protocol::MethodProtocol;
use super::results::{BenchmarkResults, MethodResults, MethodSummary, Results};
use super::table::TableCell;

impl Results {
    /// A method's name. The input is marked as the reference; notes tell where a method was not measured, and whose pictures
    /// are the same.
    pub(super) fn name_of<'a>(
        &self,
        method: &MethodSummary,
        benchmarks: impl IntoIterator<Item = &'a BenchmarkResults>,
        notes: &mut Notes,
    ) -> TableCell {
        let note = |benchmark: &BenchmarkResults| match benchmark.method(&method.name) {
            Some(results) => self.same_pictures(benchmark, results),
            None => {
                let reason =
                    benchmark.unmeasured.get(&method.name).map_or(String::new(), |reason| format!(": {reason}"));
                Some(format!("{} was not measured on “{}”{reason}", method.name, benchmark.title))
            }
        };
        let marks: Vec<String> = benchmarks.into_iter().filter_map(note).map(|note| notes.mark(&note)).collect();
        let reference = if method.is_input { " (reference)" } else { "" };
        TableCell { mark: marks.join(" "), ..TableCell::from(format!("{}{reference}", method.name)) }
    }

    /// A note on the models that made the same pictures, as where a test set's restoration prompts are blind anyway.
    fn same_pictures(&self, benchmark: &BenchmarkResults, results: &MethodResults) -> Option<String> {
        let by_model = |method: &&MethodResults| {
            let protocol = method.figures.values().next().and_then(|figure| self.protocols.get(&figure.protocol));
            protocol.is_some_and(|protocol| matches!(protocol.method, MethodProtocol::Model { .. }))
        };
        let same = |method: &&MethodResults| !results.files.is_empty() && method.files == results.files;
        let names: Vec<&str> =
            benchmark.methods.iter().filter(by_model).filter(same).map(|method| method.name.as_str()).collect();
        (names.len() > 1 && names.contains(&results.name.as_str())).then(|| {
            format!(
                "on “{}” the rows {} are equal by construction: they have the same prompts and settings, and so the same pictures",
                benchmark.title,
                names.join(", ")
            )
        })
    }
}
