//! The items of a shared work: which wait, which are done, and what becomes of those of a device that fails.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Result, anyhow, bail};
use spire_core::message::{of_panic, with_causes};

/// How often an item is tried at which backends panic.
pub const MOST_TRIES: usize = 3;

/// After so many panics in a row a device is left out. A single item that is at fault brings about half of them at most.
pub const MOST_PANICS: usize = 2 * MOST_TRIES;

/// What is to be done, and what is done.
pub struct Board<'a, T> {
    devices: &'a [String],
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: VecDeque<Item>,
    /// How many items the devices work on.
    taken: usize,
    done: Vec<(usize, Result<T>)>,
    /// How often in a row each device panicked.
    panics: Vec<usize>,
    /// Why a device is left out.
    failures: Vec<Option<anyhow::Error>>,
    /// Whether a device has its copy. Before that, a failure is rather the model's than the device's.
    is_loaded: bool,
    /// Warnings that wait for that.
    warnings: Vec<String>,
}

struct Item {
    number: usize,
    /// The devices that panicked at it.
    panicked: Vec<usize>,
}

impl<'a, T: Send> Board<'a, T> {
    pub fn new(numbers: impl Iterator<Item = usize>, devices: &'a [String]) -> Self {
        let state = State {
            waiting: numbers.map(|number| Item { number, panicked: vec![] }).collect(),
            taken: 0,
            done: vec![],
            panics: vec![0; devices.len()],
            failures: devices.iter().map(|_| None).collect(),
            is_loaded: false,
            warnings: vec![],
        };
        Self { devices, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Works on items on one device until none is left or the device is left out.
    pub fn serve<M: Send + Sync>(
        &self,
        device: usize,
        copy: &mut Option<M>,
        threads: usize,
        ready: &(impl Fn(Option<M>, &str) -> Result<M> + Sync),
        work: &(impl Fn(&M, usize) -> Result<T> + Sync),
    ) {
        // The copy is made when there is an item for it.
        while let Some(first) = self.next(device) {
            let kept = copy.take();
            let model = match catch(|| ready(kept, &self.devices[device])).flatten() {
                Ok(model) => &*copy.insert(model),
                Err(error) => return self.not_loaded(device, first, error),
            };
            self.loaded();
            let has_panicked = AtomicBool::new(false);
            let work_from = |mut next: Option<Item>| {
                while let Some(item) = next {
                    match catch(|| work(model, item.number)) {
                        Ok(result) => self.worked(device, item, result),
                        Err(panic) => {
                            has_panicked.store(true, Ordering::Relaxed);
                            self.panicked(device, item, panic);
                        }
                    }
                    next = if has_panicked.load(Ordering::Relaxed) { None } else { self.next(device) };
                }
            };
            thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(|| work_from(self.next(device)));
                }
                work_from(Some(first));
            });
            if !has_panicked.into_inner() {
                return;
            }
            // The backend may panic again here.
            let _ = catch(|| *copy = None);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next item for a device. While others work, it waits: they may fail, and their items come back.
    fn next(&self, device: usize) -> Option<Item> {
        let mut state = self.state();
        loop {
            if state.failures[device].is_some() {
                return None;
            }
            if let Some(item) = state.take(device) {
                state.taken += 1;
                return Some(item);
            }
            if state.taken == 0 && state.waiting.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn worked(&self, device: usize, item: Item, result: Result<T>) {
        let mut state = self.state();
        state.taken -= 1;
        state.panics[device] = 0;
        if result.is_err() {
            state.waiting.clear();
        }
        state.done.push((item.number, result));
        self.changed.notify_all();
    }

    fn panicked(&self, device: usize, mut item: Item, panic: anyhow::Error) {
        let mut state = self.state();
        state.taken -= 1;
        state.panics[device] += 1;
        let name = &self.devices[device];
        if state.panics[device] < MOST_PANICS {
            tracing::warn!("{name} failed, and loads the model again: {panic}");
        } else if state.failures[device].is_none() {
            state.leave_out(device, name, anyhow!("{panic}"));
        }
        item.panicked.push(device);
        if item.panicked.len() < MOST_TRIES {
            state.waiting.push_front(item);
        } else {
            state.done.push((item.number, Err(anyhow!("the devices failed at it {MOST_TRIES} times: {panic}"))));
        }
        self.changed.notify_all();
    }

    fn loaded(&self) {
        let mut state = self.state();
        state.is_loaded = true;
        state.warn();
    }

    fn not_loaded(&self, device: usize, item: Item, error: anyhow::Error) {
        let mut state = self.state();
        state.taken -= 1;
        state.waiting.push_front(item);
        state.leave_out(device, &self.devices[device], error);
        self.changed.notify_all();
    }

    pub fn finish(self) -> Result<Vec<(usize, Result<T>)>> {
        let State { waiting, mut done, failures, .. } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            done.sort_by_key(|(number, _)| *number);
            return Ok(done);
        }
        let failures: Vec<anyhow::Error> = failures.into_iter().flatten().collect();
        let reasons: Vec<String> = failures.iter().map(|error| with_causes(error.as_ref())).collect();
        // A broken checkpoint fails everywhere in the same way.
        if reasons.iter().all(|reason| *reason == reasons[0])
            && let Some(error) = failures.into_iter().next()
        {
            return Err(error);
        }
        let named = self.devices.iter().zip(reasons).map(|(name, reason)| format!("{name}: {reason}"));
        bail!("every device failed: {}", named.collect::<Vec<_>>().join("; "))
    }
}

impl<T> State<T> {
    /// Takes the first item that a device may work on: one at which it panicked only if no other device is left for it.
    fn take(&mut self, device: usize) -> Option<Item> {
        let is_left = |other: usize| self.failures[other].is_none();
        let may = |item: &Item| {
            let for_others = |other: usize| is_left(other) && !item.panicked.contains(&other);
            !item.panicked.contains(&device) || !(0..self.failures.len()).any(for_others)
        };
        let at = self.waiting.iter().position(may)?;
        self.waiting.remove(at)
    }

    fn leave_out(&mut self, device: usize, name: &str, error: anyhow::Error) {
        let reason = with_causes(error.as_ref());
        self.warnings.push(format!("{name} failed, and the other devices take over its pictures: {reason}"));
        self.failures[device] = Some(error);
        self.warn();
    }

    /// Prints the warnings, unless the work can't go on, which is an error, or may yet turn out so.
    fn warn(&mut self) {
        if self.is_loaded && self.failures.iter().any(Option::is_none) {
            self.warnings.drain(..).for_each(|warning| tracing::warn!("{warning}"));
        }
    }
}

/// What `compute` returns; an error if it panics.
fn catch<R>(compute: impl FnOnce() -> R) -> Result<R> {
    catch_unwind(AssertUnwindSafe(compute)).map_err(|panic| anyhow!("{}", of_panic(panic.as_ref())))
}
