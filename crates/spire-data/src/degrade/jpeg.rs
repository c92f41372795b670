//! JPEG compression and back, as libjpeg does it: its quality scale and tables, 4:2:0 chroma.

use std::io::Cursor;

use image::{ImageFormat, ImageReader, RgbImage};
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};
use thiserror::Error;

use crate::Picture;

/// Why a picture could not go through JPEG.
#[derive(Debug, Error)]
pub enum JpegError {
    /// JPEG sides go from 1 to 65535 pixels.
    #[error("JPEG can't hold a picture of {width}×{height}: its sides go from 1 to 65535 pixels")]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The encoder refused.
    #[error("JPEG compression: {0}")]
    Encode(#[from] jpeg_encoder::EncodingError),
    /// The decoder refused what the encoder wrote.
    #[error("JPEG decompression: {0}")]
    Decode(#[from] image::ImageError),
}

/// What is left of `image` after JPEG compression with `quality` (1 to 100), chroma at half size both ways.
///
/// # Errors
/// A side is 0 or longer than 65535 pixels.
pub fn jpeg_round_trip(image: &RgbImage, quality: u8) -> Result<RgbImage, JpegError> {
    let (width, height) = image.dimensions();
    let (Ok(columns @ 1..), Ok(rows @ 1..)) = (u16::try_from(width), u16::try_from(height)) else {
        return Err(JpegError::Size { width, height });
    };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality.clamp(1, 100));
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.encode(image.as_raw(), columns, rows, ColorType::Rgb)?;
    Ok(ImageReader::with_format(Cursor::new(bytes), ImageFormat::Jpeg).decode()?.into_rgb8())
}

/// [`jpeg_round_trip`] for a picture: clamped and rounded to 8 bits first, as a JPEG file would hold it.
///
/// # Errors
/// A side is 0 or longer than 65535 pixels.
pub fn jpeg(picture: &Picture, quality: u8) -> Result<Picture, JpegError> {
    Ok(Picture::from_rgb8(&jpeg_round_trip(&picture.to_rgb8(), quality)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 9) as u8, ((x + y) * 5) as u8]))
    }

    fn error(a: &RgbImage, b: &RgbImage) -> f64 {
        a.as_raw().iter().zip(b.as_raw()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
    }

    #[test]
    fn lower_quality_loses_more() {
        let image = scene(48, 40);
        let [low, middle, high] = [10, 50, 95].map(|quality| error(&image, &jpeg_round_trip(&image, quality).unwrap()));
        assert!(low > middle && middle > high && high > 0.0, "{low} {middle} {high}");
    }

    #[test]
    fn every_small_size_keeps_its_size() {
        for (width, height) in [(1, 1), (1, 9), (2, 2), (3, 17), (16, 5), (17, 33)] {
            let image = scene(width, height);
            assert_eq!(jpeg_round_trip(&image, 40).unwrap().dimensions(), (width, height));
        }
    }

    #[test]
    fn an_empty_or_too_long_picture_is_an_error() {
        assert!(jpeg_round_trip(&RgbImage::new(0, 4), 50).is_err());
        let message = jpeg_round_trip(&RgbImage::new(65536, 1), 50).unwrap_err().to_string();
        assert!(message.contains("65536×1"), "{message}");
    }
}
