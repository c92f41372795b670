//! Pictures as files: PNG, JPEG or WebP as the name says, with a note on how the picture was made.

use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageResult, RgbImage};
use thiserror::Error;

use crate::atomic_write::write_atomic;
use crate::picture::{Depth, decode_rgb8, decoder, read};
use crate::{Picture, PictureError, exif, png_text};

/// JPEG's quality unless the user sets one.
const DEFAULT_QUALITY: u8 = 95;

/// A format in which pictures are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PictureFormat {
    /// 8 bits a channel, lossless.
    Png,
    /// 16 bits a channel, lossless.
    Png16,
    /// Lossy, without transparency.
    Jpeg {
        /// 1 to 100.
        quality: u8,
    },
    /// Lossless.
    WebP,
}

/// The name of a picture names no format in which pictures are written, or the quality does not belong to it.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The extension is missing or unknown.
    #[error("{path}: pictures are written as .png, .jpg or .jpeg, and .webp (lossless): give the output such a name")]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// The format has no quality.
    #[error("{path}: a quality is for JPEG (.jpg, .jpeg) only; PNG and WebP are lossless")]
    Lossless {
        /// The file.
        path: PathBuf,
    },
    /// The quality is out of range.
    #[error("a quality of {quality} is not from 1 to 100")]
    Quality {
        /// The quality.
        quality: u8,
    },
}

impl PictureFormat {
    /// The format that the extension of `path` names. `quality`, 1 to 100, is for JPEG; by default it is 95.
    ///
    /// # Errors
    /// The extension is none of those, or `quality` is out of range or set for another format.
    pub fn of(path: &Path, quality: Option<u8>) -> Result<Self, FormatError> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let format = match extension.as_str() {
            "png" => Self::Png,
            "jpg" | "jpeg" => Self::Jpeg { quality: quality.unwrap_or(DEFAULT_QUALITY) },
            "webp" => Self::WebP,
            _ => return Err(FormatError::Extension { path: path.to_owned() }),
        };
        match (format, quality) {
            (Self::Jpeg { quality }, _) if !(1..=100).contains(&quality) => Err(FormatError::Quality { quality }),
            (Self::Png | Self::Png16 | Self::WebP, Some(_)) => Err(FormatError::Lossless { path: path.to_owned() }),
            _ => Ok(format),
        }
    }

    /// The same format for a picture whose original had `depth`: a PNG has 16 bits a channel too, the others have 8.
    pub fn in_depth(self, depth: Depth) -> Self {
        match (self, depth) {
            (Self::Png, Depth::Sixteen) => Self::Png16,
            (format, _) => format,
        }
    }

    /// Whether files of this format can be transparent.
    pub fn has_alpha(self) -> bool {
        !matches!(self, Self::Jpeg { .. })
    }

    /// Whether a file of this format can carry a note of that length: a block of JPEG's metadata holds 64 kB.
    pub fn carries(self, note: &str) -> bool {
        !matches!(self, Self::Jpeg { .. }) || note.len() <= 65_000
    }
}

/// Writes `picture` to `path`. `alpha` holds `height * width` values in \[0, 1\]; a format without transparency shows the
/// picture on white. `note`, a keyword and a text, is left out if the format can't [carry](PictureFormat::carries) it.
///
/// # Errors
/// The picture is too large for the format, or the file can't be written.
pub fn save(
    path: &Path,
    format: PictureFormat,
    picture: &Picture,
    alpha: Option<&[f32]>,
    note: Option<(&str, &str)>,
) -> Result<(), PictureError> {
    let note = note.filter(|(_, text)| format.carries(text));
    if let PictureFormat::Png | PictureFormat::Png16 = format {
        let depth = if format == PictureFormat::Png { Depth::Eight } else { Depth::Sixteen };
        let encoded = png_text::encode_in(depth, picture, alpha, note.as_slice());
        let bytes = encoded.map_err(|error| PictureError::Encode { path: path.to_owned(), source: error.into() })?;
        return Ok(write_atomic(path, &bytes)?);
    }
    let (pixels, colours) = match alpha {
        Some(alpha) if format.has_alpha() => (png_text::rgba(picture, alpha), ExtendedColorType::Rgba8),
        Some(alpha) => (on_white(picture, alpha).to_rgb8().into_raw(), ExtendedColorType::Rgb8),
        None => (picture.to_rgb8().into_raw(), ExtendedColorType::Rgb8),
    };
    let note = note.map(|(keyword, text)| exif::with_description(&format!("{keyword}: {text}")));
    let size = [picture.width as u32, picture.height as u32];
    write(path, encode(&pixels, size, colours, note.unwrap_or_default(), format))
}

/// Writes an image of 8 bits a channel to `path`.
///
/// # Errors
/// As [`save`].
pub fn save_rgb8(path: &Path, format: PictureFormat, image: &RgbImage) -> Result<(), PictureError> {
    write(path, encode(image.as_raw(), image.dimensions().into(), ExtendedColorType::Rgb8, vec![], format))
}

/// The text of the note `keyword` in a picture that [`save`] wrote. `None` if there is none, or the file is incomplete.
pub fn read_note(path: &Path, keyword: &str) -> Option<String> {
    if let Some(text) = png_text::read(path, keyword) {
        return Some(text);
    }
    let bytes = read(path).ok()?;
    let exif = decoder(&bytes, path).ok()?.exif_metadata().ok()??;
    let text = exif::description(&exif)?.strip_prefix(keyword)?.strip_prefix(": ")?.to_owned();
    // The metadata comes first in a JPEG: the rest may be missing.
    decode_rgb8(&bytes, path).ok().map(|_| text)
}

