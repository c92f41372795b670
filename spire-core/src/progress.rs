//! Progress on stderr: a bar on a terminal, lines elsewhere.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::message::{printable, printable_lines};

/// A progress bar for a list of files, on stderr. Without a terminal it shows only what is [printed](Self::print).
pub struct FileProgress {
    bar: ProgressBar,
}

impl FileProgress {
    /// A bar for `total` files.
    pub fn new(total: u64) -> Self {
        let style = ProgressStyle::with_template("{pos}/{len} {wide_bar:.cyan/8} {msg}  ETA {eta}");
        let bar = ProgressBar::new(total).with_style(style.expect("the template is valid").progress_chars("━╸─"));
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar }
    }

    /// Counts one more file and shows its name.
    pub fn advance(&self, name: &str) {
        self.bar.set_message(printable(name).into_owned());
        self.bar.inc(1);
    }

    /// Prints a line above the bar.
    pub fn print(&self, text: &str) {
        self.bar.suspend(|| print(text));
    }
}

impl Drop for FileProgress {
    fn drop(&mut self) {
        self.bar.abandon();
    }
}

/// Prints a line on stderr. Errors are ignored: work must go on if nobody reads the log any more.
pub fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable_lines(line));
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
}
