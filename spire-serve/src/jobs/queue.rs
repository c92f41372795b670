//! The waiting line: bounded, and fair to clients. Clients take turns; within a client, jobs are served in their order.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Job;

/// The most jobs that wait, of all clients and of one.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub jobs: usize,
    pub jobs_of_client: usize,
}

/// Why a job was not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Full {
    /// Too many jobs wait.
    All(usize),
    /// Too many jobs of this client wait.
    Client(usize),
}

/// One line per client, in the order of their next turns. No line is empty.
#[derive(Debug)]
struct Lines<T> {
    lines: VecDeque<(String, VecDeque<T>)>,
    bounds: Bounds,
}

impl<T> Lines<T> {
    fn len(&self) -> usize {
        self.lines.iter().map(|(_, line)| line.len()).sum()
    }

    fn line(&mut self, client: &str) -> &mut VecDeque<T> {
        let place = self.lines.iter().position(|(name, _)| name == client).unwrap_or_else(|| {
            self.lines.push_back((client.to_owned(), VecDeque::new()));
            self.lines.len() - 1
        });
        &mut self.lines[place].1
    }

    /// Puts a new job at the end of its client's line.
    fn push(&mut self, client: &str, job: T) -> Result<(), Full> {
        let Bounds { jobs, jobs_of_client } = self.bounds;
        if self.len() >= jobs {
            return Err(Full::All(jobs));
        }
        let waiting = self.lines.iter().find(|(name, _)| name == client).map_or(0, |(_, line)| line.len());
        if waiting >= jobs_of_client {
            return Err(Full::Client(jobs_of_client));
        }
        self.line(client).push_back(job);
        Ok(())
    }

    /// Puts a job that is not finished back to the front of its client's line; the bounds do not apply.
    fn put_back(&mut self, client: &str, job: T) {
        self.line(client).push_front(job);
    }

    /// The job whose turn it is. Its client's next turn comes after all others'.
    fn pop(&mut self) -> Option<T> {
        let (client, mut line) = self.lines.pop_front()?;
        let job = line.pop_front();
        if !line.is_empty() {
            self.lines.push_back((client, line));
        }
        job
    }

    /// Every job with the number of turns before its own.
    fn turns(&self) -> impl Iterator<Item = (&T, usize)> {
        self.lines.iter().enumerate().flat_map(move |(place, (_, line))| {
            line.iter().enumerate().map(move |(round, job)| {
                let before = |other: usize, length: usize| length.min(if other < place { round + 1 } else { round });
                let others = self.lines.iter().enumerate().filter(|(other, _)| *other != place);
                (job, round + others.map(|(other, (_, line))| before(other, line.len())).sum::<usize>())
            })
        })
    }

    fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        for (_, line) in &mut self.lines {
            line.retain(&keep);
        }
        self.lines.retain(|(_, line)| !line.is_empty());
    }
}

/// The queue between the web server and the worker.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<(Lines<Arc<Job>>, bool)>,
    changed: Condvar,
}

impl Queue {
    pub fn new(bounds: Bounds) -> Self {
        Self { waiting: Mutex::new((Lines { lines: VecDeque::new(), bounds }, false)), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, (Lines<Arc<Job>>, bool)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a job.
    ///
    /// # Errors
    /// The queue is full.
    pub fn push(&self, job: Arc<Job>) -> Result<(), Full> {
        let mut waiting = self.lock();
        let client = job.client.clone();
        waiting.0.push(&client, job)?;
        tell_places(&waiting.0);
        self.changed.notify_one();
        Ok(())
    }

    /// Puts a job with more pictures to restore back, for its client's next turn.
    pub fn put_back(&self, job: Arc<Job>) {
        let mut waiting = self.lock();
        let client = job.client.clone();
        waiting.0.put_back(&client, job);
    }

    /// Waits for a job; `None` once the queue is closed.
    pub fn pop(&self) -> Option<Arc<Job>> {
        let mut waiting = self.lock();
        loop {
            if waiting.1 {
                return None;
            }
            if let Some(job) = waiting.0.pop() {
                tell_places(&waiting.0);
                return Some(job);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Removes the jobs that are cancelled.
    pub fn sweep(&self) {
        let mut waiting = self.lock();
        waiting.0.retain(|job| !job.is_cancelled());
        tell_places(&waiting.0);
    }

    /// Cancels what waits; [`Self::pop`] returns `None` from now on.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.1 = true;
        for (job, _) in waiting.0.turns() {
            job.cancel();
        }
        self.changed.notify_all();
    }
}

/// Tells the jobs how many are served before them.
fn tell_places(lines: &Lines<Arc<Job>>) {
    for (job, ahead) in lines.turns() {
        if job.progress().ahead != ahead {
            job.update(|progress| progress.ahead = ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines<u32> {
        Lines { lines: VecDeque::new(), bounds: Bounds { jobs: 6, jobs_of_client: 4 } }
    }

    #[test]
    fn clients_take_turns() {
        let mut lines = lines();
        for (client, job) in [("a", 1), ("a", 2), ("a", 3), ("b", 10), ("c", 20), ("b", 11)] {
            lines.push(client, job).unwrap();
        }
        let mut ahead: Vec<(usize, u32)> = lines.turns().map(|(job, ahead)| (ahead, *job)).collect();
        ahead.sort_unstable();
        let served: Vec<u32> = std::iter::from_fn(|| lines.pop()).collect();
        assert_eq!(served, [1, 10, 20, 2, 11, 3]);
        assert_eq!(ahead, (0..6).zip(served).collect::<Vec<_>>(), "the places told are the places served");
        assert_eq!(lines.len(), 0);
    }

    #[test]
    fn a_job_with_many_pictures_gives_others_their_turns() {
        let mut lines = lines();
        lines.push("a", 1).unwrap();
        lines.push("b", 2).unwrap();
        let walk = lines.pop().unwrap();
        lines.put_back("a", walk);
        assert_eq!((lines.pop(), lines.pop(), lines.pop()), (Some(2), Some(1), None));
    }

    #[test]
    fn the_bounds_hold_for_all_and_for_one() {
        let mut lines = lines();
        (0..4).for_each(|job| lines.push("a", job).unwrap());
        assert_eq!(lines.push("a", 4), Err(Full::Client(4)));
        lines.push("b", 5).unwrap();
        lines.push("c", 6).unwrap();
        assert_eq!(lines.push("d", 7), Err(Full::All(6)));
        lines.retain(|job| *job < 4);
        assert_eq!(lines.lines.len(), 1, "no empty line is left");
        lines.push("d", 7).unwrap();
    }
}
