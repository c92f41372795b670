//! Ranks that are threads of this process, each on its own device.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};

use super::communicator::{Communicator, Rows, wait_for};
use super::ranks::Ranks;

impl Ranks {
    /// Runs `work` on one rank per device and returns the first rank's result. `names` has the devices, separated by
    /// commas. A single device needs no new rank: `work` then runs on this one.
    ///
    /// # Errors
    /// `work` fails; or there are several devices and several processes.
    pub fn on_each_device<T: Send>(&self, names: &str, work: impl Fn(&Self) -> Result<T> + Sync) -> Result<T> {
        let devices: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
        if devices.len() == 1 {
            return work(self);
        }
        ensure!(
            self.count() == 1,
            "run.device = \"{names}\" names several devices, but there are {} processes: name one device, such as cuda, and \
             start one process per device",
            self.count()
        );
        on_threads(&devices, work)
    }
}

/// Runs `work` on a thread for each of `devices` and returns the first thread's result.
///
/// # Errors
/// The error of the rank that failed first. The other ranks end in the operation in which they wait for it.
fn on_threads<T: Send>(devices: &[String], work: impl Fn(&Ranks) -> Result<T> + Sync) -> Result<T> {
    let shared = Arc::new(Shared { state: Mutex::new(State::of(devices.len())), changed: Condvar::new() });
    let turn = Arc::default();
    let one = |rank: usize| {
        let communicator = Box::new(Threads { rank, shared: shared.clone() });
        let ranks = Ranks::on_threads(communicator, rank, HERE, devices, Arc::clone(&turn));
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

/// The name of the only machine.
const HERE: &str = "this machine";

struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

/// A value that a rank contributes to an exchange.
type Contribution = Arc<dyn Any + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The contributions to the current round, by rank.
    pending: Vec<Option<Contribution>>,
    /// The contributions to the last round. They stay until the next round is complete, that is until every rank has
    /// read them and contributed again.
    complete: Vec<Contribution>,
    rounds: u64,
    /// The rank that failed first.
    failed: Option<usize>,
}

impl State {
    fn of(ranks: usize) -> Self {
        Self { pending: vec![None; ranks], complete: Vec::new(), rounds: 0, failed: None }
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
    /// Contributes `own` and waits for the contributions of all ranks.
    fn exchange<T: Send + Sync + 'static>(&self, own: T) -> Vec<Arc<T>> {
        let mut state = self.shared.state();
        let round = state.rounds;
        state.pending[self.rank] = Some(Arc::new(own));
        if state.pending.iter().all(Option::is_some) {
            state.complete = state.pending.iter_mut().filter_map(Option::take).collect();
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
        let complete = state.complete.clone();
        complete.into_iter().map(|value| value.downcast().expect("all ranks call the same operation")).collect()
    }

    /// Ends this thread without a panic message: another rank has failed and reports why.
    fn leave(&self) -> ! {
        resume_unwind(Box::new("another rank failed"))
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.state().pending.len()
    }

    fn host(&self) -> String {
        HERE.into()
    }

    fn sum(&self, value: f64) -> f64 {
        self.exchange(value).iter().map(|value| **value).sum()
    }

    /// Each rank sums its own share of every row.
    fn sum_rows(&self, lengths: &[usize], own: &mut Rows) -> Vec<Vec<f32>> {
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
        self.all_gather(own).swap_remove(from)
    }

    fn all_gather(&self, own: &str) -> Vec<String> {
        self.exchange(own.to_owned()).iter().map(|text| text.to_string()).collect()
    }

    fn barrier(&self) {
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
    fn ranks_sum_gather_and_broadcast() {
        let first = on_threads(&three(), |ranks| {
            let others = ranks.communicator().unwrap();
            for round in 0..100 {
                let own = (others.rank() + round) as f32;
                assert_eq!(others.sum(f64::from(own)), (3 * round + 3) as f64);
                let rows =
                    others.sum_rows(&[1, 5, 0], &mut |row, _| Some(vec![own * (row + 1) as f32; [1, 5, 0][row]]));
                let sum = (3 * round + 3) as f32;
                assert_eq!(rows, [vec![sum], vec![2.0 * sum; 5], vec![]]);
                assert_eq!(others.all_gather(&format!("{own}")).len(), 3);
                assert_eq!(others.broadcast(1, &format!("{own}")), format!("{}", round + 1));
                others.barrier();
            }
            Ok(ranks.rank())
        });
        assert_eq!(first.unwrap(), 0);
    }

    #[test]
    fn the_rank_that_fails_first_is_named_and_ends_the_others() {
        let error = on_threads(&three(), |ranks| {
            if ranks.rank() == 1 {
                bail!("no memory")
            }
            ranks.barrier();
            Ok(())
        });
        assert_eq!(format!("{:#}", error.unwrap_err()), "rank 1 of 3, on b: no memory");
    }

    #[test]
    fn a_rank_that_panics_ends_the_others() {
        let panicked = catch_unwind(|| {
            on_threads(&three(), |ranks| {
                assert_ne!(ranks.rank(), 2, "out of bounds");
                ranks.barrier();
                Ok(())
            })
        });
        assert!(panicked.unwrap_err().downcast_ref::<String>().unwrap().contains("out of bounds"));
    }
}
