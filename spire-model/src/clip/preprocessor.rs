//! The preprocessing of CLIP's image encoder.

use anyhow::{Result, ensure};
use serde::Deserialize;

/// transformers' `preprocessor_config.json` of CLIP, with its defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct PreprocessorConfig {
    /// The shorter side in pixels after resizing.
    pub size: Size,
    /// The side of the central crop in pixels.
    pub crop_size: Size,
    /// Mean of each channel.
    pub image_mean: [f64; 3],
    /// Standard deviation of each channel.
    pub image_std: [f64; 3],
    /// Pillow's number of the filter: 3 is bicubic.
    pub resample: u32,
}

/// A size in pixels, in the forms found in published files.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// `224`
    Side(usize),
    /// `{"shortest_edge": 224}`
    ShortestEdge {
        /// Pixels.
        shortest_edge: usize,
    },
    /// `{"height": 224, "width": 224}`
    Both {
        /// Pixels.
        height: usize,
        /// Pixels.
        width: usize,
    },
}

impl Size {
    fn side(self) -> Option<usize> {
        match self {
            Self::Side(side) | Self::ShortestEdge { shortest_edge: side } => Some(side),
            Self::Both { height, width } => (height == width).then_some(height),
        }
    }
}

impl PreprocessorConfig {
    /// CLIP's usual preprocessing for an input of `side` pixels, with the published means and deviations.
    pub fn of_side(side: usize) -> Self {
        Self { size: Size::Side(side), crop_size: Size::Side(side), ..Self::default() }
    }

    /// The shorter side in pixels before the central crop.
    pub fn shorter_side(&self) -> usize {
        self.size.side().unwrap_or_default()
    }

    /// The side of the central crop in pixels.
    pub fn crop(&self) -> usize {
        self.crop_size.side().unwrap_or_default()
    }

    /// Checks that the preprocessing is supported.
    ///
    /// # Errors
    /// The message names the key that is not supported.
    pub fn check(&self) -> Result<()> {
        ensure!(self.resample == 3, "\"resample\" is {}: only 3, bicubic, is known", self.resample);
        let (size, crop) = (self.size.side(), self.crop_size.side());
        ensure!(
            matches!((size, crop), (Some(size), Some(crop)) if 0 < crop && crop <= size),
            "\"size\" and \"crop_size\" must be squares, the second not above the first"
        );
        ensure!(self.image_std.iter().all(|&std| std > 0.0), "\"image_std\" must be above 0");
        Ok(())
    }
}

impl Default for PreprocessorConfig {
    fn default() -> Self {
        Self {
            size: Size::Side(224),
            crop_size: Size::Side(224),
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            resample: 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_form() {
        let config = |text: &str| serde_json::from_str::<PreprocessorConfig>(text).unwrap();
        assert_eq!(config(r#"{"size": 256, "crop_size": {"height": 224, "width": 224}}"#).crop(), 224);
        assert_eq!(config(r#"{"size": {"shortest_edge": 336}, "crop_size": 336}"#).shorter_side(), 336);
        for wrong in
            [r#"{"crop_size": 225}"#, r#"{"crop_size": 0}"#, r#"{"resample": 2}"#, r#"{"image_std": [1, 1, 0]}"#]
        {
            assert!(config(wrong).check().is_err(), "{wrong}");
        }
    }
}
