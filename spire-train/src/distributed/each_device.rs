//! Starts ranks as threads of this process, one for each of its devices.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use spire_core::message::with_causes;

use super::communicator::Communicator;
use super::device_sum::{Choice, choose};
use super::ranks::{NamedRank, Ranks};
use super::threads::{Shared, Threads};

/// The name of the only machine.
const HERE: &str = "this machine";

impl Ranks {
    /// Runs `work` on one rank per device and returns the result of this process's first rank. `names` has the devices,
    /// separated by commas. A single device needs no new rank: `work` then runs on this one. `nccl` allows NCCL.
    ///
    /// # Errors
    /// `work` fails; or the processes name different devices.
    pub fn on_each_device<T: Send>(
        &self,
        names: &str,
        nccl: bool,
        work: impl Fn(&Self) -> Result<T> + Sync,
    ) -> Result<T> {
        // Ranks are numbered by process and device.
        self.agree_on_text("run.device", names)?;
        if names.contains(',') { self.on_new_ranks(names, nccl, work) } else { work(self) }
    }

    /// As [`on_each_device`](Self::on_each_device), where a single device has a new rank as well.
    pub(crate) fn on_new_ranks<T: Send>(
        &self,
        names: &str,
        nccl: bool,
        work: impl Fn(&Self) -> Result<T> + Sync,
    ) -> Result<T> {
        let devices: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
        self.on_threads(&devices, choose(&devices, nccl), work)
    }

