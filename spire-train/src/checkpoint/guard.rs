//! Decides which checkpoints of a running training are good.
//!
//! A step whose loss or gradients are not finite changes no weights, so a diverging run looks healthy from outside: it
//! goes on writing checkpoints of weights that are lost already. Therefore a checkpoint counts as good only when finite
//! steps have followed it, none is written in a bad stretch, and none is written of weights that are not finite.

use std::collections::VecDeque;

use anyhow::{Result, anyhow};

use super::saved::{Checkpoint, Standing};
use super::store::CheckpointStore;

/// Finite steps in a row that must follow a checkpoint before it counts as good.
const PROOF: u64 = 3;

/// The checkpoints of a running training.
pub struct Guard {
    store: CheckpointStore,
    /// Whether this rank writes them.
    writes: bool,
    /// The steps of checkpoints that too few steps have followed, oldest first.
    unproven: VecDeque<u64>,
    /// Finite steps in a row, until now.
    finite: u64,
    /// Steps in a row that were not finite, until now.
    bad: u32,
}

impl Guard {
    /// For a run that continues from the checkpoint `resumed`, or starts. Only a rank that `writes` changes files.
    pub fn new(store: CheckpointStore, resumed: Option<&Checkpoint>, writes: bool) -> Self {
        let unproven = resumed.filter(|checkpoint| checkpoint.standing != Standing::Good).map(|unproven| unproven.step);
        Self { store, writes, unproven: unproven.into_iter().collect(), finite: 0, bad: 0 }
    }

    /// Takes note of a step, after which `done` steps are done. `finite` says whether its loss and gradients were.
    ///
    /// # Errors
    /// A checkpoint that is now known to be good can't be marked.
    pub fn step(&mut self, done: u64, finite: bool) -> Result<()> {
        if !finite {
            (self.finite, self.bad) = (0, self.bad + 1);
            return Ok(());
        }
        (self.finite, self.bad) = (self.finite + 1, 0);
        let mut proven = None;
        while let Some(&step) = self.unproven.front()
            && self.finite >= PROOF
            && step + PROOF <= done
        {
            proven = self.unproven.pop_front();
        }
        match proven {
            Some(step) if self.writes => Ok(self.store.mark_good(step)?),
            _ => Ok(()),
        }
    }

    /// Marks all checkpoints so far as good: something else has shown it.
    ///
    /// # Errors
    /// One can't be marked.
    pub fn prove(&mut self) -> Result<()> {
        match self.unproven.drain(..).next_back() {
            Some(step) if self.writes => Ok(self.store.mark_good(step)?),
            _ => Ok(()),
        }
    }

    /// Steps in a row that were not finite, until now.
    pub fn bad_steps(&self) -> u32 {
        self.bad
    }

    /// Writes a checkpoint of `step`; `files` and `score` as [`CheckpointStore::save`] takes them.
    ///
    /// # Errors
    /// As [`CheckpointStore::save`].
    pub fn save<'a>(
        &mut self,
        step: u64,
        files: impl IntoIterator<Item = Result<(&'a str, Vec<u8>)>>,
        score: Option<f64>,
    ) -> Result<()> {
        if self.writes {
            self.store.save(step, files, score)?;
        }
        self.unproven.push_back(step);
        Ok(())
    }

