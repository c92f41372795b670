//! The progress of training on stderr: a bar on a terminal, a line now and then in a log file.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use spire_core::progress::{bar, clock, is_quiet, print};

use super::metrics::StepMetrics;

/// The remaining time is estimated from this many last steps.
const WINDOW: usize = 50;

/// The progress of one run, on stderr.
pub struct Progress {
    total: u64,
    lines_every: u64,
    bar: Option<ProgressBar>,
    recent: VecDeque<(u64, Instant)>,
}

impl Progress {
    /// For a run of `total` steps whose next step is `next_step`. If stderr is not a terminal, a line every
    /// `lines_every` steps replaces the bar.
    pub fn new(total: u64, next_step: u64, lines_every: u64) -> Self {
        let bar = bar(total, "{wide_bar:.cyan/8} {msg}");
        if let Some(bar) = &bar {
            bar.set_position(next_step);
        }
        let recent = VecDeque::from([(next_step, Instant::now())]);
        Self { total, lines_every: lines_every.max(1), bar, recent }
    }

    /// Shows a finished step.
    pub fn step(&mut self, metrics: &StepMetrics) {
        let done = metrics.step + 1;
        self.recent.push_back((done, Instant::now()));
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        let line = line(metrics, self.total, self.remaining());
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.set_position(done);
            }
            None if is_quiet() => {}
            None if done.is_multiple_of(self.lines_every) || done == self.total => print(&line),
            None => {}
        }
    }

    /// Leaves the bar as it is and goes to the next line.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn remaining(&self) -> Option<Duration> {
        let (&(first, since), &(last, until)) = (self.recent.front()?, self.recent.back()?);
        remaining(last.checked_sub(first)?, until - since, self.total.saturating_sub(last))
    }
}

fn remaining(steps: u64, took: Duration, left: u64) -> Option<Duration> {
    let seconds = took.as_secs_f64() / steps as f64 * left as f64;
    Duration::try_from_secs_f64(seconds).ok()
}

fn line(metrics: &StepMetrics, total: u64, remaining: Option<Duration>) -> String {
    let StepMetrics { step, loss, learning_rate, images_per_second, data_wait, .. } = metrics;
    let width = total.to_string().len();
    let eta = remaining.map_or_else(|| "?".to_owned(), clock);
    let waited = data_wait.map(|share| format!("  waiting for data {:.1} %", 100.0 * share)).unwrap_or_default();
    let step = step + 1;
    format!(
        "step {step:>width$}/{total}  loss {loss:.4}  lr {learning_rate:.2e}  {images_per_second:.1} images/s{waited}  ETA {eta}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        StepMetrics { step, loss: 0.123_456, learning_rate: 1e-4, images_per_second: 34.56, ..Default::default() }
    }

    #[test]
    fn a_line_shows_step_loss_rate_speed_and_remaining_time() {
        assert_eq!(
            line(&metrics(41), 1200, Some(Duration::from_secs(754))),
            "step   42/1200  loss 0.1235  lr 1.00e-4  34.6 images/s  ETA 12:34"
        );
        assert!(line(&metrics(0), 1, None).ends_with("ETA ?"));
        let waited = StepMetrics { data_wait: Some(0.0149), ..metrics(0) };
        assert!(line(&waited, 1, None).contains("34.6 images/s  waiting for data 1.5 %  ETA"));
        let broken = StepMetrics { loss: f64::NAN, ..metrics(0) };
        assert!(line(&broken, 1, None).contains("loss NaN"));
    }

    #[test]
    fn the_remaining_time_follows_the_recent_speed() {
        assert_eq!(remaining(10, Duration::from_secs(5), 100), Some(Duration::from_secs(50)));
        assert_eq!(remaining(0, Duration::ZERO, 100), None);
    }

    #[test]
    fn a_resumed_run_counts_only_its_own_steps() {
        let mut progress = Progress::new(100, 40, 1000);
        progress.recent[0].1 -= Duration::from_secs(2);
        progress.step(&metrics(40));
        let left = progress.remaining().unwrap().as_secs_f64();
        assert!((118.0..200.0).contains(&left), "{left}");
    }
}
