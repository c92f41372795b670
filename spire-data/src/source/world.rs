//! The illustrated world as a source.

use super::{Pixels, Sample, SampleError, Source, SourceError};
use crate::world::{World, WorldConfig};

/// `count` scenes, drawn when they are read.
pub struct WorldSource {
    world: World,
    size: usize,
    count: usize,
}

impl WorldSource {
    /// The first `count` scenes of the world of `seed`, drawn `size` × `size`.
    ///
    /// # Errors
    /// `count` is 0.
    pub fn new(size: usize, count: usize, seed: u64) -> Result<Self, SourceError> {
        if count == 0 {
            return Err(SourceError::Empty { place: "data.source.count = 0".to_owned() });
        }
        Ok(Self { world: World::new(WorldConfig { size, count: count as u64, seed }), size, count })
    }
}

impl Source for WorldSource {
    fn len(&self) -> usize {
        self.count
    }

    fn name(&self, index: usize) -> String {
        assert!(index < self.count, "scene {index} of {}", self.count);
        format!("world/{index}")
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        let scene = self.world.scene(index as u64);
        Ok(Sample {
            name: self.name(index),
            picture: Pixels::Values(scene.draw(self.size)),
            captions: vec![scene.caption],
            pair: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_are_captioned_differ_and_repeat() {
        let source = WorldSource::new(24, 3, 5).unwrap();
        let samples: Vec<_> = (0..3).map(|index| source.read(index).unwrap()).collect();
        for sample in &samples {
            assert_eq!(sample.picture.size(), (24, 24));
            assert!(!sample.captions[0].is_empty());
        }
        assert_ne!(samples[0].picture, samples[1].picture);
        let again = source.read(1).unwrap();
        assert_eq!((again.picture, again.captions), (samples[1].picture.clone(), samples[1].captions.clone()));
    }
}
