//! Ranks that are processes and communicate over MPI.

use std::cell::OnceCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use mpi::environment::{Threading, Universe, initialize_with_threading, processor_name};
use mpi::request::multiple_scope;
use mpi::topology::{Communicator as _, SimpleCommunicator};

use super::communicator::{Communicator, Rows};

/// Interval between two checks whether the other ranks have arrived.
const POLL: Duration = Duration::from_millis(5);

/// Interval between two checks while a message travels; MPI makes progress only when it is called.
const SHORT_POLL: Duration = Duration::from_micros(100);

/// All processes that the launcher started. Dropping it finalises MPI.
struct Processes {
    all: SimpleCommunicator,
    _universe: Universe,
}

/// Connects to the other processes.
pub fn join() -> Result<Box<dyn Communicator>> {
    let (universe, threading) = initialize_with_threading(Threading::Funneled).context("MPI is initialised already")?;
    ensure!(threading >= Threading::Funneled, "this MPI does not allow a program with threads (MPI_THREAD_FUNNELED)");
    Ok(Box::new(Processes { all: universe.world(), _universe: universe }))
}

impl Communicator for Processes {
    fn rank(&self) -> usize {
        self.all.rank() as usize
    }

    fn size(&self) -> usize {
        self.all.size() as usize
    }

    fn host(&self) -> String {
        processor_name().unwrap_or_else(|_| "a machine without a readable name".to_owned())
    }

    fn sum(&self, value: f64) -> f64 {
        let mut sum = 0.0;
        self.all.all_reduce_into(&value, &mut sum, SystemOperation::sum());
        sum
    }

    /// MPI makes progress only while it is called, so this polls it between rows.
    fn sum_rows(&self, lengths: &[usize], own: &mut Rows) -> Vec<Vec<f32>> {
        let mut sums: Vec<_> = lengths.iter().map(|&length| vec![0.0_f32; length]).collect();
        let rows: Vec<_> = sums.iter().map(|_| OnceCell::new()).collect();
        multiple_scope(sums.len(), |scope, requests| {
            let mut done = Vec::new();
            for (i, (row, sum)) in rows.iter().zip(&mut sums).enumerate() {
                let own = loop {
                    let travelling = requests.incomplete() > 0;
                    if let Some(own) = own(i, if travelling { SHORT_POLL } else { POLL }) {
                        break own;
                    }
                    if travelling {
                        requests.test_some(&mut done);
                    }
                };
                let own = row.get_or_init(|| own).as_slice();
                let sum = sum.as_mut_slice();
                requests.add(self.all.immediate_all_reduce_into(scope, own, sum, SystemOperation::sum()));
            }
            requests.wait_all(&mut done);
        });
        sums
    }

    fn broadcast(&self, from: usize, own: &str) -> String {
        let process = self.all.process_at_rank(from as i32);
        let mut length = own.len() as u64;
        process.broadcast_into(&mut length);
        if length == 0 {
            // Open MPI rejects an empty message.
            return String::new();
        }
        let mut bytes = if from == self.rank() { own.as_bytes().to_vec() } else { vec![0; length as usize] };
        process.broadcast_into(bytes.as_mut_slice());
        String::from_utf8(bytes).expect("every rank sends text")
    }

    /// Sleeps between checks: MPI's own barrier keeps a core busy, which other ranks may need.
    fn barrier(&self) {
        let mut barrier = self.all.immediate_barrier();
        while let Err(pending) = barrier.test() {
            barrier = pending;
            std::thread::sleep(POLL);
        }
    }

    fn abort(&self) -> ! {
        self.all.abort(1)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Finalising MPI waits for all processes, and those may wait for this one in another operation.
        if std::thread::panicking() {
            self.abort();
        }
    }
}