    /// The error of a run that diverged because of `reason`; `key` is that of its learning rate. Checkpoints that too few
    /// finite steps have followed are marked as bad, so that the run does not continue from them.
    pub fn diverged(&mut self, reason: &str, key: &str) -> anyhow::Error {
        let unproven: Vec<u64> = self.unproven.drain(..).collect();
        if self.writes
            && let Err(error) = self.store.mark_bad(&unproven)
        {
            return error.into();
        }
        let last = match self.store.latest() {
            Ok(Some(checkpoint)) => format!("the last good checkpoint is {}", checkpoint.dir.display()),
            _ => "there is no good checkpoint".to_owned(),
        };
        anyhow!("{reason}: the training has diverged; {last}; lower {key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> (tempfile::TempDir, Guard) {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path().join("checkpoints"), 1);
        (dir, Guard::new(store, None, true))
    }

    fn save(guard: &mut Guard, step: u64) {
        guard.save(step, [Ok(("weights", vec![step as u8]))], None).unwrap();
    }

    fn newest(guard: &Guard) -> Option<u64> {
        guard.store.latest().unwrap().map(|checkpoint| checkpoint.step)
    }

    #[test]
    fn a_checkpoint_before_a_bad_stretch_is_not_the_last_good_one() {
        let (_dir, mut guard) = guard();
        save(&mut guard, 10);
        (11..=13).for_each(|done| guard.step(done, true).unwrap());
        save(&mut guard, 13);
        guard.step(14, true).unwrap();
        (15..=16).for_each(|done| guard.step(done, false).unwrap());
        assert_eq!(guard.bad_steps(), 2);
        assert_eq!(newest(&guard), Some(13), "a kill now would repeat the same steps");
        let error = guard.diverged("the loss was not finite", "train.learning_rate").to_string();
        assert!(error.contains("checkpoint is ") && error.contains("step-00000010"), "{error}");
        assert!(error.ends_with("lower train.learning_rate"), "{error}");
        assert_eq!(newest(&guard), Some(10));
    }

    #[test]
    fn a_short_bad_stretch_only_delays_the_proof() {
        let (_dir, mut guard) = guard();
        save(&mut guard, 1);
        for (done, finite) in [(2, true), (3, false), (4, true), (5, true)] {
            guard.step(done, finite).unwrap();
        }
        assert_eq!((guard.unproven.len(), guard.bad_steps()), (1, 0));
        guard.step(6, true).unwrap();
        assert!(guard.unproven.is_empty());
        guard.diverged("x", "y");
        assert_eq!(newest(&guard), Some(1));
    }

    #[test]
    fn checkpoints_at_every_step_are_proven_one_after_the_other() {
        let (_dir, mut guard) = guard();
        for done in 1..=9 {
            guard.step(done, true).unwrap();
            save(&mut guard, done);
        }
        assert_eq!(guard.unproven, [7, 8, 9]);
        let error = guard.diverged("x", "y").to_string();
        assert!(error.contains("step-00000006"), "{error}");
    }

    #[test]
    fn the_checkpoint_that_a_run_continued_from_must_be_proven_once() {
        let (_dir, mut first) = guard();
        save(&mut first, 2);
        save(&mut first, 4);
        let resumed = |store: &CheckpointStore| Guard::new(store.clone(), Some(&store.of_step(4).unwrap()), true);
        // Proven by the first run: what follows is the fault of the second.
        first.prove().unwrap();
        let mut second = resumed(&first.store);
        (5..=7).for_each(|done| second.step(done, false).unwrap());
        let error = second.diverged("x", "y").to_string();
        assert!(error.contains("step-00000004"), "{error}");
        // Not proven, as after a kill.
        save(&mut first, 4);
        let mut third = resumed(&first.store);
        (5..=7).for_each(|done| third.step(done, false).unwrap());
        let error = third.diverged("x", "y").to_string();
        assert!(error.contains("step-00000002"), "{error}");
        // Continued from on purpose although it is bad, and proven after all.
        let mut fourth = resumed(&first.store);
        (5..=7).for_each(|done| fourth.step(done, true).unwrap());
        assert_eq!(newest(&fourth), Some(4));
    }

    #[test]
    fn without_a_good_checkpoint_the_error_says_so() {
        let (_dir, mut guard) = guard();
        save(&mut guard, 1);
        guard.step(2, false).unwrap();
        let error = guard.diverged("x", "y").to_string();
        assert!(error.contains("there is no good checkpoint"), "{error}");
        assert_eq!(newest(&guard), None);
    }
}
