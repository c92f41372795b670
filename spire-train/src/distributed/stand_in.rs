//! Stands in for NCCL in tests: sums tensors of the CPU, and waits as a GPU does, without an end.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use burn::tensor::Tensor;

use super::device_sum::{Choice, DeviceAllReduce, PendingSum};

/// Devices that sum tensors of the CPU.
#[derive(Clone)]
pub struct StandIn {
    shared: Arc<(Mutex<Sums>, Condvar)>,
    /// The rank of the process that panics in a sum, and the number of the sum.
    panics: Option<(usize, usize)>,
}

struct Sums {
    /// The rows of each sum, by rank.
    rows: Vec<Vec<Option<Tensor<1>>>>,
    /// How many sums each rank has started.
    started: Vec<usize>,
    abandoned: bool,
}

impl StandIn {
    pub fn of(ranks: usize) -> Self {
        let sums = Sums { rows: Vec::new(), started: vec![0; ranks], abandoned: false };
        Self { shared: Arc::new((Mutex::new(sums), Condvar::new())), panics: None }
    }

    /// As [`of`](Self::of); the rank number `local` panics in its sum number `sum`, counted from 0.
    pub fn panicking(ranks: usize, local: usize, sum: usize) -> Self {
        Self { panics: Some((local, sum)), ..Self::of(ranks) }
    }

    pub fn choice(&self) -> Choice {
        Choice { on_devices: Some(Arc::new(self.clone())), words: "by a stand-in".into() }
    }

    /// How many sums each rank has started.
    pub fn started(&self) -> Vec<usize> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).started.clone()
    }

    pub fn is_abandoned(&self) -> bool {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).abandoned
    }
}

impl DeviceAllReduce for StandIn {
    fn start(&self, local: usize, row: Tensor<1>) -> PendingSum {
        let mut sums = self.shared.0.lock().unwrap();
        let number = sums.started[local];
        if self.panics == Some((local, number)) {
            drop(sums);
            panic!("out of memory in sum {number}");
        }
        sums.started[local] += 1;
        let ranks = sums.started.len();
        if sums.rows.len() == number {
            sums.rows.push(vec![None; ranks]);
        }
        sums.rows[number][local] = Some(row);
        self.shared.1.notify_all();
        let shared = self.shared.clone();
        Box::new(move || {
            let waits = |sums: &mut Sums| !sums.abandoned && sums.rows[number].iter().any(Option::is_none);
            let sums = shared.1.wait_while(shared.0.lock().unwrap(), waits).unwrap();
            let rows: Vec<_> = sums.rows[number].iter().flatten().cloned().collect();
            let complete = rows.len() == ranks;
            drop(sums);
            assert!(complete, "abandoned");
            rows.into_iter().reduce(|sum, row| sum + row).expect("there are ranks")
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn abandon(&self) {
        self.shared.0.lock().unwrap().abandoned = true;
        self.shared.1.notify_all();
    }
}
