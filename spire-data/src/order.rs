//! The order of samples: permutations that use no memory and allow random access.

use std::sync::{Arc, Mutex, PoisonError};

use rand::RngExt;

use crate::rng::rng;

/// Maps `position` of pass `epoch` by a pseudo-random permutation of `0..len`: a Feistel network on the next power of
/// four, iterated until the result is in range (cycle walking). Uses no memory and allows random access.
///
/// # Panics
/// If `len` is 0.
pub(crate) fn permuted(seed: u64, purpose: &str, epoch: u64, position: u64, len: u64) -> u64 {
    let half = (u64::BITS - (len - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half) - 1;
    let keys: [u64; 8] = rng(seed, purpose, epoch).random();
    let mut value = position;
    loop {
        for key in keys {
            let (left, right) = (value >> half, value & mask);
            value = right << half | (left ^ mix(right ^ key) & mask);
        }
        if value < len {
            return value;
        }
    }
}

/// SplitMix64's finaliser: every bit of the result depends on every bit of the value.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The order of samples in shards. Every pass visits the shards in another order and mixes the samples within blocks of
/// `buffer`, like a shuffle buffer of that size. Reads at any time stay close together, and the n-th sample is a
/// function of only the seed and n.
///
/// With several lanes, a pass is cut into equal parts, one a lane, and sample n comes from lane n modulo their number. A rank
/// that takes every R-th sample, where R divides the number of lanes, reads the shards of its own lanes alone.
#[derive(Debug)]
pub struct ShardOrder {
    /// The first sample of each shard, and the total.
    starts: Vec<u64>,
    buffer: u64,
    lanes: u64,
    /// The two passes used last: around the end of a pass both are needed.
    passes: Mutex<[Option<Arc<Pass>>; 2]>,
}

/// The shards in the order of one pass.
#[derive(Debug)]
struct Pass {
    seed: u64,
    epoch: u64,
    shards: Vec<usize>,
    /// Where each begins in this pass.
    starts: Vec<u64>,
}

/// The block of a lane that a sample comes from. Positions count from the beginning of the pass.
struct Block {
    epoch: u64,
    /// The number of the lane, and of the block in it.
    lane: u64,
    number: u64,
    /// The position of the block's first sample, and of the first after the lane.
    first: u64,
    lane_end: u64,
    /// The sample's place in the block before it is mixed.
    place: u64,
}

impl ShardOrder {
    /// The order for shards of `lens` samples each, mixed within blocks of `buffer` (at least 1).
    pub fn new(lens: impl IntoIterator<Item = usize>, buffer: usize) -> Self {
        Self {
            starts: cumulative(lens.into_iter().map(|len| len as u64)),
            buffer: buffer.max(1) as u64,
            lanes: 1,
            passes: Mutex::default(),
        }
    }

    /// The same shards in `lanes` lanes (at least 1), which share the buffer.
    pub fn in_lanes(self, lanes: usize) -> Self {
        let lanes = (lanes as u64).clamp(1, self.len().max(1) as u64);
        Self { lanes, buffer: self.buffer.div_ceil(lanes), ..self }
    }

    /// Number of lanes.
    pub(crate) fn lanes(&self) -> u64 {
        self.lanes
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.starts[self.starts.len() - 1] as usize
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shard of sample `index`, and its position there.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn locate(&self, index: usize) -> (usize, usize) {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        let shard = holding(&self.starts, index as u64);
        (shard, index - self.starts[shard] as usize)
    }

    /// The n-th sample of the endless sequence of `seed`.
    ///
    /// # Panics
    /// If there are no samples.
    pub fn nth(&self, seed: u64, n: u64) -> usize {
        let Block { epoch, lane, number, first, lane_end, place } = self.block(n);
        let blocks = (self.len() as u64).div_ceil(self.lanes).div_ceil(self.buffer);
        let draw = (epoch * self.lanes + lane) * blocks + number;
        let position = first + permuted(seed, "shuffle buffer", draw, place, self.buffer.min(lane_end - first));
        let pass = self.pass(seed, epoch);
        let at = holding(&pass.starts, position);
        (self.starts[pass.shards[at]] + position - pass.starts[at]) as usize
    }

    /// The shards that the lane of the n-th sample needs from there on: those of its block and of the next one, and `more`
    /// after them, which may be of the next pass. They are the same for all samples of a block.
    pub(crate) fn upcoming(&self, seed: u64, n: u64, more: usize) -> Vec<usize> {
        let len = self.len() as u64;
        let Block { epoch, first, lane_end, .. } = self.block(n);
        let of_pass = |epoch: u64, first: u64, end: u64, lane_end: u64, more: usize| {
            let pass = self.pass(seed, epoch);
            let [begin, last, lane_last] = [first, end - 1, lane_end - 1].map(|at| holding(&pass.starts, at));
            let shards = pass.shards[begin..=(last + more).min(lane_last)].to_vec();
            (shards, (last + more).saturating_sub(lane_last))
        };
        let end = (first + 2 * self.buffer).min(lane_end);
        let (mut shards, left) = of_pass(epoch, first, end, lane_end, more);
        let missing = first + 2 * self.buffer - end;
        if left > 0 || missing > 0 {
            // The next sample of the same rank or worker that lies in the next pass.
            let next = self.block((epoch + 1) * len + (n + self.lanes - (epoch + 1) * len % self.lanes) % self.lanes);
            let end = (next.first + missing.max(1)).min(next.lane_end);
            shards.extend(of_pass(next.epoch, next.first, end, next.lane_end, left.saturating_sub(1)).0);
        }
        shards
    }

    /// Identifies the block of the n-th sample: its pass, lane and number.
    pub(crate) fn block_of(&self, n: u64) -> (u64, u64, u64) {
        let Block { epoch, lane, number, .. } = self.block(n);
        (epoch, lane, number)
    }

    fn block(&self, n: u64) -> Block {
        let len = self.len() as u64;
        let (epoch, position) = (n / len, n % len);
        let (round, lane) = (position / self.lanes, position % self.lanes);
        // The first lanes have one sample more if the pass can't be divided.
        let (share, longer) = (len / self.lanes, len % self.lanes);
        let start = lane * share + lane.min(longer);
        let lane_end = start + share + u64::from(lane < longer);
        let (number, place) = (round / self.buffer, round % self.buffer);
        Block { epoch, lane, number, first: start + number * self.buffer, lane_end, place }
    }

    fn pass(&self, seed: u64, epoch: u64) -> Arc<Pass> {
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pass) = passes.iter().flatten().find(|pass| (pass.seed, pass.epoch) == (seed, epoch)) {
            return Arc::clone(pass);
        }
        let count = self.starts.len() as u64 - 1;
        let shards: Vec<usize> = (0..count).map(|i| permuted(seed, "shards", epoch, i, count) as usize).collect();
        let starts = cumulative(shards.iter().map(|&shard| self.starts[shard + 1] - self.starts[shard]));
        let pass = Arc::new(Pass { seed, epoch, shards, starts });
        passes.rotate_right(1);
        passes[0] = Some(Arc::clone(&pass));
        pass
    }
}

/// How far from a sample its replacement is: at most `within`, and in the same of `lanes` lanes, so that a rank does not need the
/// shards of others.
pub(crate) fn replacement_distance(draws: &mut impl rand::Rng, within: u64, lanes: u64) -> u64 {
    draws.random_range(1..=within.div_ceil(lanes)) * lanes
}

/// The exclusive prefix sums and the total.
fn cumulative(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut sum = 0;
    let running = values.map(|value| {
        sum += value;
        sum
    });
    std::iter::once(0).chain(running).collect()
}

/// The index of the range that contains `position`, given the ranges' `starts`; empty ranges contain nothing.
fn holding(starts: &[u64], position: u64) -> usize {
    starts.partition_point(|&start| start <= position) - 1
}

/// The part of an endless sequence for one rank of a distributed run: of every batch of `batch` samples, the `rank`-th
/// of `ranks` equal parts, or every `ranks`-th sample. Together the ranks take every sample once, in the same batches for
/// any number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    batch: u64,
    rank: u64,
    ranks: u64,
    interleaved: bool,
}

