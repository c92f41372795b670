//! The caption of several that fits a picture best, as a CLIP ranks them (section 4.1: "the alternative text label with highest
//! relevance").

use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;
use spire_core::Picture;
use spire_eval::clip_space::{ImageSpace, TextSpace, cosine};
use spire_model::clip::ClipFolder;
use spire_model::weights::checksum::checksum_of;

/// A CLIP that ranks captions.
pub(super) struct CaptionRanking {
    images: ImageSpace,
    texts: TextSpace,
}

impl CaptionRanking {
    /// Loads both towers of the CLIP in `folder`.
    ///
    /// # Errors
    /// The folder is missing or does not hold a CLIP.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let clip = ClipFolder::open(folder)?;
        Ok(Self { images: ImageSpace::load(&clip, device)?, texts: TextSpace::load(&clip, device)? })
    }

    /// The caption with the highest cosine to the picture, counted from 0; the first of equal ones.
    ///
    /// # Errors
    /// The text tower has no projection.
    pub fn best(&self, picture: &Picture, captions: &[String]) -> Result<usize> {
        if captions.len() < 2 {
            return Ok(0);
        }
        let image = self.images.features(&[picture]).swap_remove(0);
        let mut best = (0, f64::NEG_INFINITY);
        for (i, caption) in captions.iter().enumerate() {
            let relevance = cosine(&image, &self.texts.features(caption)?);
            if relevance > best.1 {
                best = (i, relevance);
            }
        }
        Ok(best.0)
    }
}

/// SHA-256 of the weights of the CLIP in `folder`.
///
/// # Errors
/// The folder does not hold a CLIP, or a file can't be read.
pub(super) fn checksum(folder: &Path) -> Result<String> {
    checksum_of(ClipFolder::open(folder)?.weights_files()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spire_data::world::{World, WorldConfig};

    #[test]
    fn the_caption_of_the_picture_ranks_first() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny");
        let ranking = CaptionRanking::load(&folder, &Device::flex()).unwrap();
        let world = World::new(WorldConfig { size: 64, count: 40, seed: 5 });
        let captions: Vec<String> = (0..40).map(|i| world.scene(i).caption).collect();
        let right = (0..40).filter(|&i| {
            let among: Vec<String> = [7, 0, 19].iter().map(|step| captions[(i + step) % 40].clone()).collect();
            ranking.best(&world.scene(i as u64).draw(64), &among).unwrap() == 1
        });
        let right = right.count();
        assert!(right > 30, "{right} of 40");
        assert_eq!(ranking.best(&world.scene(0).draw(64), &[]).unwrap(), 0);
    }
}
