//! A picture in memory: planar RGB, `f32` in \[0, 1\].

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use thiserror::Error;

use crate::atomic_write::WriteError;
use crate::bounded_read;
use crate::buffer::Buffer;
use crate::jpeg_end::is_whole;
use crate::picture_file::{PictureFormat, save_rgb8};

/// Planar RGB picture, `data[channel * height * width + y * width + x]`, values in \[0, 1\], sRGB-encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `3 * height * width` values, plane after plane.
    pub data: Buffer,
}

/// Bits of a channel in a picture's file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Depth {
    /// 8 or fewer.
    #[default]
    Eight,
    /// 16, or floats.
    Sixteen,
}

/// A file as it was decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The picture; fully transparent pixels are white.
    pub picture: Picture,
    /// `height * width` values in \[0, 1\], or `None` if the picture is opaque.
    pub alpha: Option<Vec<f32>>,
    /// Bits of a channel in the file.
    pub depth: Depth,
}

/// Why a picture could not be read or written.
#[derive(Debug, Error)]
pub enum PictureError {
    /// The file is missing, unreadable, too large or not a regular file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The JPEG file is truncated.
    #[error("{path}: not a readable picture: the file is truncated")]
    CutShort {
        /// The file.
        path: PathBuf,
    },
    /// The file declares a picture that would need more than 512 MiB.
    #[error("{path}: a picture of {width}×{height} would take more than 512 MiB")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The file is not a picture in a supported format, or is damaged.
    #[error("{path}: not a readable picture: {source}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        source: image::ImageError,
    },
    /// The picture is too large for the format of its file.
    #[error("{path}: can't encode the picture: {source}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// The encoder's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file can't be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Limit on the bytes of one file.
const MOST_BYTES: u64 = 1 << 28;

