//! Connects ranks that are threads of this process, each on its own device. If several processes train together, the
//! first rank of each process exchanges with those of the others what its process has summed.

use std::any::Any;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Tensor};

use super::communicator::{Communicator, Rows, read, upload, wait_for};
use super::device_sum::{DeviceAllReduce, PendingSum};

/// The connection of one rank.
pub struct Threads {
    /// The number of this rank in its process.
    pub local: usize,
    /// The number of this rank.
    pub rank: usize,
    /// What the ranks of this process share.
    pub shared: Arc<Shared>,
    /// The connection to the other processes, if this is the first rank of one of several.
    pub processes: Option<Rc<dyn Communicator>>,
}

/// What the ranks of a process share.
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The number of ranks of all processes.
    ranks: usize,
    /// The name of this machine.
    host: String,
    /// Sums on the devices; `None` sums in the host's memory.
    on_devices: Option<Arc<dyn DeviceAllReduce>>,
}

/// A value that a rank contributes to an exchange.
type Contribution = Arc<dyn Any + Send + Sync>;

struct State {
    /// The contributions to the current round, by rank.
    pending: Vec<Option<Contribution>>,
    /// The contributions to the last round. They stay until the next round is complete, that is until every rank has
    /// read them and contributed again.
    complete: Vec<Contribution>,
    rounds: u64,
    /// The rank that failed first.
    failed: Option<usize>,
    /// The number of ranks that may wait on their devices for others.
    on_devices: usize,
}

impl Shared {
    /// For `locals` of altogether `ranks` ranks, on the machine `host`.
    pub fn new(locals: usize, ranks: usize, host: &str, on_devices: Option<Arc<dyn DeviceAllReduce>>) -> Self {
        let state = State { pending: vec![None; locals], complete: Vec::new(), rounds: 0, failed: None, on_devices: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), ranks, host: host.into(), on_devices }
    }

    /// Tells the other ranks of this process that the rank number `local` of it has failed. They end in the operation in
    /// which they wait for it. Returns whether it is the first to fail.
    pub fn fail(&self, local: usize) -> bool {
        let first = *self.state().failed.get_or_insert(local);
        self.changed.notify_all();
        first == local
    }

    /// The rank of this process that failed first.
    pub fn failed(&self) -> Option<usize> {
        self.state().failed
    }

    /// After a failure: ends the process if ranks still wait on their devices when they should have given up. `report`
    /// prints the failure.
    pub fn end_stuck_ranks(&self, report: impl FnOnce()) {
        let Some(on_devices) = &self.on_devices else { return };
        let patience = on_devices.patience();
        let stuck = |state: &mut State| state.on_devices > 0;
        let waited = self.changed.wait_timeout_while(self.state(), patience, stuck);
        let stuck = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        if stuck {
            report();
            on_devices.abandon();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn several_processes(&self) -> bool {
        self.state().pending.len() < self.ranks
    }
}

/// Counts a rank among those that may wait on their devices, until it is dropped.
struct OnDevice<'a>(&'a Shared);

impl<'a> OnDevice<'a> {
    fn enter(shared: &'a Shared) -> Self {
        shared.state().on_devices += 1;
        Self(shared)
    }
}

impl Drop for OnDevice<'_> {
    fn drop(&mut self) {
        self.0.state().on_devices -= 1;
        self.0.changed.notify_all();
    }
}

impl Threads {
    /// Contributes `own` and waits for the contributions of all ranks of this process. `None` if one of them has failed.
    fn try_exchange<T: Send + Sync + 'static>(&self, own: T) -> Option<Vec<Arc<T>>> {
        let mut state = self.shared.state();
        let round = state.rounds;
        state.pending[self.local] = Some(Arc::new(own));
        if state.pending.iter().all(Option::is_some) {
            state.complete = state.pending.iter_mut().filter_map(Option::take).collect();
            state.rounds += 1;
            self.shared.changed.notify_all();
        }
        while state.rounds == round {
            if state.failed.is_some() {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let complete = state.complete.clone();
        Some(complete.into_iter().map(|value| value.downcast().expect("all ranks call the same operation")).collect())
    }

    /// As [`try_exchange`](Self::try_exchange); ends this thread if another rank has failed.
    fn exchange<T: Send + Sync + 'static>(&self, own: T) -> Vec<Arc<T>> {
        self.try_exchange(own).unwrap_or_else(|| self.leave())
    }