    /// Runs `work` on a thread for each of `devices` and returns the first thread's result. The first thread is this one:
    /// no other may call MPI.
    ///
    /// # Errors
    /// The error of the rank that failed first. The other ranks of this process end in the operation in which they wait
    /// for it.
    pub(super) fn on_threads<T: Send>(
        &self,
        devices: &[String],
        how: Choice,
        work: impl Fn(&Self) -> Result<T> + Sync,
    ) -> Result<T> {
        let (own_host, processes) = match self.communicator {
            Some(_) => (self.hosts[self.rank].as_str(), self.hosts.clone()),
            None => (HERE, vec![HERE.to_owned()]),
        };
        let hosts: Vec<_> = processes.iter().flat_map(|host| vec![host.clone(); devices.len()]).collect();
        let gradients = match (self.gradients(), devices.len()) {
            ("", 1) => format!("summed {} on one device", how.words),
            ("", count) => format!("summed {} over {count} devices", how.words),
            (processes, count) => format!("{processes}, {} over the {count} devices of each", how.words),
        };
        let shared = Arc::new(Shared::new(devices.len(), hosts.len(), own_host, how.on_devices));
        let (turn, process) = (Arc::default(), self.rank);
        let one = |local: usize, processes: Option<Rc<dyn Communicator>>| {
            let rank = process * devices.len() + local;
            let ranks = Ranks {
                communicator: Some(Rc::new(Threads { local, rank, shared: shared.clone(), processes })),
                rank,
                hosts: hosts.clone(),
                own_device: Some(devices[local].clone()),
                gradients: gradients.clone(),
                turn: Arc::clone(&turn),
            };
            let name = NamedRank(match hosts.len() == devices.len() {
                true => format!("rank {rank} of {}, on {}", hosts.len(), devices[local]),
                false => format!("{}, {}", ranks.name(), devices[local]),
            });
            let done = catch_unwind(AssertUnwindSafe(|| work(&ranks).context(name.clone())));
            let error = match &done {
                Ok(Ok(_)) => return done,
                Ok(Err(error)) => with_causes(error.as_ref()),
                Err(_) => format!("{name} panicked"),
            };
            if shared.fail(local) {
                shared.end_stuck_ranks(|| spire_core::progress::print(&format!("error: {error}")));
            }
            done
        };
        let mut done: Vec<_> = std::thread::scope(|scope| {
            let one = &one;
            let others: Vec<_> = (1..devices.len()).map(|local| scope.spawn(move || one(local, None))).collect();
            let first = one(0, self.communicator.clone());
            let others = others.into_iter().map(|thread| thread.join().and_then(|done| done));
            std::iter::once(first).chain(others).collect()
        });
        done.swap_remove(shared.failed().unwrap_or(0)).unwrap_or_else(|panic| resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use burn::tensor::{Device, Tensor};

    use super::super::stand_in::StandIn;
    use super::*;

    const LENGTHS: [usize; 3] = [7, 1, 30];

    fn names(count: usize) -> Vec<String> {
        ["a", "b", "c", "d"][..count].iter().map(|&name| name.to_owned()).collect()
    }

    fn in_host_memory() -> Choice {
        Choice { on_devices: None, words: "in the host's memory".into() }
    }

    /// Runs `work` on `count` ranks of this process.
    fn on<T: Send>(count: usize, how: Choice, work: impl Fn(&Ranks) -> Result<T> + Sync) -> Result<T> {
        Ranks::alone().on_threads(&names(count), how, work)
    }

    /// Rows of numbers whose sum depends on its order, different on every rank.
    fn row(rank: usize, i: usize) -> Tensor<1> {
        let numbers: Vec<f32> = (0..LENGTHS[i]).map(|n| 1.0 / (1 + 3 * rank + 5 * i + n) as f32).collect();
        Tensor::from_floats(&numbers[..], &Device::flex())
    }

    /// The bits of the sums over all ranks.
    fn sums(ranks: &Ranks) -> Vec<Vec<u32>> {
        let sums = ranks.sum_rows(&LENGTHS, &Device::flex(), &mut |i, _| Some(row(ranks.rank, i)));
        sums.into_iter().map(|sum| bits(&sum)).collect()
    }

    fn bits(row: &Tensor<1>) -> Vec<u32> {
        row.to_data().try_to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    /// What the sum over `ranks` ranks has to be, added in their order.
    fn expected(ranks: usize) -> Vec<Vec<u32>> {
        let sum = |i| (0..ranks).map(|rank| row(rank, i)).reduce(|sum, row| sum + row).unwrap();
        (0..LENGTHS.len()).map(|i| bits(&sum(i))).collect()
    }

    #[test]
    fn ranks_sum_gather_and_broadcast() {
        let first = on(3, in_host_memory(), |ranks| {
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
            Ok(ranks.rank)
        });
        assert_eq!(first.unwrap(), 0);
    }

    #[test]
    fn devices_sum_as_the_host_does_each_in_the_same_order() {
        let devices = StandIn::of(3);
        for how in [in_host_memory(), devices.choice()] {
            on(3, how, |ranks| {
                for _ in 0..20 {
                    assert_eq!(sums(ranks), expected(3));
                    assert!(ranks.any(ranks.rank == 2));
                }
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(devices.started(), [20 * LENGTHS.len(); 3]);
    }

    #[test]
    fn a_run_says_how_gradients_are_summed() {
        let says = |how| on(2, how, |ranks| Ok(ranks.gradients().to_owned())).unwrap();
        assert_eq!(says(in_host_memory()), "summed in the host's memory over 2 devices");
        assert_eq!(says(StandIn::of(2).choice()), "summed by a stand-in over 2 devices");
    }

    #[test]
    fn the_rank_that_fails_first_is_named_and_ends_the_others() {
        for how in [in_host_memory(), StandIn::of(3).choice()] {
            let error = on(3, how, |ranks| {
                if ranks.rank == 1 {
                    bail!("no memory")
                }
                sums(ranks);
                Ok(())
            });
            assert_eq!(format!("{:#}", error.unwrap_err()), "rank 1 of 3, on b: no memory");
        }
    }

    #[test]
    fn a_rank_that_panics_before_a_sum_ends_the_others() {
        let devices = StandIn::of(3);
        for how in [in_host_memory(), devices.choice()] {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                on(3, how, |ranks| {
                    let mut own = |i, _| {
                        assert!(ranks.rank < 2 || i < 1, "out of bounds");
                        Some(row(ranks.rank, i))
                    };
                    ranks.sum_rows(&LENGTHS, &Device::flex(), &mut own);
                    Ok(())
                })
            }));
            assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"out of bounds"));
        }
        // No rank entered a sum that another did not.
        assert_eq!((devices.started(), devices.is_abandoned()), (vec![1; 3], false));
    }

    #[test]
    fn ranks_that_wait_on_their_devices_for_a_failed_one_are_abandoned() {
        let devices = StandIn::panicking(3, 1, 2);
        let panicked = catch_unwind(|| on(3, devices.choice(), |ranks| Ok(sums(ranks))));
        assert_eq!(*panicked.unwrap_err().downcast::<String>().unwrap(), "out of memory in sum 2");
        assert!(devices.is_abandoned());
    }

    /// Runs `work` on two processes of two devices each. The processes are threads as well.
    fn on_four(how: impl Fn() -> Choice + Sync, work: impl Fn(&Ranks) -> Result<()> + Sync) -> Result<()> {
        on(2, in_host_memory(), |process| process.on_threads(&names(2), how(), &work))
    }

    #[test]
    fn processes_with_several_devices_communicate_through_their_first_ranks() {
        let ways: [&(dyn Fn() -> Choice + Sync); 2] = [&in_host_memory, &|| StandIn::of(2).choice()];
        for how in ways {
            on_four(how, |ranks| {
                assert_eq!((ranks.count(), ranks.machines()), (4, 1));
                assert_eq!(ranks.device("a,b"), ["a", "b"][ranks.rank % 2]);
                for round in 0..20 {
                    assert_eq!(ranks.sum(ranks.rank as f64), 6.0);
                    assert_eq!(ranks.all_gather(&ranks.rank.to_string()), ["0", "1", "2", "3"]);
                    assert_eq!(ranks.broadcast(&format!("\"{round}, {}\n", ranks.rank)), format!("\"{round}, 0\n"));
                    assert!(ranks.any(ranks.rank == 3) && !ranks.any(false));
                    ranks.barrier();
                    for (found, expected) in sums(ranks).iter().flatten().zip(expected(4).iter().flatten()) {
                        // The order of the additions is another one.
                        let [found, expected] = [found, expected].map(|bits| f32::from_bits(*bits));
                        assert!((found - expected).abs() <= 3e-7 * expected, "{found} {expected}");
                    }
                }
                Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn a_rank_that_fails_ends_the_ranks_of_all_processes() {
        let ways: [&(dyn Fn() -> Choice + Sync); 2] = [&in_host_memory, &|| StandIn::of(2).choice()];
        for (failing, how) in (0..4).flat_map(|failing| ways.map(|how| (failing, how))) {
            let error = on_four(how, |ranks| {
                sums(ranks);
                if ranks.rank == failing {
                    bail!("no memory")
                }
                sums(ranks);
                ranks.barrier();
                Ok(())
            });
            let [process, device] = [failing / 2, failing % 2].map(|i| ["a", "b"][i]);
            let expected = format!(
                "rank {} of 2, on {process}: rank {failing} of 4 on this machine, {device}: no memory",
                failing / 2
            );
            assert_eq!(format!("{:#}", error.unwrap_err()), expected);
        }
    }

    #[test]
    fn a_rank_that_panics_in_a_sum_ends_the_ranks_of_all_processes() {
        let ways: [&(dyn Fn() -> Choice + Sync); 2] = [&in_host_memory, &|| StandIn::of(2).choice()];
        for (failing, how) in (0..4).flat_map(|failing| ways.map(|how| (failing, how))) {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                on_four(how, |ranks| {
                    let mut own = |i, _| {
                        assert!(ranks.rank != failing || i < 1, "out of bounds");
                        Some(row(ranks.rank, i))
                    };
                    ranks.sum_rows(&LENGTHS, &Device::flex(), &mut own);
                    ranks.barrier();
                    Ok(())
                })
            }));
            assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"out of bounds"), "{failing}");
        }
    }
}
