//! What the order needs next is prepared by threads.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::order::ShardOrder;

/// Threads that prepare the shards of the blocks to come. They end when it is dropped.
pub(super) struct Prefetch {
    wanted: Option<Sender<usize>>,
    blocks: NewBlocks,
}

impl Prefetch {
    /// Calls `make` on `threads` threads with the numbers of the shards. With 0 threads nothing is prepared.
    pub fn new(threads: usize, make: impl Fn(usize) + Send + Sync + 'static) -> Self {
        let (wanted, numbers) = channel();
        let (numbers, make) = (Arc::new(Mutex::new(numbers)), Arc::new(make));
        let start = |_| {
            let (numbers, make) = (Arc::clone(&numbers), Arc::clone(&make));
            let next = move || numbers.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
            let work = move || std::iter::from_fn(&next).for_each(|number| make(number));
            thread::Builder::new().name("row groups".to_owned()).spawn(work)
        };
        // A thread fewer only prepares less.
        let started = (0..threads).map(start).filter(Result::is_ok).count();
        Self { wanted: (started > 0).then_some(wanted), blocks: NewBlocks::default() }
    }

    /// Asks for the shards that sample `n` of the sequence of `seed` and those after it need, once for each block.
    pub fn prepare(&self, order: &ShardOrder, seed: u64, n: u64) {
        if let Some(wanted) = self.wanted.as_ref().filter(|_| self.blocks.is_new(order, n)) {
            for number in order.upcoming(seed, n, 0) {
                // The receivers live as long as the sender.
                let _ = wanted.send(number);
            }
        }
    }
}

/// The block of each lane that was seen last.
#[derive(Default)]
pub(super) struct NewBlocks(Mutex<HashMap<u64, (u64, u64)>>);

impl NewBlocks {
    /// Whether sample `n` is of another block than the last one of its lane.
    pub fn is_new(&self, order: &ShardOrder, n: u64) -> bool {
        let (epoch, lane, block) = order.block_of(n);
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(lane, (epoch, block));
        before != Some((epoch, block))
    }
}
