//! A sample's picture as its source has it.

use image::RgbImage;
use image::imageops::crop_imm;

use crate::Picture;

/// A picture in the 8 bits of its file, or in the values that it was drawn in: of a large photograph most is cut away, and
/// need not be converted.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// From a file.
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

    /// The `width` × `height` cut whose top left corner is at (`left`, `top`).
    ///
    /// # Panics
    /// If the cut reaches outside the picture.
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
