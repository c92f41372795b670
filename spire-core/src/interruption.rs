//! What an interruption (Ctrl-C) ends: usually the work after the current step, but at once in a phase that has nothing to
//! save. As signals, this concerns the whole process.

use std::sync::{Mutex, PoisonError};

/// The phases that end at once, each with what to tell the user.
static PHASES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// As long as this lives, an interruption ends the process at once.
#[derive(Debug)]
#[must_use = "the phase ends when this is dropped"]
pub struct EndsAtOnce(());

/// Begins a phase that an interruption ends at once; `told` says what that means for the user.
pub fn ends_at_once(told: impl Into<String>) -> EndsAtOnce {
    PHASES.lock().unwrap_or_else(PoisonError::into_inner).push(told.into());
    EndsAtOnce(())
}

/// What to tell the user if an interruption ends the process now; `None` if the work stops by itself.
pub fn ending_now() -> Option<String> {
    PHASES.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
}

impl Drop for EndsAtOnce {
    fn drop(&mut self) {
        PHASES.lock().unwrap_or_else(PoisonError::into_inner).pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_phase_tells() {
        assert_eq!(ending_now(), None);
        let outer = ends_at_once("nothing is written");
        let inner = ends_at_once("the figures are missing");
        assert_eq!(ending_now().as_deref(), Some("the figures are missing"));
        drop(inner);
        assert_eq!(ending_now().as_deref(), Some("nothing is written"));
        drop(outer);
        assert_eq!(ending_now(), None);
    }
}
