//! A sample's picture before it is cropped.

use image::RgbImage;
use image::imageops::crop_imm;

use crate::Picture;

/// A picture in the file's 8 bits or in `f32`. Cropping in 8 bits avoids converting the parts of a large photograph
/// that are cut away.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// Decoded from a file.
    Bytes(RgbImage),
    /// Drawn.
    Values(Picture),
}

impl Pixels {
    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Bytes(image) => (image.width() as usize, image.height() as usize),
            Self::Values(picture) => (picture.width, picture.height),
        }
    }

    /// The crop of `width` × `height` pixels with its top left corner at (`left`, `top`).
    ///
    /// # Panics
    /// If the crop reaches outside the picture.
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Picture {
        match self {
            Self::Bytes(image) => {
                let (whole_width, whole_height) = self.size();
                assert!(
                    left + width <= whole_width && top + height <= whole_height,
                    "crop reaches outside the picture"
                );
                Picture::from_rgb8(&crop_imm(image, left as u32, top as u32, width as u32, height as u32).to_image())
            }
            Self::Values(picture) => picture.crop(left, top, width, height),
        }
    }

    /// The whole picture.
    pub fn to_picture(&self) -> Picture {
        match self {
            Self::Bytes(image) => Picture::from_rgb8(image),
            Self::Values(picture) => picture.clone(),
        }
    }
}
