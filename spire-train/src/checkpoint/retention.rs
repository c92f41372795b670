//! Which checkpoints are kept.

use std::collections::BTreeSet;

use super::saved::Standing;

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Optimiser steps done.
    pub step: u64,
    /// Its validation score; higher is better.
    pub score: Option<f64>,
    /// What the steps after it showed.
    pub standing: Standing,
}

/// Of `candidates`, oldest first, the steps of those that are kept: the newest `keep_last`, the best, the newest that is
/// known to be good, and those of which nothing is known yet. A bad one is not kept.
pub fn kept(candidates: &[Candidate], keep_last: usize) -> BTreeSet<u64> {
    let usable: Vec<&Candidate> = candidates.iter().filter(|it| it.standing != Standing::Bad).collect();
    let newest = usable.iter().rev().take(keep_last).map(|it| it.step);
    let unknown = usable.iter().filter(|it| it.standing == Standing::New).map(|it| it.step);
    let good = usable.iter().rfind(|it| it.standing == Standing::Good).map(|it| it.step);
    let scored = usable.iter().filter_map(|it| Some((it.score?, it.step)));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, step)| step);
    newest.chain(unknown).chain(good).chain(best).collect()
}

#[cfg(test)]
mod tests {
    use super::Standing::{Bad, Good, New};
    use super::*;

    fn steps(candidates: &[(u64, Option<f64>, Standing)], keep_last: usize) -> Vec<u64> {
        let candidates: Vec<Candidate> =
            candidates.iter().map(|&(step, score, standing)| Candidate { step, score, standing }).collect();
        kept(&candidates, keep_last).into_iter().collect()
    }

    #[test]
    fn the_newest_and_the_best_are_kept() {
        let run = [
            (1, Some(1.0), Good),
            (2, Some(9.0), Good),
            (3, None, Good),
            (4, None, Good),
            (5, Some(8.0), Good),
            (6, None, New),
        ];
        assert_eq!(steps(&run, 2), [2, 5, 6]);
        let run = [(2, Some(9.0), Good), (6, None, Good), (7, Some(9.0), Good), (8, None, New)];
        assert_eq!(steps(&run, 2), [7, 8], "the newer of equal scores");
        assert_eq!(steps(&[], 2), [0; 0]);
    }

    #[test]
    fn the_newest_good_one_survives_those_of_which_nothing_is_known() {
        let run = [(1, None, Good), (2, None, Good), (3, None, New), (4, None, New), (5, None, New)];
        assert_eq!(steps(&run, 1), [2, 3, 4, 5]);
        assert_eq!(steps(&[(1, None, Good), (2, None, Good)], 1), [2]);
    }

    #[test]
    fn a_bad_one_displaces_no_other() {
        let run = [(1, Some(1.0), Good), (2, None, Good), (3, Some(5.0), Bad), (4, None, Bad)];
        assert_eq!(steps(&run, 1), [1, 2]);
    }
}
