//! Progress on stderr: bars on a terminal, a line now and then elsewhere. All bars and lines share one place, so that they
//! never tear each other.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::message::{printable, printable_lines};

/// All bars of this process, one below the other.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Whether progress is hidden.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Without a terminal, a long phase reports this often.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Hides the progress of this process from now on. What is [printed](fn@print) is still shown.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether [`be_quiet`] was called.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// A bar of `total` with a template of `indicatif`; `None` if progress is hidden or stderr is no terminal.
///
/// # Panics
/// If the template is malformed.
pub fn bar(total: u64, template: &str) -> Option<ProgressBar> {
    if is_quiet() || !io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template(template).expect("the template is well formed").progress_chars("━╸─");
    let bar = BARS.add(ProgressBar::new(total).with_style(style));
    bar.enable_steady_tick(Duration::from_millis(500));
    Some(bar)
}

/// The progress of one phase of work that counts files, pictures or the like, with an estimate of the remaining time.
/// Without a terminal, a phase that takes long prints a line every half minute.
pub struct PhaseProgress {
    phase: String,
    total: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    /// How much is done, and when that was last reported in a line.
    reported: Mutex<(u64, Instant)>,
}

impl PhaseProgress {
    /// The progress of `phase`, such as "restoring", with `total` things to do.
    pub fn new(phase: &str, total: u64) -> Self {
        let bar = bar(total, "{prefix} {pos}/{len} {wide_bar:.cyan/8} {msg}  ETA {eta}");
        let bar = bar.map(|bar| bar.with_prefix(phase.to_owned()));
        let now = Instant::now();
        Self { phase: phase.to_owned(), total, started: now, bar, reported: Mutex::new((0, now)) }
    }

    /// Counts one more thing and shows its name, which may be empty.
    pub fn advance(&self, name: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(name).into_owned());
            bar.inc(1);
            return;
        }
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.0 += 1;
        if !is_quiet() && reported.0 < self.total && reported.1.elapsed() >= REPORT_EVERY {
            reported.1 = Instant::now();
            print(&report(&self.phase, reported.0, self.total, self.started.elapsed()));
        }
    }

    /// Prints a line above the bar.
    pub fn print(&self, text: &str) {
        print(text);
    }
}

impl Drop for PhaseProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn report(phase: &str, done: u64, total: u64, took: Duration) -> String {
    let left = took.mul_f64(total.saturating_sub(done) as f64 / done.max(1) as f64);
    format!("{phase} {done}/{total}  ETA {}", clock(left))
}

/// Prints a line on stderr, above all bars. Errors are ignored: work must go on if nobody reads the log any more.
pub fn print(line: &str) {
    let _ = writeln!(Stderr, "{}", printable_lines(line));
}

/// The standard error, above all bars.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        BARS.suspend(|| io::stderr().write_all(bytes))
    }

    fn write_fmt(&mut self, arguments: std::fmt::Arguments<'_>) -> io::Result<()> {
        // In one piece, so that the lines of several threads do not mix.
        self.write_all(arguments.to_string().as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Formats a duration as `1:02:03`, or as `2:03` under an hour.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_to_seconds() {
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(clock(Duration::from_millis(59_600)), "1:00");
    }

    #[test]
    fn a_report_estimates_the_remaining_time_from_the_time_so_far() {
        assert_eq!(report("validation", 16, 64, Duration::from_secs(30)), "validation 16/64  ETA 1:30");
        assert_eq!(report("validation", 0, 64, Duration::ZERO), "validation 0/64  ETA 0:00");
    }
}
