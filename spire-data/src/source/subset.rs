//! Some of a source's samples, chosen once by a seed.

use std::sync::Arc;

use super::{Sample, SampleError, Skipped, Source};
use crate::order::permuted;

/// `count` samples of a source, or all if it has fewer. Every pass over them visits each once.
pub struct Subset {
    source: Arc<dyn Source>,
    count: usize,
    seed: u64,
}

impl Subset {
    /// The samples are chosen by `seed`.
    pub fn new(source: Arc<dyn Source>, count: usize, seed: u64) -> Self {
        let count = count.min(source.len());
        Self { source, count, seed }
    }

    /// The place in the whole source of sample `index`.
    fn place(&self, index: usize) -> usize {
        permuted(self.seed, "subset", 0, index as u64, self.source.len() as u64) as usize
    }
}

impl Source for Subset {
    fn len(&self) -> usize {
        self.count
    }

    fn name(&self, index: usize) -> String {
        self.source.name(self.place(index))
    }

    fn group(&self, index: usize) -> String {
        self.source.group(self.place(index))
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        self.source.read(self.place(index))
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.source.left_out()
    }
}
