//! The progress of a sweep: on a terminal one table with a live row for each cell, elsewhere a line when a cell begins and ends.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use spire_core::progress::{PhaseProgress, bar, print};

use super::cells::Cell;
use crate::logging::metrics::StepMetrics;

/// Interval between two looks at the metrics of a cell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most bytes at the end of `metrics.jsonl` that are read for the last step.
const TAIL: u64 = 4096;

/// All cells that a sweep trains.
pub struct ProgressTable {
    rows: Vec<Row>,
    /// Counts the cells that ended.
    whole: PhaseProgress,
}

/// One cell.
pub struct Row {
    bar: Option<ProgressBar>,
    looked: Mutex<Instant>,
}

impl ProgressTable {
    pub fn new(cells: &[&Cell]) -> Self {
        let width = cells.iter().map(|cell| cell.name().chars().count()).max().unwrap_or_default();
        let row = |cell: &&Cell| {
            let bar = bar(cell.config.train.steps, "{prefix}  {pos:>7}/{len} {bar:24.cyan/8}  {wide_msg}");
            let bar = bar.map(|bar| bar.with_prefix(format!("{:width$}", cell.name())).with_message("waits"));
            Row { bar, looked: Mutex::new(Instant::now()) }
        };
        Self { rows: cells.iter().map(row).collect(), whole: PhaseProgress::new("cells", cells.len() as u64) }
    }

    pub fn row(&self, number: usize) -> &Row {
        &self.rows[number]
    }

    /// Counts one more cell that ended.
    pub fn advance(&self) {
        self.whole.advance("");
    }
}

impl Row {
    /// The cell's training begins.
    pub fn begin(&self, cell: &Cell) {
        match &self.bar {
            Some(bar) => bar.set_message("begins"),
            None => print(&format!("{}: training; {}", cell.name(), cell.log().display())),
        }
    }

    /// Shows the last step, at most once a second.
    pub fn look(&self, cell: &Cell) {
        let (Some(bar), Ok(mut looked)) = (&self.bar, self.looked.lock()) else { return };
        if looked.elapsed() < LOOK_EVERY {
            return;
        }
        *looked = Instant::now();
        let Some(last) = last_step(&cell.run().metrics()) else { return };
        let done = last.step + 1;
        bar.set_position(done);
        // The final figures come after the last step.
        bar.set_message(match done < cell.config.train.steps {
            true => format!("loss {:.4}  {:.1} images/s", last.loss, last.images_per_second),
            false => format!("loss {:.4}  measures figures", last.loss),
        });
    }

    /// The cell's training ended, as `how` says.
    pub fn end(&self, cell: &Cell, how: &str) {
        match &self.bar {
            Some(bar) => bar.abandon_with_message(how.lines().next().unwrap_or_default().to_owned()),
            None => print(&format!("{}: {how}", cell.name())),
        }
    }
}

/// The last whole line of a `metrics.jsonl`, which another process may be writing; `None` without one.
fn last_step(metrics: &Path) -> Option<StepMetrics> {
    let mut file = File::open(metrics).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let whole = &tail[..tail.iter().rposition(|&byte| byte == b'\n')?];
    serde_json::from_slice(whole.rsplit(|&byte| byte == b'\n').next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_the_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        assert!(last_step(&path).is_none());
        let line = |step| serde_json::to_string(&StepMetrics { step, loss: 0.5, ..StepMetrics::default() }).unwrap();
        let whole: String = (0..200).map(|step| line(step) + "\n").collect();
        std::fs::write(&path, format!("{whole}{{\"step\": 20")).unwrap();
        assert_eq!(last_step(&path).unwrap().step, 199);
        std::fs::write(&path, "{\"step\": 0").unwrap();
        assert!(last_step(&path).is_none());
    }
}
