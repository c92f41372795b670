//! The illustrated world as a source.

use rand::RngExt;

use super::{Pixels, Sample, SampleError, Source, SourceError};
use crate::degrade::blur::gaussian_blur;
use crate::rng::rng;
use crate::world::{World, WorldConfig};

/// The most that scenes may be out of focus, in pixels.
const SOFTEST: f32 = 16.0;

/// `count` scenes, drawn when they are read.
pub struct WorldSource {
    world: World,
    size: usize,
    count: usize,
    soft: f32,
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
        Ok(Self { world: World::new(WorldConfig { size, count: count as u64, seed }), size, count, soft: 0.0 })
    }

    /// Clean pictures that are out of focus: each is blurred by a Gaussian of 0 to `pixels`, drawn uniformly, that no caption
    /// tells. In such a picture one can't see how much of its blur a degradation has added.
    ///
    /// # Errors
    /// `pixels` is not from 0 to 16.
    pub fn soft(self, pixels: f32) -> Result<Self, SourceError> {
        match (0.0..=SOFTEST).contains(&pixels) {
            true => Ok(Self { soft: pixels, ..self }),
            false => Err(SourceError::Soft { pixels, most: SOFTEST }),
        }
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
        let mut picture = scene.draw(self.size);
        if self.soft > 0.0 {
            let share: f32 = rng(self.world.config.seed, "soft", index as u64).random();
            picture = gaussian_blur(&picture, self.soft * share);
        }
        Ok(Sample {
            name: self.name(index),
            picture: Pixels::Values(picture),
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

    #[test]
    fn soft_scenes_are_blurred_differently_and_repeat() {
        let read = |soft: f32, index: usize| {
            let source = WorldSource::new(64, 9, 5).unwrap().soft(soft).unwrap();
            match source.read(index).unwrap().picture {
                Pixels::Values(picture) => picture,
                Pixels::Bytes(_) => panic!("scenes are drawn as values"),
            }
        };
        // The sum of the differences between neighbours falls as a picture is blurred.
        let edges =
            |picture: &crate::Picture| picture.data.windows(2).map(|pair| (pair[0] - pair[1]).abs()).sum::<f32>();
        let kept: Vec<f32> = (0..9).map(|index| edges(&read(4.0, index)) / edges(&read(0.0, index))).collect();
        assert!(kept.iter().all(|&kept| kept <= 1.0), "{kept:?}");
        let (least, most) = kept.iter().fold((1.0_f32, 0.0_f32), |(low, high), &kept| (low.min(kept), high.max(kept)));
        assert!(most - least > 0.2, "{kept:?}");
        assert_eq!(read(4.0, 3), read(4.0, 3));
        assert!(WorldSource::new(64, 9, 5).unwrap().soft(-1.0).is_err());
        assert!(WorldSource::new(64, 9, 5).unwrap().soft(f32::NAN).is_err());
    }
}