/// Limit on the memory for decoding one file, in bytes. A small file can declare a huge size.
const DECODE_LIMIT: u64 = 1 << 29;

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: usize, height: usize, rgb: [f32; 3]) -> Self {
        let mut data = Buffer::with_capacity(3 * width * height);
        for value in rgb {
            data.extend(std::iter::repeat_n(value, width * height));
        }
        Self { width, height, data }
    }

    /// From 8-bit RGB: `value / 255`.
    pub fn from_rgb8(image: &RgbImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let mut data = Buffer::with_capacity(3 * width * height);
        for channel in 0..3 {
            data.extend(image.as_raw().chunks_exact(3).map(|pixel| f32::from(pixel[channel]) / 255.0));
        }
        Self { width, height, data }
    }

    /// To 8-bit RGB: clamped to \[0, 1\], rounded to nearest.
    pub fn to_rgb8(&self) -> RgbImage {
        let mut bytes = vec![0; self.data.len()];
        // Add one half and truncate: `round` would be a function call per value.
        let byte = |value: f32| (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
        for (channel, plane) in self.planes().enumerate() {
            for (pixel, &value) in bytes.chunks_exact_mut(3).zip(plane) {
                pixel[channel] = byte(value);
            }
        }
        RgbImage::from_raw(self.width as u32, self.height as u32, bytes).expect("three bytes a pixel")
    }

    /// Decodes a file; the format is detected from the content. Applies the EXIF orientation, blends alpha over white,
    /// and converts 16-bit and grey pictures.
    ///
    /// # Errors
    /// The file is unreadable, not a picture, truncated, or would need more than 512 MiB decoded.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PictureError> {
        Ok(Self::from_rgb8(&open_rgb8(path.as_ref())?))
    }

    /// As [`Self::open`], but returns alpha separately: `height * width` values in \[0, 1\], or `None` if the picture
    /// is opaque. Fully transparent pixels become white.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_alpha(path: impl AsRef<Path>) -> Result<(Self, Option<Vec<f32>>), PictureError> {
        let path = path.as_ref();
        Self::decode_with_alpha(&read(path)?, path)
    }

    /// As [`Self::open_with_alpha`], from a file's bytes; `path` names the file in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn decode_with_alpha(bytes: &[u8], path: &Path) -> Result<(Self, Option<Vec<f32>>), PictureError> {
        let Decoded { picture, alpha, .. } = Self::decode(bytes, path)?;
        Ok((picture, alpha))
    }

    /// As [`Self::decode_with_alpha`], with the depth of the file, whose 16 bits a channel are kept.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Decoded, PictureError> {
        let image = decode(bytes, path)?;
        let color = image.color();
        if color.bytes_per_pixel() <= color.channel_count() {
            return Ok(Self::from_rgba8(image));
        }
        let (width, height) = (image.width() as usize, image.height() as usize);
        let has_alpha = color.has_alpha();
        let mut rgba = image.into_rgba16();
        for pixel in rgba.pixels_mut().filter(|pixel| pixel[3] == 0) {
            pixel.0 = [u16::MAX, u16::MAX, u16::MAX, 0];
        }
        let channel = |channel: usize| rgba.pixels().map(move |pixel| f32::from(pixel[channel]) / f32::from(u16::MAX));
        let data = (0..3).flat_map(channel).collect();
        let alpha = has_alpha.then(|| channel(3).collect());
        Ok(Decoded {
            picture: Self { width, height, data },
            alpha: alpha.filter(|alpha: &Vec<f32>| alpha.iter().any(|&alpha| alpha < 1.0)),
            depth: Depth::Sixteen,
        })
    }

    /// From an image of 8 bits a channel.
    fn from_rgba8(image: DynamicImage) -> Decoded {
        let depth = Depth::Eight;
        if !image.color().has_alpha() {
            return Decoded { picture: Self::from_rgb8(&image.into_rgb8()), alpha: None, depth };
        }
        let mut rgba = image.into_rgba8();
        for pixel in rgba.pixels_mut().filter(|pixel| pixel[3] == 0) {
            pixel.0 = [255, 255, 255, 0];
        }
        let alpha: Vec<f32> = rgba.pixels().map(|pixel| f32::from(pixel[3]) / 255.0).collect();
        let transparent = alpha.iter().any(|&alpha| alpha < 1.0);
        let picture = Self::from_rgb8(&DynamicImage::from(rgba).into_rgb8());
        Decoded { picture, alpha: transparent.then_some(alpha), depth }
    }

    /// Writes an 8-bit PNG.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<(), PictureError> {
        save_rgb8(path.as_ref(), PictureFormat::Png, &self.to_rgb8())
    }

    /// One colour plane, row after row.
    pub fn plane(&self, channel: usize) -> &[f32] {
        let area = self.width * self.height;
        &self.data[channel * area..(channel + 1) * area]
    }

    /// The three colour planes.
    pub fn planes(&self) -> impl Iterator<Item = &[f32]> {
        (0..3).map(|channel| self.plane(channel))
    }

    /// The crop of `width` × `height` pixels with its top left corner at (`left`, `top`).
    ///
    /// # Panics
    /// If the crop reaches outside the picture.
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        assert!(left + width <= self.width && top + height <= self.height, "crop reaches outside the picture");
        let mut data = Buffer::with_capacity(3 * width * height);
        for plane in self.planes() {
            for row in plane.chunks_exact(self.width).skip(top).take(height) {
                data.extend_from_slice(&row[left..left + width]);
            }
        }
        Self { width, height, data }
    }

    /// Clamps every value to \[0, 1\].
    pub fn clamp(&mut self) {
        for value in &mut self.data {
            *value = value.clamp(0.0, 1.0);
        }
    }
}

/// As [`Picture::open`], without the conversion to `f32`.
///
/// # Errors
/// As [`Picture::open`].
pub fn open_rgb8(path: &Path) -> Result<RgbImage, PictureError> {
    decode_rgb8(&read(path)?, path)
}

