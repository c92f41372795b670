//! PNG files with text chunks, which record how a picture was made.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::Picture;
use crate::picture::Depth;

/// Encodes `picture` as an 8-bit PNG. `alpha` holds `height * width` values in \[0, 1\]. Each keyword and text of
/// `texts` becomes an international text chunk.
///
/// # Errors
/// A keyword is empty, longer than 79 characters or not Latin-1.
pub fn encode(picture: &Picture, alpha: Option<&[f32]>, texts: &[(&str, &str)]) -> Result<Vec<u8>, png::EncodingError> {
    encode_in(Depth::Eight, picture, alpha, texts)
}

/// As [`encode`], with `depth` bits a channel.
///
/// # Errors
/// As [`encode`].
pub fn encode_in(
    depth: Depth,
    picture: &Picture,
    alpha: Option<&[f32]>,
    texts: &[(&str, &str)],
) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width as u32, picture.height as u32);
    encoder.set_depth(match depth {
        Depth::Eight => png::BitDepth::Eight,
        Depth::Sixteen => png::BitDepth::Sixteen,
    });
    encoder.set_color(if alpha.is_some() { png::ColorType::Rgba } else { png::ColorType::Rgb });
    for (keyword, text) in texts {
        encoder.add_itxt_chunk((*keyword).to_owned(), (*text).to_owned())?;
    }
    let mut writer = encoder.write_header()?;
    match (depth, alpha) {
        (Depth::Sixteen, _) => writer.write_image_data(&in_16_bits(picture, alpha))?,
        (Depth::Eight, None) => writer.write_image_data(picture.to_rgb8().as_raw())?,
        (Depth::Eight, Some(alpha)) => writer.write_image_data(&rgba(picture, alpha))?,
    }
    writer.finish()?;
    Ok(bytes)
}

/// The pixels in 16 bits a channel, as PNG has them.
fn in_16_bits(picture: &Picture, alpha: Option<&[f32]>) -> Vec<u8> {
    let planes: Vec<&[f32]> = picture.planes().chain(alpha).collect();
    let value = |value: f32| ((value.clamp(0.0, 1.0) * f32::from(u16::MAX)).round() as u16).to_be_bytes();
    (0..picture.width * picture.height).flat_map(|i| planes.iter().flat_map(move |plane| value(plane[i]))).collect()
}

/// The pixels in 8 bits, four bytes each.
pub(crate) fn rgba(picture: &Picture, alpha: &[f32]) -> Vec<u8> {
    let opacity = alpha.iter().map(|alpha| (alpha.clamp(0.0, 1.0) * 255.0).round() as u8);
    picture.to_rgb8().pixels().zip(opacity).flat_map(|(p, a)| [p[0], p[1], p[2], a]).collect()
}

/// The text chunk `keyword` of the PNG at `path`. `None` if the file is not a complete PNG or has no such chunk.
pub fn read(path: &Path, keyword: &str) -> Option<String> {
    if !path.is_file() {
        return None;
    }
    let mut reader = png::Decoder::new(BufReader::new(File::open(path).ok()?)).read_info().ok()?;
    // Read to the end: a text chunk may follow the pixels, and a truncated file must be rejected.
    reader.finish().ok()?;
    let chunk = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == keyword)?;
    chunk.get_text().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_come_back() {
        let values = |offset: usize| (0..6).map(|i| ((i * 9973 + offset) % 65536) as f32 / 65535.0).collect::<Vec<_>>();
        let data = [values(1), values(300), values(65_000)].concat();
        let picture = Picture { width: 3, height: 2, data: data.into() };
        for alpha in [None, Some(values(77))] {
            let bytes = encode_in(Depth::Sixteen, &picture, alpha.as_deref(), &[("prompt", "x")]).unwrap();
            let back = Picture::decode(&bytes, Path::new("a.png")).unwrap();
            assert_eq!((back.depth, back.picture, back.alpha), (Depth::Sixteen, picture.clone(), alpha));
        }
    }

    #[test]
    fn texts_and_alpha_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let picture = Picture::filled(3, 2, [0.2, 0.4, 0.6]);
        let alpha = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
        let bytes = encode(&picture, Some(&alpha), &[("prompt", "ein Bär — 熊"), ("seed", "7")]).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path, "prompt").unwrap(), "ein Bär — 熊");
        assert_eq!(read(&path, "seed").unwrap(), "7");
        assert_eq!(read(&path, "other"), None);
        let (back, opacity) = Picture::open_with_alpha(&path).unwrap();
        assert_eq!(opacity.unwrap(), alpha);
        assert_eq!(back.plane(0)[0], 1.0, "what can't be seen is white");
        assert_eq!(back.plane(2)[5], 153.0 / 255.0);
        std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
        assert_eq!(read(&path, "prompt"), None, "a file that is cut off does not count");
    }
}
