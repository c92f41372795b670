//! A source in two parts: samples for training, and those that are held out from it. The hash of a sample's name (or of its shard's, in a
//! store) decides, so that neither seed nor order nor the number of pictures changes on which side a sample is.

use std::sync::Arc;

use super::{Sample, SampleError, Skipped, Source};
use crate::order::{mix, permuted, replacement_distance};
use crate::rng::rng;

/// A held-out sample is replaced by one of this many that follow it, as a broken one is.
const REPLACED_WITHIN: u64 = 1000;

/// Which samples are held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HeldOut {
    /// Those whose hash is below.
    threshold: u64,
}

impl HeldOut {
    /// About the `share` of the samples of `source`, at least one of them. `None` if that leaves nothing to train on.
    pub fn of(source: &dyn Source, share: f64) -> Option<Self> {
        let hashes = || (0..source.len()).map(|index| hash(&source.group(index)));
        let lowest = hashes().min()?;
        let held_out = Self { threshold: ((share * u64::MAX as f64) as u64).max(lowest.saturating_add(1)) };
        hashes().any(|hash| hash >= held_out.threshold).then_some(held_out)
    }

    fn has(self, group: &str) -> bool {
        hash(group) < self.threshold
    }
}

/// FNV-1a, finished so that every bit depends on every byte.
fn hash(name: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// The samples that are not held out. They keep their positions in the source, and the order is the source's own: in the
/// place of a held-out sample comes another one.
pub(crate) struct Kept {
    source: Arc<dyn Source>,
    held_out: HeldOut,
    /// Number of samples that are not held out.
    count: usize,
}

impl Kept {
    /// Of `source`; `None` if all its samples are held out.
    pub fn new(source: Arc<dyn Source>, held_out: HeldOut) -> Option<Self> {
        let count = (0..source.len()).filter(|&index| !held_out.has(&source.group(index))).count();
        (count > 0).then_some(Self { source, held_out, count })
    }
}

impl Source for Kept {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn pass_len(&self) -> usize {
        self.count
    }

    fn name(&self, index: usize) -> String {
        self.source.name(index)
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        self.source.read(index)
    }

    fn nth(&self, seed: u64, n: u64) -> usize {
        let mut replacement = rng(seed, "held out", n);
        let mut index = self.source.nth(seed, n);
        let mut within = REPLACED_WITHIN;
        while self.held_out.has(&self.source.group(index)) {
            let distance = replacement_distance(&mut replacement, within, self.source.lanes());
            index = self.source.nth(seed, n.saturating_add(distance));
            // In the end the whole source, if many that follow are held out.
            within = within.saturating_mul(2);
        }
        index
    }

    fn lanes(&self) -> u64 {
        self.source.lanes()
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.source.left_out()
    }
}

/// The held-out samples alone.
pub(crate) struct HeldOutSource {
    source: Arc<dyn Source>,
    /// Their positions in the source.
    places: Vec<usize>,
}

impl HeldOutSource {
    /// Of `source`.
    pub fn new(source: Arc<dyn Source>, held_out: HeldOut) -> Self {
        let places = (0..source.len()).filter(|&index| held_out.has(&source.group(index))).collect();
        Self { source, places }
    }
}

impl Source for HeldOutSource {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn name(&self, index: usize) -> String {
        self.source.name(self.places[index])
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        self.source.read(self.places[index])
    }

    fn nth(&self, seed: u64, n: u64) -> usize {
        let len = self.places.len() as u64;
        permuted(seed, "order", n / len, n % len, len) as usize
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.source.left_out()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::source::WorldSource;

    fn source(count: usize) -> Arc<dyn Source> {
        Arc::new(WorldSource::new(8, count, 1).unwrap())
    }

    #[test]
    fn a_sample_is_in_one_part_whatever_the_order() {
        let source = source(2000);
        let held_out = HeldOut::of(&*source, 0.1).unwrap();
        let (kept, held) = (Kept::new(source.clone(), held_out).unwrap(), HeldOutSource::new(source, held_out));
        assert!((150..250).contains(&held.len()), "{}", held.len());
        assert_eq!(kept.pass_len() + held.len(), 2000);
        let apart: BTreeSet<String> = (0..held.len()).map(|index| held.name(index)).collect();
        for seed in [3, 4] {
            let trained: BTreeSet<String> = (0..6000).map(|n| kept.name(kept.nth(seed, n))).collect();
            assert!(trained.is_disjoint(&apart));
            assert_eq!(trained.len(), kept.pass_len(), "three passes see every sample");
            let seen: BTreeSet<String> = (0..held.len() as u64).map(|n| held.name(held.nth(seed, n))).collect();
            assert_eq!(seen, apart);
        }
        // More pictures do not move any of the others.
        let more = self::source(3000);
        let larger = HeldOut::of(&*more, 0.1).unwrap();
        assert_eq!(larger, held_out);
    }

    #[test]
    fn the_order_of_the_others_stays() {
        let source = source(500);
        let kept = Kept::new(source.clone(), HeldOut::of(&*source, 0.05).unwrap()).unwrap();
        let same = (0..500).filter(|&n| kept.nth(7, n) == source.nth(7, n)).count();
        assert_eq!(same, kept.pass_len());
    }

    #[test]
    fn of_few_pictures_one_is_held_out_and_of_one_none() {
        let few = source(3);
        let held_out = HeldOut::of(&*few, 1e-6).unwrap();
        assert_eq!(HeldOutSource::new(few.clone(), held_out).len(), 1);
        assert_eq!(Kept::new(few, held_out).unwrap().pass_len(), 2);
        assert_eq!(HeldOut::of(&*source(1), 0.5), None);
    }
}
