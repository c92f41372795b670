//! Data-parallel training: several ranks that each compute their share of every step's samples and hold the same weights.
//!
//! They are threads of one process where the configuration names several devices, or processes: `mpirun` or `srun` starts
//! them, and they speak MPI, which is there with the feature `mpi`. A process that was started alone and has one device is
//! the only rank, and all that is here costs it nothing.

mod arriving;
mod buckets;
mod device;
mod launcher;
#[cfg_attr(not(feature = "mpi"), path = "without_mpi.rs")]
mod mpi;
mod threads;
mod world;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use burn::module::{Module, ParamId};
use spire_data::order::Slice;

pub use arriving::{Arriving, Teller, arriving};
pub use buckets::Buckets;
pub use launcher::ensure_alone;
use world::World;

/// How far apart, relatively, ranks on different devices may be in a number that should be the same on all.
const AGREEMENT: f64 = 1e-4;

/// What a rank knows of the others. Every method but [`is_first`](Self::is_first) and its like has to be called by
/// all ranks, in the same order: they wait for each other.
pub struct Ranks {
    /// `None` where there are no others.
    world: Option<Box<dyn World>>,
    rank: usize,
    /// The name of every rank's machine.
    hosts: Vec<String>,
    /// Every rank's device, where they are threads.
    devices: Vec<String>,
    /// What threads do one after the other.
    turn: Arc<Mutex<()>>,
}

/// Does `work` together with the processes that the launcher started beside this one. Where it fails on one rank, that
/// rank says why, and all are ended.
///
/// # Errors
/// Those of `work`, where this process is alone; the processes do not find each other.
pub fn together<T>(work: impl FnOnce(&Ranks) -> Result<T>) -> Result<T> {
    let ranks = Ranks::join()?;
    let done = work(&ranks);
    if let (Some(world), Err(error)) = (&ranks.world, &done) {
        if !ranks.is_first() {
            // Where all fail alike, the first says it for all, and ends the others before they speak.
            std::thread::sleep(Duration::from_secs(2));
        }
        eprintln!("error: {}: {error:#}", ranks.name());
        world.abort();
    }
    done
}

impl Ranks {
    /// This process alone, whoever started it.
    pub fn alone() -> Self {
        Self { world: None, rank: 0, hosts: vec![String::new()], devices: Vec::new(), turn: Arc::default() }
    }