impl Slice {
    /// The whole sequence.
    pub const WHOLE: Self = Self { batch: 1, rank: 0, ranks: 1, interleaved: false };

    /// The part of `rank`. `None` if `ranks` does not divide `batch`, or `rank` is not below `ranks`.
    pub fn new(batch: usize, rank: usize, ranks: usize) -> Option<Self> {
        let divides = batch > 0 && ranks > 0 && batch.is_multiple_of(ranks) && rank < ranks;
        divides.then_some(Self { batch: batch as u64, rank: rank as u64, ranks: ranks as u64, interleaved: false })
    }

    /// The same rank, which takes every `ranks`-th sample: those of its own lanes of a [`ShardOrder`].
    pub fn interleaved(self) -> Self {
        Self { interleaved: true, ..self }
    }

    /// The number of ranks.
    pub fn ranks(&self) -> u64 {
        self.ranks
    }

    /// The position of this part's `i`-th sample in the whole sequence.
    pub fn nth(&self, i: u64) -> u64 {
        if self.interleaved {
            return i * self.ranks + self.rank;
        }
        let share = self.batch / self.ranks;
        i / share * self.batch + self.rank * share + i % share
    }

    /// Number of samples that all ranks together have taken after this one took `taken`, in whole batches.
    pub fn batches(&self, taken: u64) -> u64 {
        taken * self.ranks / self.batch * self.batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::seq::SliceRandom;

    fn order(seed: u64, epoch: u64, len: u64) -> Vec<u64> {
        (0..len).map(|i| permuted(seed, "order", epoch, i, len)).collect()
    }

    #[test]
    fn each_pass_visits_each_sample_once_in_its_own_order() {
        for len in [1, 2, 3, 5, 12, 64, 65, 1000] {
            for epoch in 0..3 {
                let mut visited = order(3, epoch, len);
                visited.sort_unstable();
                assert_eq!(visited, (0..len).collect::<Vec<_>>(), "pass {epoch} over {len}");
            }
            assert!(len < 12 || order(3, 0, len) != order(3, 1, len));
        }
    }

    /// Each of 5 items takes each position equally often: in 6000 orders, 1200 ± 31 times.
    #[test]
    fn every_position_is_equally_likely() {
        let spread = |order: &dyn Fn(u64) -> Vec<u64>| {
            let mut seen = [[0_i64; 5]; 5];
            for epoch in 0..6000 {
                for (place, thing) in order(epoch).into_iter().enumerate() {
                    seen[place][thing as usize] += 1;
                }
            }
            seen.iter().flatten().map(|count| (count - 1200).abs()).max().unwrap()
        };
        let shuffled = |epoch| {
            let mut order: Vec<u64> = (0..5).collect();
            order.shuffle(&mut rng(3, "shuffle", epoch));
            order
        };
        assert!(spread(&shuffled) < 130);
        assert!(spread(&|epoch| order(3, epoch, 5)) < 130);
    }

    #[test]
    fn shards_are_read_one_after_the_other_in_the_order_of_the_pass() {
        let order = ShardOrder::new([100; 20], 50);
        let shards = |epoch: u64| -> Vec<usize> {
            let samples = (0..2000).map(|i| order.nth(5, epoch * 2000 + i));
            let mut shards: Vec<usize> = samples.map(|index| order.locate(index).0).collect();
            shards.dedup();
            shards
        };
        assert_eq!(shards(0).len(), 20);
        assert_ne!(shards(0), shards(1));
        assert_ne!(shards(0), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn the_buffer_mixes_neighbours() {
        let order = ShardOrder::new([1000], 100);
        let first: Vec<usize> = (0..100).map(|n| order.nth(5, n)).collect();
        assert!(first.iter().all(|&index| index < 100));
        let in_place = first.iter().enumerate().filter(|(place, index)| place == *index).count();
        assert!(in_place < 10, "{in_place} of 100 stayed where they were");
    }

    proptest! {
        #[test]
        fn every_pass_over_shards_has_every_sample_once(
            lens in proptest::collection::vec(0_usize..30, 1..12), buffer in 1_usize..70, seed: u64, epoch in 0_u64..3,
        ) {
            let order = ShardOrder::new(lens.iter().copied(), buffer);
            prop_assume!(!order.is_empty());
            let len = order.len();
            prop_assert_eq!(len, lens.iter().sum::<usize>());
            // Access from both ends, as several threads do around the end of a pass.
            let mut visited: Vec<usize> = (0..len as u64).rev().map(|i| order.nth(seed, epoch * len as u64 + i)).collect();
            visited.sort_unstable();
            prop_assert_eq!(&visited, &(0..len).collect::<Vec<_>>());
            for index in visited {
                let (shard, place) = order.locate(index);
                prop_assert!(place < lens[shard]);
                prop_assert_eq!(lens[..shard].iter().sum::<usize>() + place, index);
            }
        }

        #[test]
        fn ranks_read_the_shards_of_their_own_lanes(
            lens in proptest::collection::vec(1_usize..30, 4..12), buffer in 1_usize..20, lanes in 1_usize..5, seed: u64,
        ) {
            let order = ShardOrder::new(lens.iter().copied(), buffer).in_lanes(lanes);
            let len = order.len() as u64;
            for epoch in 0..2 {
                let mut visited: Vec<usize> = (0..len).map(|i| order.nth(seed, epoch * len + i)).collect();
                for n in epoch * len..(epoch + 1) * len {
                    let (shard, _) = order.locate(order.nth(seed, n));
                    prop_assert!(order.upcoming(seed, n, 1).contains(&shard), "sample {} is not announced", n);
                }
                // A lane is a range of the pass: apart from its ends, no shard is of two lanes.
                for lane in 0..lanes as u64 {
                    let shards = |lane| {
                        let of_lane = (0..len).filter(move |i| i % lanes as u64 == lane);
                        of_lane.map(|i| order.locate(order.nth(seed, epoch * len + i)).0)
                            .collect::<std::collections::BTreeSet<usize>>()
                    };
                    let shared: usize = (0..lane).map(|other| shards(lane).intersection(&shards(other)).count()).sum();
                    prop_assert!(shared < lanes);
                }
                visited.sort_unstable();
                prop_assert_eq!(visited, (0..len as usize).collect::<Vec<_>>());
            }
        }

        #[test]
        fn ranks_share_every_batch(
            share in 1_usize..5, ranks in 1_usize..6, batches in 1_u64..4, interleaved: bool,
        ) {
            let batch = share * ranks;
            let mut taken: Vec<u64> = vec![];
            for rank in 0..ranks {
                let slice = Slice::new(batch, rank, ranks).unwrap();
                let slice = if interleaved { slice.interleaved() } else { slice };
                let own: Vec<u64> = (0..batches * share as u64).map(|i| slice.nth(i)).collect();
                prop_assert!(own.is_sorted());
                for (i, part) in own.chunks(share).enumerate() {
                    prop_assert!(part.iter().all(|n| n / batch as u64 == i as u64));
                }
                taken.extend(own);
            }
            taken.sort_unstable();
            prop_assert_eq!(taken, (0..batches * batch as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_replacement_is_near_and_of_the_same_lane() {
        let mut draws = rng(1, "test", 0);
        for (within, lanes) in [(1000, 1), (1000, 8), (3, 8)] {
            let distances: Vec<u64> = (0..200).map(|_| replacement_distance(&mut draws, within, lanes)).collect();
            assert!(
                distances
                    .iter()
                    .all(|distance| distance.is_multiple_of(lanes) && (1..within + lanes).contains(distance))
            );
            assert!(within < 10 || distances.iter().max() > Some(&(within / 2)), "{distances:?}");
        }
    }

    #[test]
    fn ranks_that_do_not_divide_the_batch_have_no_slice() {
        assert!(Slice::new(8, 0, 3).is_none());
        assert!(Slice::new(8, 2, 2).is_none());
        assert!(Slice::new(0, 0, 1).is_none());
        assert_eq!((0..4).map(|i| Slice::WHOLE.nth(i)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
