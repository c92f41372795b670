//! JPEG compression and decompression with libjpeg's quality scale and tables and 4:2:0 chroma.

use std::panic::{UnwindSafe, catch_unwind};

use image::RgbImage;
use mozjpeg::qtable::{AnnexK_Chroma, AnnexK_Luma};
use mozjpeg::{ColorSpace, Compress, Decompress};
use thiserror::Error;

use crate::Picture;

/// A picture could not be compressed as JPEG.
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
    /// The codec returned an error.
    #[error("JPEG compression: {0}")]
    Io(#[from] std::io::Error),
    /// The codec panicked.
    #[error("JPEG compression failed inside the codec")]
    Codec,
}

/// Compresses `image` as JPEG with `quality` (1 to 100) and 4:2:0 chroma, and decodes the result.
///
/// Uses libjpeg-turbo's code as shipped in `mozjpeg`, without mozjpeg's own optimisations, so that the numerics, chroma
/// interpolation included, are those of Pillow and OpenCV.
///
/// # Errors
/// A side is 0 or longer than 65535 pixels.
pub fn jpeg_round_trip(image: &RgbImage, quality: u8) -> Result<RgbImage, JpegError> {
    let bytes = encode_jpeg(image, quality)?;
    let (width, height) = image.dimensions();
    let pixels = guarded(|| {
        let mut started = Decompress::new_mem(&bytes)?.rgb()?;
        let pixels: Vec<[u8; 3]> = started.read_scanlines()?;
        started.finish()?;
        Ok(pixels.into_flattened())
    })?;
    RgbImage::from_raw(width, height, pixels).ok_or(JpegError::Codec)
}

/// Encodes `image` as a JPEG file with `quality` (1 to 100) and 4:2:0 chroma.
///
/// # Errors
/// A side is 0 or longer than 65535 pixels.
pub fn encode_jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>, JpegError> {
    let (width, height) = image.dimensions();
    if !(1..=65535).contains(&width) || !(1..=65535).contains(&height) {
        return Err(JpegError::Size { width, height });
    }
    guarded(|| {
        let mut compress = Compress::new(ColorSpace::JCS_RGB);
        compress.set_size(width as usize, height as usize);
        compress.set_fastest_defaults();
        set_quality(&mut compress, quality.clamp(1, 100));
        compress.set_chroma_sampling_pixel_sizes((2, 2), (2, 2));
        let mut started = compress.start_compress(Vec::new())?;
        started.write_scanlines(image.as_raw())?;
        started.finish()
    })
}

/// mozjpeg reports libjpeg's errors by unwinding.
fn guarded<T>(work: impl FnOnce() -> std::io::Result<T> + UnwindSafe) -> Result<T, JpegError> {
    Ok(catch_unwind(work).map_err(|_| JpegError::Codec)??)
}

/// libjpeg's tables for `quality` from 1 to 100.
fn set_quality(compress: &mut Compress, quality: u8) {
    compress.set_quality(f32::from(quality));
    // Below this quality, table entries exceed 255, the limit of baseline JPEG; `set_quality` ignores the limit.
    if quality < 24 {
        // libjpeg scales the tables by whole percents; this quality corresponds to exactly that percentage.
        let percent = 5000 / u32::from(quality);
        let quality = 5000.0 / percent as f32;
        compress.set_luma_qtable(&AnnexK_Luma.scaled(quality, quality));
        compress.set_chroma_qtable(&AnnexK_Chroma.scaled(quality, quality));
    }
}

/// [`jpeg_round_trip`] for a [`Picture`], which is first clamped and rounded to 8 bits.
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
