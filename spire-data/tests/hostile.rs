//! A folder of files that a web download may contain: each is read or skipped with a reason, and memory stays bounded.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::gif::GifEncoder;
use image::{Delay, Frame, ImageFormat, RgbImage, Rgba, RgbaImage};
use spire_data::degrade::DegradationConfig;
use spire_data::loader::{Crop, DataConfig, Samples};
use spire_data::source::{SourceConfig, SourceKind};
use spire_data::stats::stats;

fn shipped(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/pictures").join(name)).unwrap()
}

fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 3) as u8, (y * 5) as u8, 90]));
    let mut bytes = Cursor::new(vec![]);
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind.as_slice(), data].concat();
    let crc = body.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    });
    [&(data.len() as u32).to_be_bytes()[..], &body, &(!crc).to_be_bytes()].concat()
}

/// A few bytes that declare a picture of 50,000 by 50,000 pixels.
fn bomb() -> Vec<u8> {
    let header = [&50_000_u32.to_be_bytes()[..], &50_000_u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 1, 1, 0, 0, 0xFF, 0xFF])].concat()
}

fn animated_gif() -> Vec<u8> {
    let mut bytes = vec![];
    let frame = |red| {
        let image = RgbaImage::from_pixel(24, 18, Rgba([red, 60, 90, 255]));
        Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(100, 1))
    };
    GifEncoder::new(&mut bytes).encode_frames([frame(200), frame(10)]).unwrap();
    bytes
}

/// Two frames; the first is used.
fn animated_png() -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, 8, 8);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[200; 8 * 8 * 3]).unwrap();
    writer.write_image_data(&[10; 8 * 8 * 3]).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Name, bytes, and a part of the expected reason for skipping; `None` if it must be read.
fn files() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let jpeg = encoded(60, 40, ImageFormat::Jpeg);
    vec![
        ("alpha.png", shipped("alpha.png"), None),
        ("animated.gif", animated_gif(), None),
        ("animated.png", animated_png(), None),
        ("bomb.png", bomb(), Some("50000×50000")),
        ("cmyk.jpg", shipped("cmyk.jpg"), None),
        ("empty.jpg", vec![], Some("empty.jpg")),
        ("grey.jpg", shipped("grey.jpg"), None),
        ("grey16.png", shipped("grey16.png"), None),
        ("line.png", encoded(20_000, 10, ImageFormat::Png), None),
        ("misnamed.jpg", encoded(30, 20, ImageFormat::Png), None),
        ("one.png", encoded(1, 1, ImageFormat::Png), None),
        ("palette.png", shipped("palette.png"), None),
        ("rotated.jpg", shipped("rotated.jpg"), None),
        ("text.png", b"<html>404</html>".to_vec(), Some("text.png")),
        ("torn.jpg", shipped("truncated.jpg"), Some("truncated")),
        ("torn.png", encoded(60, 40, ImageFormat::Png)[..90].to_vec(), Some("torn.png")),
        ("trailing.jpg", [&jpeg[..], b"what a camera appends"].concat(), None),
        ("webp.webp", encoded(40, 30, ImageFormat::WebP), None),
    ]
}

#[test]
fn every_file_is_read_or_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    for (name, bytes, reason) in files() {
        fs::write(dir.path().join(name), bytes).unwrap();
        fs::write(dir.path().join(name).with_extension("txt"), "a caption").unwrap();
        expected.extend(reason.map(|reason| (name.to_owned(), reason)));
    }
    fs::write(dir.path().join("latin.png"), encoded(9, 9, ImageFormat::Png)).unwrap();
    fs::write(dir.path().join("latin.txt"), b"caf\xe9").unwrap();
    expected.insert("latin.png".to_owned(), "not UTF-8");
    fs::write(dir.path().join("mute.png"), encoded(9, 9, ImageFormat::Png)).unwrap();
    expected.insert("mute.png".to_owned(), "mute.txt");

    for crop in [Crop::Center, Crop::Random] {
        let source =
            SourceConfig { kind: SourceKind::Folder, path: Some(PathBuf::from(dir.path())), ..Default::default() };
        let data = DataConfig { size: 32, crop, source, ..Default::default() };
        let samples = Samples::open(data, DegradationConfig::default(), 1).unwrap();
        let len = samples.epoch_len();
        assert_eq!(len, files().len() + 2);
        let figures = stats(&samples, len as u64, 2).unwrap();
        let broken: BTreeMap<String, String> = figures.broken.into_iter().collect();
        assert_eq!(broken.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, reason) in &broken {
            assert!(reason.contains(expected[name]), "{name}: {reason}");
            assert!(!reason.contains('\n'), "one line in the log: {reason:?}");
        }
        assert_eq!(figures.samples, len as u64);
        assert_eq!((figures.sizes[0], figures.sizes[2]), ((1, 1), (20_000, 10)));
    }

    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kilobytes < 300_000, "a peak of {kilobytes} kB");
    }
}