    fn join() -> Result<Self> {
        let launched = launcher::launched();
        if launched.processes <= 1 {
            return Ok(Self::alone());
        }
        let world = mpi::join()?;
        ensure!(
            world.size() == launched.processes,
            "{} processes were started ({}), but MPI connects {}: this program was built with another MPI than the \
             launcher's, or srun needs --mpi=pmix (srun --mpi=list says what it has)",
            launched.processes,
            launched.said_by,
            world.size()
        );
        let hosts = world.texts(&world.host());
        Ok(Self { rank: world.rank(), hosts, world: Some(world), ..Self::alone() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }

    /// On how many machines they are.
    pub fn machines(&self) -> usize {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts.len()
    }

    /// Whether this is the one that writes.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Which part of every step's `samples` this rank takes; all ranks together take as many times that.
    pub fn slice(&self, samples: usize) -> Slice {
        Slice::new(samples * self.count(), self.rank, self.count()).expect("a multiple of the ranks")
    }

    /// Of `count` things those that are this rank's.
    pub fn share(&self, count: u64) -> impl Iterator<Item = u64> {
        (self.rank as u64..count).step_by(self.count())
    }

    /// Does `work` on a rank for each of the devices in `names`, which commas separate, and returns what the first gives.
    ///
    /// # Errors
    /// Those of `work`; there are several devices, and several processes.
    pub fn on_each<T: Send>(&self, names: &str, work: impl Fn(&Self) -> Result<T> + Sync) -> Result<T> {
        let devices: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
        if devices.len() == 1 {
            return work(self);
        }
        ensure!(
            self.count() == 1,
            "run.device = \"{names}\": several devices in each of {} processes; name one, such as cuda, and start a process \
             for each",
            self.count()
        );
        threads::together(&devices, work)
    }

    /// Does `work` while no other rank of this process does: the random numbers that it draws are theirs, too.
    pub fn in_turn<T>(&self, work: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// The device that this rank computes on, where the configuration says `name`: a GPU without a number is the one of
    /// the rank's number on its machine, and of several devices a rank has its own.
    pub fn device(&self, name: &str) -> String {
        if let Some(device) = self.devices.get(self.rank) {
            return device.clone();
        }
        if self.world.is_none() {
            return name.to_owned();
        }
        let before = self.hosts[..self.rank].iter().filter(|host| **host == self.hosts[self.rank]).count();
        device::of_rank(name, before, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())
    }

    /// The sum of what each rank has.
    pub fn sum(&self, value: f64) -> f64 {
        self.world.as_ref().map_or(value, |world| world.sum(value))
    }

    /// The mean of what each rank has.
    pub fn mean(&self, value: f64) -> f64 {
        self.sum(value) / self.count() as f64
    }

    /// Whether one of them says so.
    pub fn any(&self, flag: bool) -> bool {
        self.sum(f64::from(u8::from(flag))) > 0.0
    }

    /// What each rank says, by their numbers.
    pub fn texts(&self, own: &str) -> Vec<String> {
        self.world.as_ref().map_or_else(|| vec![own.to_owned()], |world| world.texts(own))
    }

    /// What the first rank says.
    pub fn from_first(&self, own: &str) -> String {
        self.world.as_ref().map_or_else(|| own.to_owned(), |world| world.broadcast(0, own))
    }

    /// A number that all ranks should have, the same on each even where their devices round differently.
    ///
    /// # Errors
    /// This rank's is too far from the others'.
    pub fn agree(&self, what: &str, value: f64) -> Result<f64> {
        let mean = self.mean(value);
        if apart(value, mean) {
            bail!("{what} is {value} here and {mean} on average: the ranks no longer train the same weights");
        }
        Ok(mean)
    }

    /// A text of several lines that all ranks should have.
    ///
    /// # Errors
    /// One has another than the first; all of them then get the same error, which names the line.
    pub fn agree_on_text(&self, what: &str, own: &str) -> Result<()> {
        let texts = self.texts(own);
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

    /// Does `work` on the first rank, and when that is done on the others.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn first_before_others<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_first() {
            let done = work()?;
            self.wait();
            return Ok(done);
        }
        self.wait();
        work()
    }

    /// Returns when all ranks have come here; those that wait leave their cores to others.
    pub fn wait(&self) {
        if let Some(world) = &self.world {
            world.wait();
        }
    }

    /// How the gradients of `module` travel, in rows of about `bytes`, where the first rank's backward pass is done with them in
    /// `order`.
    pub fn buckets<M: Module>(&self, module: &M, order: &[ParamId], bytes: usize) -> Buckets {
        let own: Vec<_> = order.iter().map(|id| id.val().to_string()).collect();
        let order = self.from_first(&own.join(" "));
        let order: Vec<_> = order.split(' ').filter_map(|id| id.parse::<u64>().ok()).map(ParamId::from).collect();
        Buckets::of(module, &order, bytes)
    }

    /// The sums over all ranks of the gradients that arrive here, a row for each bucket; rows travel while the next arrive.
    pub fn sums(&self, buckets: &Buckets, arriving: &mut Arriving) -> Vec<Vec<f32>> {
        let lengths = buckets.lengths();
        let mut own = |i, patience| arriving.row(buckets.places(i), patience).map(buckets::read);
        match &self.world {
            Some(world) => world.sums(&lengths, &mut own),
            None => (0..lengths.len()).map(|i| world::wait_for(i, &mut own)).collect(),
        }
    }

    /// `rank 1 of 2 on node7`
    pub fn name(&self) -> String {
        format!("rank {} of {} on {}", self.rank, self.count(), self.hosts[self.rank])
    }
}

/// Whether a rank's number is too far from the mean of all. What is no number is the same to all: the mean is none either.
fn apart(value: f64, mean: f64) -> bool {
    (value - mean).abs() > AGREEMENT * mean.abs()
}

/// The first lines in which two texts differ; empty where one of them has ended.
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
    fn one_process_is_all_of_them() {
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
    fn rounding_is_no_disagreement() {
        assert!(!apart(0.0, 0.0) && !apart(2.0, 2.00001) && !apart(f64::NAN, f64::NAN));
        assert!(apart(2.0, 2.001) && apart(1e-3, 0.0) && apart(-1.0, 1.0));
    }

    #[test]
    fn the_first_line_that_differs_is_found() {
        assert_eq!(first_difference("a\nb\nc", "a\nx\nc"), ["b", "x"]);
        assert_eq!(first_difference("a\nb", "a"), ["b", ""]);
        assert_eq!(first_difference("a", "a\nb"), ["", "b"]);
    }

    #[test]
    fn ranks_share_samples_and_machines() {
        let ranks = third_of_five();
        assert_eq!(ranks.machines(), 2);
        assert_eq!(ranks.name(), "rank 2 of 5 on a");
        assert_eq!(ranks.share(9).collect::<Vec<_>>(), [2, 7]);
        let slice = ranks.slice(4);
        assert_eq!((0..5).map(|i| slice.nth(i)).collect::<Vec<_>>(), [8, 9, 10, 11, 28]);
    }
}
