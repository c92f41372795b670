//! Shares pictures out over devices, each with its own copy of the model, and over processes.
//!
//! A device takes the next item of the work when it is free. What is made of an item depends neither on its device nor on the
//! other items, so that the results are those of a single device.
//!
//! A device whose copy can't be loaded is left out, and the others take over its item. Where a backend panics, the item may be at
//! fault (a picture that is too large for the memory) or the device. So the item is tried again, by another device if there is
//! one, and the device makes a new copy. An item that fails several times is given up; a device that fails several times in a
//! row is left out.

mod board;

use std::thread;

use anyhow::{Context, Result, bail, ensure};
use spire_core::shard::Shard;
use spire_model::device::{device, kind};

use board::Board;

/// The devices that share the work of this process, and its part of the work of all processes.
#[derive(Clone, Debug)]
pub struct Sharing {
    devices: Vec<String>,
    shard: Shard,
}

impl Sharing {
    /// `devices` by name, of which one may occur several times; it then has several copies of the model.
    ///
    /// # Errors
    /// No device is named, this program can't open one of them, or they are of several kinds.
    pub fn new(devices: Vec<String>, shard: Shard) -> Result<Self> {
        devices.iter().try_for_each(|name| device(name).map(|_| ()))?;
        let first = devices.first().context("no device is named")?;
        if let Some(other) = devices.iter().find(|name| kind(name) != kind(first)) {
            bail!(
                "the devices {first} and {other} round differently, so that chance would decide how a picture comes out: name \
                 devices of one kind"
            );
        }
        Ok(Self { devices, shard })
    }

    /// The name of the first device.
    pub fn first_device(&self) -> &str {
        &self.devices[0]
    }

    /// Devices that work at the same time.
    pub(crate) fn devices(&self) -> usize {
        self.devices.len()
    }

    /// The sum of `sizes` over the items of this process.
    pub(crate) fn size_of_part(&self, sizes: impl Iterator<Item = usize>) -> u64 {
        sizes.enumerate().filter(|&(number, _)| self.shard.has(number)).map(|(_, size)| size as u64).sum()
    }

    /// Checks that one device does all of the work: `input` can't be shared out.
    ///
    /// # Errors
    /// Several devices are named, or this process does a part.
    pub fn ensure_alone(&self, input: &str) -> Result<()> {
        ensure!(self.devices.len() == 1, "{input} is restored by one device: several are for a folder of pictures");
        ensure!(self.shard == Shard::WHOLE, "{input} has no parts: these are for a folder of pictures");
        Ok(())
    }
}

/// A copy of a model for each device, as far as they are loaded.
#[derive(Debug)]
pub struct Copies<M>(Vec<Option<M>>);

impl<M> Default for Copies<M> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<M> Copies<M> {
    /// One of the copies; `None` if there was nothing to do so far.
    pub fn any(&self) -> Option<&M> {
        self.0.iter().flatten().next()
    }
}

