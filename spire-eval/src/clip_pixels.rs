//! CLIP's preprocessing of pictures.

use anyhow::Result;
use spire_data::Picture;
use spire_data::degrade::{Filter, resize};
use spire_model::clip::{ClipFolder, PreprocessorConfig};

use crate::pillow::Levels;

/// The preprocessing before CLIP's image encoder.
#[derive(Clone, Debug, PartialEq)]
pub enum Preprocessing {
    /// That of published CLIPs: resize the shorter side with Pillow's bicubic filter in 8-bit levels, crop the centre,
    /// subtract the mean and divide by the deviation.
    Published(PreprocessorConfig),
    /// That of this project's small CLIP: resize to a square by area averaging, values in \[-1, 1\].
    Area {
        /// Side in pixels.
        side: usize,
    },
}

impl Preprocessing {
    /// The preprocessing of the CLIP in a folder, for an image encoder with inputs of `side` pixels.
    ///
    /// # Errors
    /// `preprocessor_config.json` can't be read, or asks for preprocessing that is not supported.
    pub fn of(clip: &ClipFolder, side: usize) -> Result<Self> {
        Ok(clip.preprocessor(side)?.map_or(Self::Area { side }, Self::Published))
    }

    /// Side of the result in pixels.
    pub fn side(&self) -> usize {
        match self {
            Self::Published(config) => config.crop(),
            Self::Area { side } => *side,
        }
    }

    /// A description for the protocol.
    pub fn describe(&self) -> String {
        match self {
            Self::Published(config) => format!(
                "shorter side to {} by Pillow's bicubic filter, 8-bit levels; {} pixels in the middle; mean {:?}, deviation {:?}",
                config.shorter_side(),
                self.side(),
                config.image_mean,
                config.image_std
            ),
            Self::Area { side } => {
                format!("scaled to {side}×{side} by area where it has another size, values in [-1, 1]")
            }
        }
    }

    /// Preprocesses a picture: three planes of `side` × `side` values.
    pub fn apply(&self, picture: &Picture) -> Vec<f32> {
        match self {
            Self::Published(config) => published(config, picture),
            Self::Area { side } => {
                let signed = |picture: &Picture| picture.data.iter().map(|value| value * 2.0 - 1.0).collect();
                match (picture.width, picture.height) == (*side, *side) {
                    true => signed(picture),
                    false => signed(&resize(picture, *side, *side, Filter::Area)),
                }
            }
        }
    }
}

fn published(config: &PreprocessorConfig, picture: &Picture) -> Vec<f32> {
    let (size, crop) = (config.shorter_side(), config.crop());
    let shorter = picture.width.min(picture.height);
    let scaled = |side: usize| size * side / shorter;
    let levels = Levels::of(picture).resized(scaled(picture.width), scaled(picture.height));
    let square = levels.cropped((levels.width - crop) / 2, (levels.height - crop) / 2, crop, crop);
    let channels = square.planes.into_iter().zip(config.image_mean.into_iter().zip(config.image_std));
    let normalised = channels.flat_map(|(plane, (mean, std))| {
        plane.into_iter().map(move |level| ((f64::from(level) / 255.0 - mean) / std) as f32)
    });
    normalised.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_longer_side_is_kept() {
        let small = r#"{"size": 2, "crop_size": 2, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#;
        let small: PreprocessorConfig = serde_json::from_str(small).unwrap();
        let picture = Picture { width: 2, height: 5, data: (0..30).map(|i| i as f32 / 255.0).collect() };
        let values = Preprocessing::Published(small).apply(&picture);
        // The second and third of five rows; the odd one is dropped at the bottom.
        let levels: Vec<f32> = values.iter().map(|value| (value * 255.0).round()).collect();
        assert_eq!(levels[..4], [2.0, 3.0, 4.0, 5.0]);
    }
}