/// As [`open_rgb8`], from a file's bytes; `path` names the file in errors.
///
/// # Errors
/// As [`Picture::open`].
pub fn decode_rgb8(bytes: &[u8], path: &Path) -> Result<RgbImage, PictureError> {
    Ok(over_white(decode(bytes, path)?))
}

/// Width and height as a file's header declares them, before its orientation is applied. Decodes no pixels; `path` names
/// the file in errors.
///
/// # Errors
/// The bytes are not a picture, or it would need more than 512 MiB decoded.
pub fn declared_size(bytes: &[u8], path: &Path) -> Result<(u32, u32), PictureError> {
    Ok(decoder(bytes, path)?.dimensions())
}

/// The bytes of a picture's file, at most 256 MiB.
///
/// # Errors
/// The file is missing, unreadable, larger, or not a regular file.
pub fn read(path: &Path) -> Result<Vec<u8>, PictureError> {
    bounded_read::read(path, MOST_BYTES).map_err(|source| PictureError::Io { path: path.to_owned(), source })
}

/// Decodes and applies the EXIF orientation.
fn decode(bytes: &[u8], path: &Path) -> Result<DynamicImage, PictureError> {
    let decode = |source| PictureError::Decode { path: path.to_owned(), source };
    let mut decoder = decoder(bytes, path)?;
    let orientation = decoder.orientation().map_err(decode)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(decode)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// A decoder for a picture that is whole, as far as its format tells, and not too large.
pub(crate) fn decoder<'a>(bytes: &'a [u8], path: &Path) -> Result<impl ImageDecoder + use<'a>, PictureError> {
    let io = |source| PictureError::Io { path: path.to_owned(), source };
    let decode = |source| PictureError::Decode { path: path.to_owned(), source };
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(io)?;
    if reader.format() == Some(ImageFormat::Jpeg) && !is_whole(bytes) {
        return Err(PictureError::CutShort { path: path.to_owned() });
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_LIMIT);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(decode)?;
    // The decoders apply the limit only to memory besides the picture's own.
    if decoder.total_bytes() > DECODE_LIMIT {
        let (width, height) = decoder.dimensions();
        return Err(PictureError::TooLarge { path: path.to_owned(), width, height });
    }
    Ok(decoder)
}

fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|c| ((c * a + 255 * (255 - a) + 127) / 255) as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_round_trip_is_exact() {
        let image = RgbImage::from_fn(7, 5, |x, y| image::Rgb([(x * 36) as u8, (y * 50) as u8, (x * y) as u8]));
        assert_eq!(Picture::from_rgb8(&image).to_rgb8(), image);
    }

    #[test]
    fn crop_returns_the_requested_region() {
        let image = RgbImage::from_fn(6, 4, |x, y| image::Rgb([x as u8, y as u8, 0]));
        let cut = Picture::from_rgb8(&image).crop(2, 1, 3, 2).to_rgb8();
        assert_eq!(cut.dimensions(), (3, 2));
        assert_eq!(cut.get_pixel(0, 0).0, [2, 1, 0]);
        assert_eq!(cut.get_pixel(2, 1).0, [4, 2, 0]);
    }

    #[test]
    fn the_size_is_read_from_the_header_alone() {
        let mut bytes = std::io::Cursor::new(vec![]);
        RgbImage::new(300, 200).write_to(&mut bytes, ImageFormat::Png).unwrap();
        // The header of a PNG ends before byte 64; no pixel is needed.
        let bytes = bytes.into_inner();
        assert_eq!(declared_size(&bytes[..64], Path::new("a")).unwrap(), (300, 200));
        assert!(declared_size(b"no picture", Path::new("a")).is_err());
    }

    #[test]
    fn the_error_names_a_file_that_is_not_a_picture() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.png");
        std::fs::write(&path, b"").unwrap();
        let message = Picture::open(&path).unwrap_err().to_string();
        assert!(message.contains("empty.png"), "{message}");
    }
}
