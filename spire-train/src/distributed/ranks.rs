//! What a rank knows of the others, and the collective operations of training.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use burn::tensor::{Device, Tensor};
use spire_core::message::with_causes;
use spire_data::order::Slice;

use super::communicator::{Communicator, Rows, wait_for};
use super::{device, launcher, mpi};

/// How far a number may differ, relatively, between ranks that should agree on it but compute on different devices.
const AGREEMENT: f64 = 1e-4;

/// One rank's view of all ranks.
///
/// Methods that communicate must be called by all ranks in the same order: they wait for each other. These methods do
/// not communicate: [`count`](Self::count), [`machines`](Self::machines), [`is_first`](Self::is_first),
/// [`slice`](Self::slice), [`share`](Self::share), [`device`](Self::device), [`gradients`](Self::gradients) and
/// [`name`](Self::name).
pub struct Ranks {
    /// `None` if this is the only rank.
    pub(super) communicator: Option<Rc<dyn Communicator>>,
    pub(super) rank: usize,
    /// The machine name of every rank.
    pub(super) hosts: Vec<String>,
    /// The device of this rank, if the process has several.
    pub(super) own_device: Option<String>,
    /// How gradients are summed, in words.
    pub(super) gradients: String,
    /// Held by the thread in [`one_by_one`](Self::one_by_one).
    pub(super) turn: Arc<Mutex<()>>,
}

/// The name of a rank, as the context of its error.
#[derive(Clone, Debug)]
pub(super) struct NamedRank(pub String);

impl std::fmt::Display for NamedRank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Runs `work` together with the processes that the launcher started beside this one. If it fails on one rank, that
/// rank prints the error and ends all of them.
///
/// # Errors
/// `work` fails and this process is alone; or the processes can't connect.
pub fn with_launched_processes<T>(work: impl FnOnce(&Ranks) -> Result<T>) -> Result<T> {
    let ranks = Ranks::join()?;
    let done = work(&ranks);
    if let (Some(communicator), Err(error)) = (&ranks.communicator, &done) {
        if !ranks.is_first() {
            // If all ranks fail with the same error, the first reports it and ends the others before they print it too.
            std::thread::sleep(Duration::from_secs(2));
        }
        let name = if error.is::<NamedRank>() { String::new() } else { format!("{}: ", ranks.name()) };
        spire_core::progress::print(&format!("error: {name}{}", with_causes(error.as_ref())));
        communicator.abort();
    }
    done
}

impl Ranks {
    /// This process as the only rank, even if a launcher started others.
    pub fn alone() -> Self {
        Self {
            communicator: None,
            rank: 0,
            hosts: vec![String::new()],
            own_device: None,
            gradients: String::new(),
            turn: Arc::default(),
        }
    }

    fn join() -> Result<Self> {
        let launched = launcher::launched();
        if launched.processes <= 1 {
            return Ok(Self::alone());
        }
        let all = mpi::join()?;
        ensure!(
            all.size() == launched.processes,
            "{} processes were started ({}), but MPI connects {}: this program was built with another MPI than the \
             launcher's, or srun needs --mpi=pmix (srun --mpi=list shows the available ones)",
            launched.processes,
            launched.source,
            all.size()
        );
        let hosts = all.all_gather(&all.host());
        let gradients = format!("summed by MPI over {} processes", all.size());
        Ok(Self { rank: all.rank(), hosts, gradients, communicator: Some(all.into()), ..Self::alone() })
    }

    /// The number of ranks.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }

    /// The number of machines.
    pub fn machines(&self) -> usize {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts.len()
    }

    /// The number of this rank, from 0.
    pub(crate) fn number(&self) -> usize {
        self.rank
    }

    /// Whether this is rank 0, which writes the run folder.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// This rank's share of every step. A step takes `samples` from each rank.
    pub fn slice(&self, samples: usize) -> Slice {
        Slice::new(samples * self.count(), self.rank, self.count()).expect("a multiple of the number of ranks")
    }

    /// This rank's share of the numbers `0..count`.
    pub fn share(&self, count: u64) -> impl Iterator<Item = u64> {
        (self.rank as u64..count).step_by(self.count())
    }

