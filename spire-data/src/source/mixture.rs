//! A weighted mixture of sources.

use std::ops::Range;
use std::sync::Arc;

use super::{Sample, SampleError, Skipped, Source, SourceConfig, SourceError, open};
use crate::order::permuted;

/// A mixture of sources. Of every 1000 samples each source has its share, at random positions; a source smaller than
/// its share repeats more often.
pub struct MixtureSource {
    parts: Vec<Part>,
    len: usize,
}

struct Part {
    source: Arc<dyn Source>,
    /// The index of its first sample in the mixture.
    first: usize,
    /// Its number of samples per [`CYCLE`].
    places: Range<u64>,
}

/// Number of samples in which each source gets exactly its share.
const CYCLE: u64 = 1000;

impl MixtureSource {
    /// Opens `sources` with their weights.
    ///
    /// # Errors
    /// There are no sources, one can't be opened, or a weight is below a thousandth of the sum.
    pub fn open(sources: &[SourceConfig], size: usize) -> Result<Self, SourceError> {
        let opened = sources.iter().enumerate().map(|(index, config)| {
            let source = open(config, size).map_err(|source| SourceError::Part { index, source: Box::new(source) })?;
            Ok((source, config.weight))
        });
        Self::new(opened.collect::<Result<_, SourceError>>()?)
    }

    /// The mixture of `sources`, each with its weight.
    ///
    /// # Errors
    /// There are no sources, or a weight is below a thousandth of the sum.
    pub fn new(sources: Vec<(Arc<dyn Source>, f64)>) -> Result<Self, SourceError> {
        if sources.is_empty() {
            let what = "[[data.source.sources]], each with its kind and weight";
            return Err(SourceError::Unset { key: "sources", kind: "mixture", what });
        }
        let total: f64 = sources.iter().map(|(_, weight)| weight).sum();
        let mut parts: Vec<Part> = vec![];
        let (mut len, mut share, mut start) = (0, 0.0, 0);
        for (index, (source, weight)) in sources.into_iter().enumerate() {
            let wrong = |reason| SourceError::Weight { index, weight, reason };
            if !weight.is_finite() || weight <= 0.0 {
                return Err(wrong("it must be a number above 0"));
            }
            share += weight / total;
            let end = (share * CYCLE as f64).round() as u64;
            if end == start {
                return Err(wrong("it is less than a thousandth of the sum: remove the source"));
            }
            parts.push(Part { first: len, places: start..end, source });
            len += parts[index].source.len();
            start = end;
        }
        Ok(Self { parts, len })
    }

    fn part(&self, index: usize) -> (&Part, usize) {
        assert!(index < self.len, "sample {index} of {}", self.len);
        // The last source that begins at or before the index: empty sources contain nothing.
        let part = &self.parts[self.parts.partition_point(|part| part.first <= index) - 1];
        (part, index - part.first)
    }
}

impl Source for MixtureSource {
    fn len(&self) -> usize {
        self.len
    }

    fn name(&self, index: usize) -> String {
        let (part, index) = self.part(index);
        part.source.name(index)
    }

    fn group(&self, index: usize) -> String {
        let (part, index) = self.part(index);
        part.source.group(index)
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        let (part, index) = self.part(index);
        part.source.read(index)
    }

    /// The positions of a cycle are shuffled. A source's k-th position takes its k-th next sample.
    fn nth(&self, seed: u64, n: u64) -> usize {
        let cycle = n / CYCLE;
        let place = permuted(seed, "mixture", cycle, n % CYCLE, CYCLE);
        let part = &self.parts[self.parts.partition_point(|part| part.places.end <= place)];
        let share = part.places.end - part.places.start;
        part.first + part.source.nth(seed, cycle * share + place - part.places.start)
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.parts.iter().flat_map(|part| part.source.left_out()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::WorldSource;

    fn mixture(weights: &[(usize, f64)]) -> Result<MixtureSource, SourceError> {
        let source = |&(count, weight): &(usize, f64)| {
            (Arc::new(WorldSource::new(8, count, count as u64).unwrap()) as Arc<dyn Source>, weight)
        };
        MixtureSource::new(weights.iter().map(source).collect())
    }

    #[test]
    fn each_source_gets_its_share_and_visits_all_its_samples() {
        let mixture = mixture(&[(500, 3.0), (200, 1.5), (7, 0.5)]).unwrap();
        assert_eq!(mixture.len(), 707);
        let mut seen = vec![0; 707];
        (0..5000).for_each(|n| seen[mixture.nth(4, n)] += 1);
        assert_eq!(seen[..500], [6; 500]);
        assert!(seen[500..700].iter().all(|&count| count == 7 || count == 8));
        assert_eq!(seen[500..700].iter().sum::<i32>(), 1500);
        assert_eq!(seen[700..].iter().sum::<i32>(), 500);
        let firsts: Vec<usize> = (0..1000).map(|n| mixture.nth(4, n)).collect();
        assert!(firsts[..100].iter().any(|&index| index >= 500) && firsts[..100].iter().any(|&index| index < 500));
        assert_ne!(firsts, (0..1000).map(|n| mixture.nth(5, n)).collect::<Vec<_>>());
    }

    #[test]
    fn samples_come_from_the_mixed_sources() {
        let mixture = mixture(&[(3, 1.0), (2, 1.0)]).unwrap();
        let names: Vec<String> = (0..5).map(|index| mixture.name(index)).collect();
        assert_eq!(names, ["world/0", "world/1", "world/2", "world/0", "world/1"]);
        let other = WorldSource::new(8, 2, 2).unwrap();
        assert_eq!(mixture.read(4).unwrap().picture, other.read(1).unwrap().picture);
    }

    #[test]
    fn the_error_names_an_invalid_weight() {
        let message = |weights: &[(usize, f64)]| mixture(weights).err().expect("an error").to_string();
        assert!(message(&[]).contains("data.source.sources"));
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let message = message(&[(3, 1.0), (3, weight)]);
            assert!(message.contains("sources[") && message.contains("weight"), "{message}");
        }
        assert!(message(&[(3, 1.0), (3, 1e-4)]).contains("thousandth"));
    }
}