    /// The value that the first rank of this process has, on all ranks of it.
    fn of_first<T: Send + Sync + 'static>(&self, own: Option<T>) -> Arc<T> {
        self.exchange(own.map(Arc::new))[0].as_ref().clone().expect("the first rank has it")
    }

    /// What `exchange` makes of `of_process`, this process's part, together with the other processes.
    fn over_processes<T: Clone + Send + Sync + 'static>(
        &self,
        of_process: T,
        exchange: impl FnOnce(&dyn Communicator, T) -> T,
    ) -> T {
        match self.shared.several_processes() {
            true => T::clone(&self.of_first(self.processes.as_deref().map(|others| exchange(others, of_process)))),
            false => of_process,
        }
    }

    /// The sums over all processes, for the first rank of one of several. `of_process` makes a row of this rank a sum over
    /// this process; `None` if a rank of it has failed.
    fn sum_with_others<T>(
        &self,
        others: &dyn Communicator,
        lengths: &[usize],
        own: &mut Rows<T>,
        of_process: impl Fn(T) -> Option<Vec<f32>>,
    ) -> Vec<Vec<f32>> {
        let mut failed = false;
        let sums = others.sum_rows(lengths, &mut |i, timeout| {
            let sum = of_process(own(i, timeout)?);
            // MPI has to complete what it has begun.
            failed |= sum.is_none();
            Some(sum.unwrap_or_else(|| vec![f32::NAN; lengths[i]]))
        });
        if failed {
            self.leave();
        }
        sums
    }

    /// The sum of every rank's `row` in this process; `None` if one has failed. Each rank sums its own share of it.
    fn sum_row(&self, row: Vec<f32>) -> Option<Vec<f32>> {
        let all = self.try_exchange(row)?;
        let length = all[0].len();
        let part = self.local * length / all.len()..(self.local + 1) * length / all.len();
        let mut sum = all[0][part.clone()].to_vec();
        for other in &all[1..] {
            for (sum, value) in sum.iter_mut().zip(&other[part.clone()]) {
                *sum += value;
            }
        }
        Some(self.try_exchange(sum)?.iter().flat_map(|part| part.iter().copied()).collect())
    }

    /// Starts the sum of every rank's `row` in this process, on the devices; `None` if one has failed.
    fn start(&self, on_devices: &dyn DeviceAllReduce, row: Tensor<1>) -> Option<PendingSum> {
        // What fails on a device shows when its numbers are read. After the exchange, all ranks enter the sum.
        wait_until_computed(std::slice::from_ref(&row));
        self.try_exchange(())?;
        Some(on_devices.start(self.local, row))
    }

    /// Ends this thread without a panic message: another rank has failed and reports why.
    fn leave(&self) -> ! {
        resume_unwind(Box::new("another rank failed"))
    }
}

/// Waits until the device has computed `rows`.
fn wait_until_computed(rows: &[Tensor<1>]) {
    if !rows.is_empty() {
        read(Tensor::cat(rows.iter().map(|row| row.clone().slice(0..1)).collect(), 0));
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.ranks
    }

    fn host(&self) -> String {
        self.shared.host.clone()
    }

    fn sum(&self, value: f64) -> f64 {
        let of_process = self.exchange(value).iter().map(|value| **value).sum();
        self.over_processes(of_process, |others, sum| others.sum(sum))
    }

    fn sum_rows(&self, lengths: &[usize], own: &mut Rows) -> Vec<Vec<f32>> {
        if let Some(others) = &self.processes {
            let sums = self.sum_with_others(&**others, lengths, own, |row| self.sum_row(row));
            return Vec::clone(&self.of_first(Some(sums)));
        }
        let sum = |i| self.sum_row(wait_for(i, own)).unwrap_or_else(|| self.leave());
        let of_process = (0..lengths.len()).map(sum).collect();
        if self.shared.several_processes() { Vec::clone(&self.of_first(None)) } else { of_process }
    }

    /// With several processes, the first rank of each reads the sums over its process, and exchanges them with the others.
    fn sum_device_rows(&self, lengths: &[usize], device: &Device, own: &mut Rows<Tensor<1>>) -> Vec<Tensor<1>> {
        let Some(on_devices) = self.shared.on_devices.as_deref() else {
            return upload(self.sum_rows(lengths, &mut |i, timeout| own(i, timeout).map(read)), device);
        };
        let _on_device = OnDevice::enter(&self.shared);
        if let Some(others) = &self.processes {
            let sum = |row| Some(read(self.start(on_devices, row)?()));
            let sums = self.sum_with_others(&**others, lengths, own, sum);
            return upload(self.of_first(Some(sums)).iter().cloned(), device);
        }
        let start = |i| self.start(on_devices, wait_for(i, own)).unwrap_or_else(|| self.leave());
        let started: Vec<_> = (0..lengths.len()).map(start).collect();
        let of_process: Vec<_> = started.into_iter().map(|sum| sum()).collect();
        wait_until_computed(&of_process);
        match self.shared.several_processes() {
            true => {
                let sums: Arc<Vec<_>> = self.of_first(None);
                upload(sums.iter().cloned(), device)
            }
            false => of_process,
        }
    }

    fn broadcast(&self, from: usize, own: &str) -> String {
        self.all_gather(own).swap_remove(from)
    }

    fn all_gather(&self, own: &str) -> Vec<String> {
        let of_process = self.exchange(own.to_owned()).iter().map(|text| text.to_string()).collect();
        self.over_processes(of_process, |others, texts: Vec<String>| {
            let packed = serde_json::to_string(&texts).expect("a list of texts");
            let all = others.all_gather(&packed).into_iter();
            all.flat_map(|packed| serde_json::from_str::<Vec<_>>(&packed).expect("packed in this way")).collect()
        })
    }

    fn barrier(&self) {
        self.exchange(());
        self.over_processes((), |others, ()| others.barrier());
    }

    fn abort(&self) -> ! {
        self.shared.fail(self.local);
        self.leave()
    }
}