fn encode(
    pixels: &[u8],
    [width, height]: [u32; 2],
    colours: ExtendedColorType,
    exif: Vec<u8>,
    format: PictureFormat,
) -> ImageResult<Vec<u8>> {
    let mut bytes = vec![];
    match format {
        PictureFormat::Png | PictureFormat::Png16 => {
            PngEncoder::new(&mut bytes).write_image(pixels, width, height, colours)?
        }
        PictureFormat::Jpeg { quality } => {
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
            encoder.set_exif_metadata(exif).map_err(ImageError::Unsupported)?;
            encoder.write_image(pixels, width, height, colours)?;
        }
        PictureFormat::WebP => {
            let mut encoder = WebPEncoder::new_lossless(&mut bytes);
            encoder.set_exif_metadata(exif).map_err(ImageError::Unsupported)?;
            encoder.write_image(pixels, width, height, colours)?;
        }
    }
    Ok(bytes)
}

fn write(path: &Path, encoded: ImageResult<Vec<u8>>) -> Result<(), PictureError> {
    let bytes = encoded.map_err(|error| PictureError::Encode { path: path.to_owned(), source: error.into() })?;
    Ok(write_atomic(path, &bytes)?)
}

/// The picture blended over white.
fn on_white(picture: &Picture, alpha: &[f32]) -> Picture {
    let area = picture.width * picture.height;
    let data = picture.data.iter().zip(alpha.iter().cycle().take(3 * area));
    let data = data.map(|(value, alpha)| value * alpha + (1.0 - alpha)).collect();
    Picture { width: picture.width, height: picture.height, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [(&str, PictureFormat); 4] = [
        ("a.png", PictureFormat::Png),
        ("a.JPG", PictureFormat::Jpeg { quality: DEFAULT_QUALITY }),
        ("a.jpeg", PictureFormat::Jpeg { quality: DEFAULT_QUALITY }),
        ("a.webp", PictureFormat::WebP),
    ];

    fn picture() -> Picture {
        let data = (0..3 * 20 * 16).map(|i| (i % 320) as f32 / 320.0).collect();
        Picture { width: 20, height: 16, data }
    }

    #[test]
    fn the_name_says_the_format() {
        for (name, format) in FORMATS {
            assert_eq!(PictureFormat::of(Path::new(name), None).unwrap(), format);
        }
        assert_eq!(PictureFormat::of(Path::new("a.jpg"), Some(7)).unwrap(), PictureFormat::Jpeg { quality: 7 });
        for (name, quality, expected) in [
            ("a.bmp", None, ".webp"),
            ("a", None, ".png, .jpg"),
            ("a.png", Some(90), "for JPEG"),
            ("a.jpg", Some(0), "from 1 to 100"),
            ("a.jpg", Some(101), "from 1 to 100"),
        ] {
            let error = PictureFormat::of(Path::new(name), quality).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_format_carries_picture_and_note() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"semantic": "ein Bär — 熊"}"#;
        for (name, format) in FORMATS {
            let path = dir.path().join(name);
            save(&path, format, &picture(), None, Some(("spire", text))).unwrap();
            assert_eq!(read_note(&path, "spire").as_deref(), Some(text), "{name}");
            assert_eq!(read_note(&path, "other"), None, "{name}");
            let bytes = std::fs::read(&path).unwrap();
            let expected = [image::ImageFormat::Png, image::ImageFormat::Jpeg, image::ImageFormat::WebP];
            assert!(expected.contains(&image::guess_format(&bytes).unwrap()));
            let back = Picture::open(&path).unwrap();
            let worst = back.data.iter().zip(&picture().data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < if format.has_alpha() { 0.002 } else { 0.2 }, "{name}: {worst}");
            std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
            assert_eq!(read_note(&path, "spire"), None, "{name}: a file that is cut off does not count");
        }
    }

    #[test]
    fn jpeg_shows_what_is_transparent_on_white() {
        let dir = tempfile::tempdir().unwrap();
        let black = Picture::filled(16, 16, [0.0; 3]);
        let path = dir.path().join("a.jpg");
        save(&path, PictureFormat::Jpeg { quality: 95 }, &black, Some(&[0.0; 256]), None).unwrap();
        assert!(Picture::open(&path).unwrap().data.iter().all(|value| *value > 0.97));
        let path = dir.path().join("a.webp");
        save(&path, PictureFormat::WebP, &black, Some(&[0.2; 256]), None).unwrap();
        assert_eq!(Picture::open_with_alpha(&path).unwrap().1, Some(vec![0.2; 256]));
    }

    #[test]
    fn a_note_that_does_not_fit_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (path, long) = (dir.path().join("a.jpg"), "x".repeat(65_001));
        let format = PictureFormat::Jpeg { quality: 90 };
        assert!(!format.carries(&long) && PictureFormat::WebP.carries(&long));
        save(&path, format, &picture(), None, Some(("spire", &long))).unwrap();
        assert_eq!(read_note(&path, "spire"), None);
        assert!(Picture::open(&path).is_ok());
        save(&path, format, &picture(), None, Some(("spire", &long[1..]))).unwrap();
        assert_eq!(read_note(&path, "spire").unwrap().len(), 65_000);
    }
}