impl<M: Send + Sync> Copies<M> {
    /// Calls `work` for this process's part of the numbers below `count`, and returns the results by number, in order. On each
    /// device, `threads` (at least one) work at the same time with its copy. `ready` makes the copy for the device of a name,
    /// from the copy that there is already, if any. After an error of `work` no new item is begun; an item that is given up
    /// because of panics is an error among the results, and the work goes on.
    ///
    /// # Errors
    /// Every device failed.
    pub fn share<T: Send>(
        &mut self,
        sharing: &Sharing,
        count: usize,
        threads: usize,
        ready: impl Fn(Option<M>, &str) -> Result<M> + Sync,
        work: impl Fn(&M, usize) -> Result<T> + Sync,
    ) -> Result<Vec<(usize, Result<T>)>> {
        let Sharing { devices, shard } = sharing;
        self.0.resize_with(devices.len(), || None);
        let board = Board::new((0..count).filter(|&number| shard.has(number)), devices);
        let serve = |(device, copy): (usize, &mut Option<M>)| board.serve(device, copy, threads, &ready, &work);
        thread::scope(|scope| {
            let mut places = self.0.iter_mut().enumerate();
            let first = places.next();
            for place in places {
                let serve = &serve;
                scope.spawn(move || serve(place));
            }
            // The first device needs no thread of its own.
            first.map(serve)
        });
        board.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::board::{MOST_PANICS, MOST_TRIES};
    use super::*;

    fn sharing(devices: &[&str], shard: &str) -> Sharing {
        Sharing { devices: devices.iter().map(|&name| name.to_owned()).collect(), shard: shard.parse().unwrap() }
    }

    /// A "model" that is the name of its device.
    fn ready(kept: Option<String>, device: &str) -> Result<String> {
        Ok(kept.unwrap_or_else(|| device.to_owned()))
    }

    fn results<T>(made: Vec<(usize, Result<T>)>) -> Vec<T> {
        made.into_iter().map(|(_, result)| result.unwrap()).collect()
    }

    /// Waits until `counter` is at least `count`.
    fn wait_for(counter: &AtomicUsize, count: usize) {
        let start = Instant::now();
        while counter.load(Ordering::SeqCst) < count {
            assert!(start.elapsed() < Duration::from_secs(60), "nobody works");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn devices_work_at_the_same_time_and_results_are_in_order() {
        for threads in [0, 1, 3] {
            let begun = AtomicUsize::new(0);
            let mut copies = Copies::default();
            let work = |_: &String, number: usize| {
                begun.fetch_add(1, Ordering::SeqCst);
                // Each thread of each device has to begin an item.
                wait_for(&begun, 2 * threads.max(1));
                Ok(number * 10)
            };
            let made = copies.share(&sharing(&["a", "b"], "1/1"), 20, threads, ready, work).unwrap();
            assert_eq!(results(made), (0..20).map(|number| number * 10).collect::<Vec<_>>());
            assert_eq!(copies.0, [Some("a".to_owned()), Some("b".to_owned())]);
        }
    }

    #[test]
    fn a_copy_is_kept_for_the_next_work_and_made_only_if_there_is_some() {
        let mut copies = Copies::default();
        let loads = AtomicUsize::new(0);
        let ready = |kept: Option<usize>, _: &str| {
            loads.fetch_add(usize::from(kept.is_none()), Ordering::SeqCst);
            Ok(kept.unwrap_or(0) + 1)
        };
        let alone = sharing(&["a"], "1/1");
        assert!(copies.share(&alone, 0, 1, ready, |_, _| Ok(())).unwrap().is_empty());
        assert!(copies.any().is_none());
        for times in 1..4 {
            assert_eq!(results(copies.share(&alone, 2, 1, ready, |&copy, _| Ok(copy)).unwrap()), [times, times]);
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_process_does_its_part() {
        let both = ["a", "b"];
        let part = |shard: &str| {
            let made = Copies::default().share(&sharing(&both, shard), 5, 1, ready, |_, number| Ok(number)).unwrap();
            results(made)
        };
        assert_eq!((part("1/2"), part("2/2")), (vec![0, 2, 4], vec![1, 3]));
        assert!(part("7/7").is_empty());
    }

    /// Device b fails at every item; a waits for that.
    #[test]
    fn the_items_of_a_device_that_panics_go_to_the_others_and_it_is_left_out() {
        for threads in [1, 2] {
            let (of_a, of_b) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let mut copies = Copies::default();
            let work = |device: &String, number: usize| {
                if device == "b" {
                    of_b.fetch_add(1, Ordering::SeqCst);
                    panic!("out of memory");
                }
                wait_for(&of_b, MOST_PANICS.min(1 + of_a.fetch_add(1, Ordering::SeqCst)));
                Ok((device.clone(), number))
            };
            let made = copies.share(&sharing(&["a", "b"], "1/1"), 20, threads, ready, work).unwrap();
            assert_eq!(results(made), (0..20).map(|number| ("a".to_owned(), number)).collect::<Vec<_>>());
            assert_eq!(copies.0, [Some("a".to_owned()), None], "the copy of b is lost");
            let tries = of_b.into_inner();
            assert!((MOST_PANICS..MOST_PANICS + threads).contains(&tries), "b was tried {tries} times");
        }
    }

    #[test]
    fn an_item_at_which_all_devices_panic_does_not_end_the_work() {
        for devices in [&["a"][..], &["a", "b"]] {
            let (tries, loads) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let ready = |kept: Option<String>, device: &str| {
                loads.fetch_add(usize::from(kept.is_none()), Ordering::SeqCst);
                ready(kept, device)
            };
            let work = |_: &String, number: usize| {
                if number == 3 {
                    tries.fetch_add(1, Ordering::SeqCst);
                    panic!("out of memory");
                }
                Ok(number)
            };
            let mut made = Copies::default().share(&sharing(devices, "1/1"), 9, 1, ready, work).unwrap();
            let (number, given_up) = made.remove(3);
            let reason = given_up.unwrap_err().to_string();
            assert_eq!((number, reason.as_str()), (3, "the devices failed at it 3 times: out of memory"));
            assert_eq!(results(made), [0, 1, 2, 4, 5, 6, 7, 8]);
            assert_eq!(tries.into_inner(), MOST_TRIES);
            assert!(loads.into_inner() >= MOST_TRIES, "each try has a new copy");
        }
    }

    #[test]
    fn an_idle_device_takes_over_the_last_item_of_one_that_fails_late() {
        let (of_a, of_b) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |device: &String, number: usize| {
            if device == "a" {
                wait_for(&of_b, 1);
                of_a.fetch_add(1, Ordering::SeqCst);
                return Ok(number);
            }
            of_b.fetch_add(1, Ordering::SeqCst);
            // Then a has nothing else to do.
            wait_for(&of_a, 1);
            thread::sleep(Duration::from_millis(50));
            panic!("the driver is gone")
        };
        let made = Copies::default().share(&sharing(&["a", "b"], "1/1"), 2, 1, ready, work).unwrap();
        assert_eq!((results(made), of_b.into_inner()), (vec![0, 1], 1));
    }

    #[test]
    fn a_device_that_can_not_load_is_left_out() {
        let tried = AtomicUsize::new(0);
        let ready = |_: Option<String>, device: &str| {
            if device == "b" {
                tried.fetch_add(1, Ordering::SeqCst);
                bail!("no memory for the weights");
            }
            wait_for(&tried, 1);
            Ok(device.to_owned())
        };
        let made = Copies::default().share(&sharing(&["a", "b"], "1/1"), 4, 1, ready, |_, n| Ok(n));
        assert_eq!(results(made.unwrap()), [0, 1, 2, 3]);
    }

    #[test]
    fn it_is_an_error_if_every_device_fails() {
        let both = sharing(&["a", "b"], "1/1");
        let broken = |_: Option<String>, _: &str| bail!("not a checkpoint");
        let error = Copies::default().share(&both, 3, 1, broken, |_, n| Ok(n)).unwrap_err();
        assert_eq!(error.to_string(), "not a checkpoint");

        let work = |device: &String, _: usize| -> Result<()> { panic!("no {device}") };
        let error = Copies::default().share(&both, 30, 1, ready, work).unwrap_err();
        assert_eq!(error.to_string(), "every device failed: a: no a; b: no b");
    }

    #[test]
    fn an_error_of_an_item_is_not_the_device_s_and_ends_the_work() {
        let begun = AtomicUsize::new(0);
        let mut copies = Copies::default();
        let work = |_: &String, number: usize| {
            begun.fetch_add(1, Ordering::SeqCst);
            if number >= 2 { bail!("picture {number} is broken") } else { Ok(()) }
        };
        let error = copies.share(&sharing(&["a"], "1/1"), 50, 1, ready, work).unwrap().pop().unwrap().1.unwrap_err();
        assert_eq!((error.to_string().as_str(), begun.load(Ordering::SeqCst)), ("picture 2 is broken", 3));
        assert_eq!(copies.any().map(String::as_str), Some("a"));
    }

    #[test]
    fn unknown_devices_and_those_of_several_kinds_are_errors() {
        let new = |names: &[&str]| Sharing::new(names.iter().map(|&name| name.to_owned()).collect(), Shard::WHOLE);
        assert!(new(&["cpu", "flex"]).is_ok());
        assert!(new(&[]).is_err());
        let error = new(&["cpu", "abacus:1"]).unwrap_err().to_string();
        assert!(error.contains("device \"abacus:1\" is unknown"), "{error}");
    }
}
