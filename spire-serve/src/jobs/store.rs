//! The jobs that are kept, by their ids. Finished ones expire; when memory is short, the oldest go first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Job, State};

/// How long a finished job is kept.
pub const KEPT: Duration = Duration::from_secs(15 * 60);

/// A job that its page no longer follows is cancelled after this time.
const ABANDONED: Duration = Duration::from_secs(10);

/// The most bytes of pictures that all jobs keep together.
pub const MOST_BYTES: usize = 256 << 20;

/// The most jobs that are kept, finished ones included.
const MOST_JOBS: usize = 2000;

#[derive(Debug, Default)]
pub struct Store {
    jobs: Mutex<HashMap<String, Arc<Job>>>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: &str) -> Option<Arc<Job>> {
        self.lock().get(id).cloned()
    }

    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Keeps `job`. Makes room by dropping finished jobs, the oldest first; `false` if that is not enough.
    pub fn insert(&self, job: Arc<Job>) -> bool {
        let mut jobs = self.lock();
        if !make_room(&mut jobs, MOST_BYTES.saturating_sub(job.bytes()), MOST_JOBS - 1) {
            return false;
        }
        jobs.insert(job.id.clone(), job);
        true
    }

    /// Drops what has expired or takes too much memory, and cancels what nobody follows any more. Call it regularly.
    /// Returns whether a job was cancelled.
    pub fn tend(&self, now: Instant) -> bool {
        let mut jobs = self.lock();
        jobs.retain(|_, job| job.progress().finished.is_none_or(|finished| now < finished + KEPT));
        make_room(&mut jobs, MOST_BYTES, MOST_JOBS);
        let abandoned = |job: &&Arc<Job>| {
            job.plan.while_followed && job.progress().finished.is_none() && job.last_followed(now) + ABANDONED < now
        };
        let abandoned: Vec<Arc<Job>> = jobs.values().filter(abandoned).cloned().collect();
        abandoned.iter().for_each(|job| job.cancel());
        !abandoned.is_empty()
    }

    /// Cancels every job.
    pub fn close(&self) {
        self.lock().values().for_each(|job| job.cancel());
    }

    /// Jobs that are not finished.
    pub fn open(&self) -> usize {
        let is_open = |job: &&Arc<Job>| matches!(job.progress().state, State::Waiting | State::Running);
        self.lock().values().filter(is_open).count()
    }
}

/// Drops finished jobs, the oldest first, until at most `bytes` and `count` remain; whether they do.
fn make_room(jobs: &mut HashMap<String, Arc<Job>>, bytes: usize, count: usize) -> bool {
    let mut kept: usize = jobs.values().map(|job| job.bytes()).sum();
    if kept <= bytes && jobs.len() <= count {
        return true;
    }
    let mut finished: Vec<(Instant, String)> =
        jobs.values().filter_map(|job| Some((job.progress().finished?, job.id.clone()))).collect();
    finished.sort_unstable();
    for (_, id) in finished {
        if kept <= bytes && jobs.len() <= count {
            break;
        }
        if let Some(dropped) = jobs.remove(&id) {
            kept -= dropped.bytes();
        }
    }
    kept <= bytes && jobs.len() <= count
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::order::Plan;
    use super::super::{Cell, Uploads};
    use super::*;

    fn job(bytes: usize, while_followed: bool) -> Arc<Job> {
        let plan = Plan { models: vec![], cells: vec![], columns: 1, upscale: 1.0, while_followed };
        let uploads = Uploads { picture: Bytes::from(vec![0; bytes]), truth: None };
        Arc::new(Job::new("client".into(), plan, uploads))
    }

    #[test]
    fn finished_jobs_expire_and_others_stay() {
        let store = Store::default();
        let (finished, open) = (job(10, false), job(10, false));
        store.insert(finished.clone());
        store.insert(open.clone());
        finished.finish(State::Done, None);
        let now = Instant::now();
        store.tend(now);
        assert!(store.get(&finished.id).is_some());
        store.tend(now + KEPT);
        assert!(store.get(&finished.id).is_none() && store.get(&open.id).is_some());
        assert_eq!(store.open(), 1);
    }

    #[test]
    fn the_oldest_finished_job_makes_room_and_waiting_ones_never_do() {
        let store = Store::default();
        let part = MOST_BYTES / 4;
        let (old, young, waiting) = (job(part, false), job(part, false), job(2 * part, false));
        for done in [&old, &young] {
            store.insert(done.clone());
            // The result of a job counts as its upload did.
            done.update(|progress| {
                progress.cells.push(Cell { picture: Bytes::from(vec![0; part]), ..Cell::default() });
            });
            done.finish(State::Done, None);
        }
        assert!(store.insert(waiting.clone()));
        let next = job(part, false);
        assert!(store.insert(next.clone()));
        assert!(store.get(&old.id).is_none() && store.get(&young.id).is_some());
        assert!(!store.insert(job(2 * part, false)), "what waits can't be dropped");
        assert!(store.get(&waiting.id).is_some() && store.get(&next.id).is_some());
    }

    #[test]
    fn a_page_that_is_gone_frees_the_device() {
        let store = Store::default();
        let (followed, abandoned, program) = (job(1, true), job(1, true), job(1, false));
        for job in [&followed, &abandoned, &program] {
            store.insert(job.clone());
        }
        let _page = followed.follow();
        let later = Instant::now() + 2 * ABANDONED;
        assert!(store.tend(later));
        let cancelled = [&followed, &abandoned, &program].map(|job| job.is_cancelled());
        assert_eq!(cancelled, [false, true, false]);
        assert_eq!(abandoned.progress().state, State::Cancelled);
        assert!(abandoned.uploads().is_none(), "its pictures are gone");
        assert!(!store.tend(later));
    }
}