    /// Runs `work` while no other thread of this process does, so that it draws random numbers undisturbed.
    pub fn one_by_one<T>(&self, work: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// The device of this rank. `name` is the configuration's device: a GPU without a number becomes the GPU with the
    /// rank's number on its machine. Of several devices, each rank has its own.
    pub fn device(&self, name: &str) -> String {
        if let Some(device) = &self.own_device {
            return device.clone();
        }
        if self.communicator.is_none() {
            return name.to_owned();
        }
        let before = self.hosts[..self.rank].iter().filter(|host| **host == self.hosts[self.rank]).count();
        device::of_rank(name, before, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())
    }

    /// The sum of every rank's `value`.
    pub fn sum(&self, value: f64) -> f64 {
        self.communicator.as_ref().map_or(value, |all| all.sum(value))
    }

    /// The mean of every rank's `value`.
    pub fn mean(&self, value: f64) -> f64 {
        self.sum(value) / self.count() as f64
    }

    /// Whether `flag` is true on at least one rank.
    pub fn any(&self, flag: bool) -> bool {
        self.sum(f64::from(u8::from(flag))) > 0.0
    }

    /// The text `own` of every rank, in the order of their numbers.
    pub fn all_gather(&self, own: &str) -> Vec<String> {
        self.communicator.as_ref().map_or_else(|| vec![own.to_owned()], |all| all.all_gather(own))
    }

    /// The text `own` of the first rank, on every rank.
    pub fn broadcast(&self, own: &str) -> String {
        self.communicator.as_ref().map_or_else(|| own.to_owned(), |all| all.broadcast(0, own))
    }

    /// Sums rows of numbers over all ranks, as [`Communicator::sum_device_rows`] does.
    pub(crate) fn sum_rows(&self, lengths: &[usize], device: &Device, own: &mut Rows<Tensor<1>>) -> Vec<Tensor<1>> {
        match &self.communicator {
            Some(all) => all.sum_device_rows(lengths, device, own),
            None => (0..lengths.len()).map(|i| wait_for(i, own)).collect(),
        }
    }

    /// How the gradients of all ranks are summed, in words; empty if this is the only rank.
    pub fn gradients(&self) -> &str {
        &self.gradients
    }

    /// The mean of a number on which all ranks should agree. It is the same on every rank, even if their devices round
    /// differently.
    ///
    /// # Errors
    /// This rank's number is too far from the mean.
    pub fn agree(&self, what: &str, value: f64) -> Result<f64> {
        let mean = self.mean(value);
        if differs(value, mean) {
            bail!("{what} is {value} on this rank and {mean} on average: the ranks no longer train the same weights");
        }
        Ok(mean)
    }

    /// Checks that all ranks have the same text of several lines.
    ///
    /// # Errors
    /// A rank's text differs from the first rank's. All ranks get the same error, which names the line.
    pub fn agree_on_text(&self, what: &str, own: &str) -> Result<()> {
        let texts = self.all_gather(own);
        if let Some((rank, text)) = texts.iter().enumerate().find(|(_, text)| **text != texts[0]) {
            let [first, other] = first_difference(&texts[0], text);
            bail!(
                "{what} of rank {rank}, on {}, is not the first rank's: \"{other}\" there, \"{first}\" here; start all with \
                 the same command",
                self.hosts[rank]
            );
        }
        Ok(())
    }

    /// Runs `work` on the first rank, then on all others.
    ///
    /// # Errors
    /// `work` fails.
    pub fn first_before_others<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_first() {
            let done = work()?;
            self.barrier();
            return Ok(done);
        }
        self.barrier();
        work()
    }

    /// Returns when every rank has called it. Ranks that wait keep no core busy.
    pub fn barrier(&self) {
        if let Some(all) = &self.communicator {
            all.barrier();
        }
    }

    /// `rank 1 of 2 on node7`
    pub fn name(&self) -> String {
        format!("rank {} of {} on {}", self.rank, self.count(), self.hosts[self.rank])
    }
}

#[cfg(test)]
impl Ranks {
    pub(super) fn communicator(&self) -> Option<&dyn Communicator> {
        self.communicator.as_deref()
    }
}

/// Whether a rank's number is too far from the mean over all ranks. NaN agrees with NaN: the mean is then NaN too.
fn differs(value: f64, mean: f64) -> bool {
    (value - mean).abs() > AGREEMENT * mean.abs()
}

/// The first pair of lines in which two texts differ; a text that has ended gives an empty line.
fn first_difference<'a>(one: &'a str, other: &'a str) -> [&'a str; 2] {
    let (mut one, mut other) = (one.lines(), other.lines());
    loop {
        match (one.next(), other.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => return [a, b].map(Option::unwrap_or_default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn third_of_five() -> Ranks {
        let hosts = ["a", "b", "a", "a", "b"].map(str::to_owned).to_vec();
        Ranks { rank: 2, hosts, ..Ranks::alone() }
    }

    #[test]
    fn a_single_process_is_every_rank() {
        let alone = Ranks::alone();
        assert!(alone.is_first() && alone.count() == 1 && alone.machines() == 1);
        assert_eq!((alone.mean(3.0), alone.any(true), alone.any(false)), (3.0, true, false));
        assert_eq!(alone.agree("loss", 0.5).unwrap(), 0.5);
        assert!(alone.agree("loss", f64::NAN).unwrap().is_nan());
        assert_eq!(alone.device("cuda"), "cuda");
        assert_eq!(alone.share(3).collect::<Vec<_>>(), [0, 1, 2]);
        alone.agree_on_text("text", "a\nb").unwrap();
    }

    #[test]
    fn rounding_differences_are_accepted() {
        assert!(!differs(0.0, 0.0) && !differs(2.0, 2.00001) && !differs(f64::NAN, f64::NAN));
        assert!(differs(2.0, 2.001) && differs(1e-3, 0.0) && differs(-1.0, 1.0));
    }

    #[test]
    fn the_first_line_that_differs_is_found() {
        assert_eq!(first_difference("a\nb\nc", "a\nx\nc"), ["b", "x"]);
        assert_eq!(first_difference("a\nb", "a"), ["b", ""]);
        assert_eq!(first_difference("a", "a\nb"), ["", "b"]);
    }

    #[test]
    fn samples_are_shared_between_ranks() {
        let ranks = third_of_five();
        assert_eq!(ranks.machines(), 2);
        assert_eq!(ranks.name(), "rank 2 of 5 on a");
        assert_eq!(ranks.share(9).collect::<Vec<_>>(), [2, 7]);
        let slice = ranks.slice(4);
        assert_eq!((0..5).map(|i| slice.nth(i)).collect::<Vec<_>>(), [8, 9, 10, 11, 28]);
    }
}
