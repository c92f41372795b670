//! The plan of a sweep: its numbered cells, what would be trained, and for how long (`spire sweep --list`).

use std::time::Duration;

use anyhow::Result;
use spire_core::progress::clock;

use super::Sweep;
use super::cells::{Cell, State};

impl Sweep {
    /// The number of variants.
    fn variants(&self) -> usize {
        self.cells.len() / self.config.seeds.len()
    }

    /// What would be trained, and for how long: a numbered line per cell, and the total.
    ///
    /// # Errors
    /// The configuration with which a cell began can't be read.
    pub fn plan(&self) -> Result<String> {
        let mut lines: Vec<[String; 5]> = vec![];
        let mut open = vec![];
        for (number, cell) in self.cells.iter().enumerate() {
            let mut time = String::new();
            let state = match cell.state() {
                _ if !cell.differences()?.is_empty() => {
                    format!("began with another configuration: {}", cell.differences()?.join("; "))
                }
                State::Done => "done".to_owned(),
                State::Failed { reason } => format!("failed: {}", reason.lines().next().unwrap_or_default()),
                state @ (State::ToDo | State::CutOff { .. }) => {
                    let left = self.seconds_left(cell);
                    open.push(left);
                    time = about(left);
                    match state {
                        State::CutOff { step } => format!("continues at step {step} of {}", cell.config.train.steps),
                        _ => "to do".to_owned(),
                    }
                }
            };
            lines.push([number.to_string(), cell.name(), state, time, cell.changes.join(", ")]);
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
        let [first, second, third, fourth]: [usize; 4] = std::array::from_fn(width);
        let mut text = String::new();
        for [number, name, state, time, changes] in &lines {
            text += format!("{number:>first$}  {name:second$}  {state:third$}  {time:fourth$}  {changes}").trim_end();
            text.push('\n');
        }
        text += &format!("\n{} variants, {} seeds, {} cells", self.variants(), self.config.seeds.len(), lines.len());
        Ok(text + &self.total(&open))
    }

    /// Cells that train at the same time.
    fn at_a_time(&self) -> usize {
        self.config.devices.len().max(1) * self.config.parallel
    }

    fn total(&self, times: &[Option<f64>]) -> String {
        if times.is_empty() {
            return "; nothing to train\n".to_owned();
        }
        let total = times.iter().copied().collect::<Option<Vec<f64>>>().map(|times| {
            let longest = times.iter().copied().fold(0.0, f64::max);
            (times.iter().sum::<f64>() / self.at_a_time() as f64).max(longest)
        });
        let then = if self.evaluation.is_some() { ", then the evaluation" } else { "" };
        format!("; {} to train, {} at a time: {}{then}\n", times.len(), self.at_a_time(), about(total))
    }

    /// Remaining training time of a cell in seconds, estimated from trained cells of its variant, or else from any;
    /// `None` without trained cells.
    fn seconds_left(&self, cell: &Cell) -> Option<f64> {
        let measured = |like: &dyn Fn(&Cell) -> bool| {
            let times: Vec<f64> =
                self.cells.iter().filter(|other| like(other)).filter_map(Cell::seconds_per_sample).collect();
            (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64)
        };
        let seconds = measured(&|other| other.variant == cell.variant).or_else(|| measured(&|_| true))?;
        Some(seconds * cell.samples_left() as f64)
    }
}

/// "about 1:02", or "time unknown"
fn about(seconds: Option<f64>) -> String {
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(time) => format!("about {}", clock(time)),
        None => "time unknown".to_owned(),
    }
}
