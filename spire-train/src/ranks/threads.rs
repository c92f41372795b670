//! Ranks that are threads of this process, each with a device of its own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use super::Ranks;
use super::world::{Rows, World, wait_for};

/// Does `work` on a thread for each of `devices`, and returns what the first of them gives.
///
/// # Errors
/// That of the rank that failed first; the others are ended where they wait for it.
pub fn together<T: Send>(devices: &[String], work: impl Fn(&Ranks) -> Result<T> + Sync) -> Result<T> {
    let shared = Arc::new(Shared { state: Mutex::new(State::of(devices.len())), changed: Condvar::new() });
    let turn = Arc::default();
    let one = |rank: usize| {
        let ranks = Ranks {
            world: Some(Box::new(Threads { rank, shared: shared.clone() })),
            rank,
            hosts: vec![HERE.into(); devices.len()],
            devices: devices.into(),
            turn: Arc::clone(&turn),
        };
        let done = catch_unwind(AssertUnwindSafe(|| {
            work(&ranks).with_context(|| format!("rank {rank} of {}, on {}", devices.len(), devices[rank]))
        }));
        if !matches!(done, Ok(Ok(_))) {
            shared.fail(rank);
        }
        done
    };
    let mut done: Vec<_> = std::thread::scope(|scope| {
        let one = &one;
        let running: Vec<_> = (0..devices.len()).map(|rank| scope.spawn(move || one(rank))).collect();
        running.into_iter().map(|thread| thread.join().and_then(|done| done)).collect()
    });
    let failed = shared.state().failed;
    done.swap_remove(failed.unwrap_or(0)).unwrap_or_else(|panic| resume_unwind(panic))
}

/// The machine's name, where there is no other.
const HERE: &str = "this machine";

struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

/// What a rank brings.
type Brought = Arc<dyn Any + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What each rank has brought to the round that is on.
    bringing: Vec<Option<Brought>>,
    /// What they brought to the last. The next is complete only when all have taken it: they bring something again.
    brought: Vec<Brought>,
    rounds: u64,
    /// The first rank that failed.
    failed: Option<usize>,
}

impl State {
    fn of(ranks: usize) -> Self {
        Self { bringing: vec![None; ranks], brought: Vec::new(), rounds: 0, failed: None }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, rank: usize) {
        self.state().failed.get_or_insert(rank);
        self.changed.notify_all();
    }
}

impl Threads {
    /// What each rank brought, once all have.
    fn exchange<T: Send + Sync + 'static>(&self, own: T) -> Vec<Arc<T>> {
        let mut state = self.shared.state();
        let round = state.rounds;
        state.bringing[self.rank] = Some(Arc::new(own));
        if state.bringing.iter().all(Option::is_some) {
            state.brought = state.bringing.iter_mut().filter_map(Option::take).collect();
            state.rounds += 1;
            self.shared.changed.notify_all();
        }
        while state.rounds == round {
            if state.failed.is_some() {
                drop(state);
                self.leave();
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let brought = state.brought.clone();
        brought.into_iter().map(|brought| brought.downcast().expect("all ranks call the same")).collect()
    }

    /// Ends this thread, without the message of a panic: another rank has failed, and says why.
    fn leave(&self) -> ! {
        resume_unwind(Box::new("another rank failed"))
    }
}

impl World for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.state().bringing.len()
    }

    fn host(&self) -> String {
        HERE.into()
    }

    fn sum(&self, value: f64) -> f64 {
        self.exchange(value).iter().map(|value| **value).sum()
    }

    /// Each rank adds up its part of every row.
    fn sums(&self, lengths: &[usize], own: &mut Rows) -> Vec<Vec<f32>> {
        let sum = |(i, &length): (usize, &usize)| {
            let all = self.exchange(wait_for(i, own));
            let part = self.rank * length / all.len()..(self.rank + 1) * length / all.len();
            let mut sum = all[0][part.clone()].to_vec();
            for other in &all[1..] {
                for (sum, value) in sum.iter_mut().zip(&other[part.clone()]) {
                    *sum += value;
                }
            }
            self.exchange(sum).iter().flat_map(|part| part.iter().copied()).collect()
        };
        lengths.iter().enumerate().map(sum).collect()
    }

    fn broadcast(&self, from: usize, own: &str) -> String {
        self.texts(own).swap_remove(from)
    }

    fn texts(&self, own: &str) -> Vec<String> {
        self.exchange(own.to_owned()).iter().map(|text| text.to_string()).collect()
    }

    fn wait(&self) {
        self.exchange(());
    }

    fn abort(&self) -> ! {
        self.shared.fail(self.rank);
        self.leave()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn three() -> Vec<String> {
        ["a", "b", "c"].map(str::to_owned).to_vec()
    }

    #[test]
    fn ranks_add_up_what_they_have() {
        let first = together(&three(), |ranks| {
            let world = ranks.world.as_ref().unwrap();
            for round in 0..100 {
                let own = (world.rank() + round) as f32;
                assert_eq!(world.sum(f64::from(own)), (3 * round + 3) as f64);
                let rows = world.sums(&[1, 5, 0], &mut |row, _| Some(vec![own * (row + 1) as f32; [1, 5, 0][row]]));
                let sum = (3 * round + 3) as f32;
                assert_eq!(rows, [vec![sum], vec![2.0 * sum; 5], vec![]]);
                assert_eq!(world.texts(&format!("{own}")).len(), 3);
                assert_eq!(world.broadcast(1, &format!("{own}")), format!("{}", round + 1));
                world.wait();
            }
            Ok(ranks.rank)
        });
        assert_eq!(first.unwrap(), 0);
    }

    #[test]
    fn the_first_that_fails_ends_the_others_and_is_named() {
        let error = together(&three(), |ranks| {
            if ranks.rank == 1 {
                bail!("no memory")
            }
            ranks.wait();
            Ok(())
        });
        assert_eq!(format!("{:#}", error.unwrap_err()), "rank 1 of 3, on b: no memory");
    }

    #[test]
    fn a_rank_that_panics_ends_the_others() {
        let panicked = catch_unwind(|| {
            together(&three(), |ranks| {
                assert_ne!(ranks.rank, 2, "out of bounds");
                ranks.wait();
                Ok(())
            })
        });
        assert!(panicked.unwrap_err().downcast_ref::<String>().unwrap().contains("out of bounds"));
    }
}
