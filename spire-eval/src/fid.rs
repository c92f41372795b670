//! FID's preprocessing and Inception v3 features (Heusel et al., 2017; Parmar et al., 2022).

use std::path::Path;

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use spire_data::Picture;
use spire_data::degrade::Filter;
use spire_data::degrade::resize::resize_plane;

use crate::inception::{FEATURES, Inception, SIDE};
use crate::pillow;
use crate::pixels::level;
use crate::public_weights::PublicWeights;

/// Inception's weights.
pub const WEIGHTS: PublicWeights = PublicWeights {
    file: "pt_inception-2015-12-05-6726825d.pth",
    url: "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
};

/// How pictures are resized to 299 × 299 pixels. FID depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resizing {
    /// clean-fid's: Pillow's antialiased bicubic filter on each channel's unrounded values.
    #[default]
    Clean,
    /// pytorch-fid's: bilinear without antialiasing.
    Legacy,
}

impl Resizing {
    /// A description for the protocol.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Clean => "299×299 by Pillow's bicubic filter, not rounded (clean-fid's \"clean\")",
            Self::Legacy => {
                "299×299 by torch's bilinear filter without antialiasing (pytorch-fid, clean-fid's \"legacy_pytorch\")"
            }
        }
    }

    /// Preprocesses a picture: three planes of 299 × 299 values in \[0, 255\].
    fn apply(self, picture: &Picture) -> Vec<f32> {
        let (size, new_size) = ((picture.width, picture.height), (SIDE, SIDE));
        let resized = picture.planes().flat_map(|plane| {
            let levels: Vec<f32> = plane.iter().map(|&value| level(value) as f32).collect();
            match self {
                Self::Clean => pillow::resize(&levels, size, new_size),
                Self::Legacy => resize_plane(&levels, size, SIDE, SIDE, Filter::Bilinear),
            }
        });
        resized.map(|value| value.clamp(0.0, 255.0)).collect()
    }
}

/// Inception as a feature extractor.
#[derive(Debug)]
pub struct FidSpace {
    network: Inception,
    resizing: Resizing,
    device: Device,
}

impl FidSpace {
    /// Reads pytorch-fid's weights, or a file in another format with the same names.
    ///
    /// # Errors
    /// The file can't be read, or its tensors do not fit the network.
    pub fn load(file: &Path, resizing: Resizing, device: &Device) -> Result<Self> {
        Ok(Self { network: Inception::load(file, device)?, resizing, device: device.clone() })
    }

    /// The resizing.
    pub fn resizing(&self) -> Resizing {
        self.resizing
    }

    /// 2048 features per picture; pictures may differ in size.
    pub fn features(&self, pictures: &[&Picture]) -> Vec<Vec<f32>> {
        let scaled = |levels: Vec<f32>| -> Vec<f32> {
            let scale = |level: f32| match self.resizing {
                // The two programs also differ in this scaling, by half a level.
                Resizing::Clean => (level - 128.0) / 128.0,
                Resizing::Legacy => 2.0 * (level / 255.0) - 1.0,
            };
            levels.into_iter().map(scale).collect()
        };
        let values: Vec<f32> = pictures.iter().flat_map(|picture| scaled(self.resizing.apply(picture))).collect();
        let input = Tensor::from_data(TensorData::new(values, [pictures.len(), 3, SIDE, SIDE]), &self.device);
        let features: Vec<f32> = self.network.forward(input).into_data().iter::<f32>().collect();
        features.chunks_exact(FEATURES).map(<[f32]>::to_vec).collect()
    }
}

/// The patches of a picture for patch FID (Mentzer et al., 2020): a grid of squares of `side` pixels from the upper
/// left corner, and the same grid shifted by half a square in both directions. A smaller picture has none.
pub fn patches(picture: &Picture, side: usize) -> Vec<Picture> {
    let corners = |offset: usize| {
        let along = move |length: usize| (offset..).step_by(side).take_while(move |start| start + side <= length);
        along(picture.height).flat_map(move |top| along(picture.width).map(move |left| (left, top)))
    };
    corners(0).chain(corners(side / 2)).map(|(left, top)| picture.crop(left, top, side, side)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_two_grids() {
        let picture = Picture { width: 9, height: 6, data: (0..162).map(|i| i as f32).collect() };
        let found = patches(&picture, 4);
        let corners: Vec<f32> = found.iter().map(|patch| patch.data[0]).collect();
        assert_eq!(corners, [0.0, 4.0, 20.0]);
        assert!(found.iter().all(|patch| (patch.width, patch.height) == (4, 4)));
        assert_eq!(patches(&picture, 6).len(), 1);
        assert!(patches(&picture, 7).is_empty());
    }
}
