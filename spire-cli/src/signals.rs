//! Stopping cleanly on Ctrl-C and on the signals that end a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use spire_core::{interruption, progress};

/// The exit status of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A flag that SIGINT (Ctrl-C), SIGTERM and SIGHUP set. The first signal prints `message`, or ends the process if it is in a
/// phase that has [nothing to save](interruption::ends_at_once); the second ends it in any case.
pub fn interruption(message: &'static str) -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    on_signal(move || {
        if flag.load(Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        interrupt(&flag);
        progress::print(message);
    })?;
    Ok(interrupted)
}

/// Sets the flag, or ends the process if it is in a phase that has nothing to save.
pub fn interrupt(flag: &AtomicBool) {
    flag.store(true, Ordering::Relaxed);
    if let Some(told) = interruption::ending_now() {
        progress::print(&format!("interrupted: {told}"));
        std::process::exit(INTERRUPTED);
    }
}

/// Turns the signal of a limit on the size of files (`ulimit -f`), which would end the process without a word, into an error
/// of the write.
pub fn outlive_size_limit() {
    #[cfg(unix)]
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()) {
        tracing::debug!(%error, "the signal of the limit on the size of files keeps its effect");
    }
}

#[cfg(unix)]
fn on_signal(mut handle: impl FnMut() + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    // `nohup` asks to ignore SIGHUP; a handler would undo that.
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))?;
    std::thread::spawn(move || signals.forever().for_each(|_| handle()));
    Ok(())
}

#[cfg(not(unix))]
fn on_signal(handle: impl FnMut() + Send + 'static) -> Result<()> {
    Ok(ctrlc::set_handler(handle)?)
}

/// Whether this process was started with `signal` ignored, as `nohup` does with SIGHUP. Reads `/proc`; where that does
/// not exist, the answer is no.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
