//! What a person sees of training: a bar on a terminal, a plain line now and then in a log file.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::metrics_log::StepMetrics;

/// How many of the last steps the remaining time is judged by.
const WINDOW: usize = 50;

/// The progress of one run, on stderr.
pub struct Progress {
    total: u64,
    lines_every: u64,
    bar: Option<ProgressBar>,
    recent: VecDeque<(u64, Instant)>,
}

impl Progress {
    /// A run of `total` steps that is about to take step `next_step`. Where stderr is no terminal, there is a line every
    /// `lines_every` steps in place of the bar.
    pub fn new(total: u64, next_step: u64, lines_every: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_bar:.cyan/8} {msg}").expect("the template is valid");
            let bar = ProgressBar::new(total).with_position(next_step).with_style(style.progress_chars("━╸─"));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let recent = VecDeque::from([(next_step, Instant::now())]);
        Self { total, lines_every: lines_every.max(1), bar, recent }
    }

    /// Shows the step just done.
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
            None if done.is_multiple_of(self.lines_every) || done == self.total => print(&line),
            None => {}
        }
    }

    /// Says something without tearing the bar: "validation …", "checkpoint written …".
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print(text)),
            None => print(text),
        }
    }

    /// Leaves the bar as it stands and goes to the next line.
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

/// The progress through a list of files, on stderr; without a terminal, nothing but what is [said](Self::say).
pub struct FileProgress {
    bar: ProgressBar,
}

impl FileProgress {
    /// Before the first of `total` files.
    pub fn new(total: u64) -> Self {
        let style = ProgressStyle::with_template("{pos}/{len} {wide_bar:.cyan/8} {msg}  ETA {eta}");
        let bar = ProgressBar::new(total).with_style(style.expect("the template is valid").progress_chars("━╸─"));
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar }
    }

    /// One file more is done.
    pub fn advance(&self, name: &str) {
        self.bar.set_message(name.to_owned());
        self.bar.inc(1);
    }

    /// Says something without tearing the bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| print(text));
    }
}

impl Drop for FileProgress {
    fn drop(&mut self) {
        self.bar.abandon();
    }
}

/// A log whose reader is gone is no reason to stop training, so failures to print are ignored.
fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
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

/// `1:02:03`, or `2:03` under an hour.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        StepMetrics { step, loss: 0.123_456, learning_rate: 1e-4, images_per_second: 34.56, ..Default::default() }
    }

    #[test]
    fn a_line_shows_step_loss_rate_speed_and_time_left() {
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
    fn the_time_left_follows_the_recent_speed() {
        assert_eq!(remaining(10, Duration::from_secs(5), 100), Some(Duration::from_secs(50)));
        assert_eq!(remaining(0, Duration::ZERO, 100), None);
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(clock(Duration::from_millis(59_600)), "1:00");
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
