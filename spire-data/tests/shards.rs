//! Samples from tar and Parquet shards, whole and broken.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use image::{ImageFormat, RgbImage};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use spire_data::degrade::DegradationConfig;
use spire_data::loader::{DataConfig, Loader, Samples};
use spire_data::source::{
    Names, ParquetSource, SampleError, Source, SourceConfig, SourceError, SourceKind, WebDatasetSource,
};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

fn picture(shade: u8, format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(20, 16, |x, y| image::Rgb([shade, (x * 12) as u8, (y * 15) as u8]));
    let mut bytes = Cursor::new(vec![]);
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn shade(source: &dyn Source, index: usize) -> f32 {
    (source.read(index).unwrap().picture.to_picture().data[0] * 255.0).round()
}

fn add(tar: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    // `set_path` would reject names that a hostile archive may contain.
    if name.len() < 100 {
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, bytes).unwrap();
    } else {
        tar.append_data(&mut header, name, bytes).unwrap();
    }
}

/// A tar file of `count` samples, shades from `first` on.
fn shard(first: u8, count: u8) -> Vec<u8> {
    let mut tar = Builder::new(vec![]);
    for shade in first..first + count {
        add(&mut tar, &format!("{shade:06}.png"), &picture(shade, ImageFormat::Png));
        add(&mut tar, &format!("{shade:06}.txt"), format!("shade {shade}").as_bytes());
    }
    tar.into_inner().unwrap()
}

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn names(image: Option<&str>, caption: Option<&str>) -> Names {
    let [image, caption] = [image, caption].map(|name| name.map(str::to_owned));
    Names { image, caption, ..Names::default() }
}

/// Names for pairs in shards: the degraded picture is in `degraded`, the prompt in `restoration`.
fn names_of_pairs(image: &str, degraded: &str) -> Names {
    let [image, degraded, restoration] = [image, degraded, "restoration"].map(|name| Some(name.to_owned()));
    Names { image, degraded, restoration, caption: None }
}

fn open(dir: &Path, pattern: &str) -> Result<WebDatasetSource, SourceError> {
    WebDatasetSource::open(&format!("{}/{pattern}", dir.display()), &Names::default(), 4)
}

#[test]
fn tar_shards_are_read_in_any_order() {
    let dir = folder(&[("s-00.tar", shard(0, 5)), ("s-01.tar", shard(5, 3)), ("s-02.tar", shard(8, 4))]);
    for pattern in ["s-{00..02}.tar", "s-*.tar"] {
        let source = open(dir.path(), pattern).unwrap();
        assert_eq!((source.len(), source.left_out().len()), (12, 0));
        for index in [11, 0, 7, 4, 5, 8] {
            assert_eq!(shade(&source, index), index as f32);
            let sample = source.read(index).unwrap();
            assert_eq!(sample.captions, [format!("shade {index}")]);
            assert_eq!(sample.name, source.name(index));
            assert!(sample.name.ends_with(&format!("{index:06}")) && sample.name.contains(".tar/"), "{}", sample.name);
        }
    }
}

#[test]
fn every_picture_format_and_both_kinds_of_captions() {
    let mut tar = Builder::new(vec![]);
    let long = format!("{}/deep", "folder".repeat(20));
    for (key, format) in [("a", ImageFormat::Jpeg), ("b/b", ImageFormat::WebP), (&long, ImageFormat::Png)] {
        let extension = format.extensions_str()[0].to_uppercase();
        add(&mut tar, &format!("{key}.json"), br#"{"caption": " a  cat", "url": "x", "text": "a dog"}"#);
        add(&mut tar, &format!("{key}.{extension}"), &picture(9, format));
        add(&mut tar, &format!("{key}.cls"), b"3");
    }
    add(&mut tar, "c.txt", b"the text comes first");
    add(&mut tar, "c.json", br#"{"caption": "and not this"}"#);
    add(&mut tar, "c.png", &picture(9, ImageFormat::Png));
    add(&mut tar, "c.seg.png", &picture(77, ImageFormat::Png));
    add(&mut tar, "._c.png", b"what a Mac leaves behind");
    let dir = folder(&[("a.tar", tar.into_inner().unwrap())]);

    let source = open(dir.path(), "a.tar").unwrap();
    let captions: Vec<_> = (0..source.len()).map(|index| source.read(index).unwrap().captions).collect();
    assert_eq!(captions, [["a cat"], ["a cat"], ["a cat"], ["the text comes first"]]);
    assert!(source.name(2).ends_with(&long));
    assert_eq!(shade(&source, 3), 9.0);

    let pattern = format!("{}/a.tar", dir.path().display());
    let source = WebDatasetSource::open(&pattern, &names(Some("seg.png"), Some("text")), 4).unwrap();
    assert_eq!(shade(&source, 3), 77.0);
    let source = WebDatasetSource::open(&pattern, &names(None, Some("text")), 4).unwrap();
    assert_eq!(source.read(0).unwrap().captions, ["a dog"]);
}

#[test]
fn broken_samples_in_a_shard_are_named_and_the_others_read() {
    let mut tar = Builder::new(vec![]);
    add(&mut tar, "a.png", &picture(1, ImageFormat::Png));
    add(&mut tar, "a.txt", b"fine");
    add(&mut tar, "b.txt", b"a caption without a picture");
    add(&mut tar, "c.png", &picture(1, ImageFormat::Png));
    add(&mut tar, "d.png", b"");
    add(&mut tar, "d.txt", b"no bytes");
    add(&mut tar, "e.png", &picture(1, ImageFormat::Png));
    add(&mut tar, "e.txt", b"caf\xe9");
    add(&mut tar, "f.png", &picture(1, ImageFormat::Png));
    add(&mut tar, "f.json", b"{\"caption\": ");
    add(&mut tar, "../../../etc/g.png", &picture(5, ImageFormat::Png));
    add(&mut tar, "../../../etc/g.txt", b"a name that leads outside is a name");
    let dir = folder(&[("a.tar", tar.into_inner().unwrap())]);

    let source = open(dir.path(), "a.tar").unwrap();
    assert_eq!(source.len(), 7);
    assert!(source.read(0).is_ok());
    let error = |index| source.read(index).unwrap_err();
    assert!(matches!(error(1), SampleError::NoPicture { .. }));
    assert!(matches!(error(2), SampleError::NoCaption { .. }));
    assert!(matches!(error(3), SampleError::Picture(_)));
    assert!(matches!(error(4), SampleError::CaptionEncoding { offset: 3, .. }));
    assert!(matches!(error(5), SampleError::Json { .. }));
    for (index, name) in [(1, "a.tar/b"), (2, "c"), (3, "a.tar/d.png"), (4, "a.tar/e.txt"), (5, "a.tar/f.json")] {
        assert!(error(index).to_string().contains(name), "{}", error(index));
    }
    assert_eq!(shade(&source, 6), 5.0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is unpacked");
}

#[test]
fn links_devices_and_folders_are_not_samples() {
    let mut tar = Builder::new(vec![]);
    for (kind, name) in [(EntryType::Symlink, "a.png"), (EntryType::Link, "b.png"), (EntryType::Directory, "c.png")] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        tar.append_link(&mut header, name, "/etc/passwd").unwrap();
    }
    add(&mut tar, "d.png", &picture(1, ImageFormat::Png));
    add(&mut tar, "d.txt", b"one");
    let dir = folder(&[("a.tar", tar.into_inner().unwrap())]);
    let source = open(dir.path(), "a.tar").unwrap();
    assert_eq!((source.len(), shade(&source, 0)), (1, 1.0));
}

/// Wherever a shard is truncated, the part before is read and the rest is reported.
#[test]
fn a_shard_that_ends_early_gives_what_it_has() {
    let whole = shard(1, 3);
    for length in (0..whole.len()).step_by(97) {
        let dir = folder(&[("a.tar", whole[..length].to_vec()), ("b.tar", shard(9, 1))]);
        let source = open(dir.path(), "*.tar").unwrap();
        let read: Vec<_> = (0..source.len()).map(|index| source.read(index)).collect();
        let good = read.iter().filter(|sample| sample.is_ok()).count();
        // A sample takes four blocks of 512 bytes: two headers, a picture in one block, a caption.
        assert!(good > length / 2048 || good == 4, "{good} samples of {length} bytes");
        assert!(source.len() <= 4 && source.len() - good <= 1 && source.left_out().len() <= 1, "{length}");
    }
}

#[test]
fn a_file_that_is_not_a_shard_is_skipped() {
    let mut torn = shard(1, 3);
    torn[2048 + 20] ^= 0xff;
    let dir = folder(&[("a.tar", b"not a tar file, but a text".repeat(40)), ("b.tar", shard(9, 1)), ("c.tar", torn)]);
    fs::write(dir.path().join("d.tar"), b"").unwrap();
    let source = open(dir.path(), "*.tar").unwrap();
    assert_eq!(source.len(), 2, "the sample of b, and the first of c");
    let left_out: Vec<_> = source.left_out().iter().map(|skipped| skipped.name.clone()).collect();
    assert!(left_out.len() == 2 && left_out[0].ends_with("a.tar") && left_out[1].ends_with("c.tar"), "{left_out:?}");

    let error = |pattern| open(dir.path(), pattern).err().unwrap().to_string();
    assert!(error("a.tar").contains("none of the 1 shards"), "{}", error("a.tar"));
    assert!(error("d.tar").contains("no pictures"), "{}", error("d.tar"));
    assert!(error("e.tar").contains("e.tar: no such shard"), "{}", error("e.tar"));
}

#[test]
fn listed_shards_are_read_when_they_are_needed() {
    let dir = folder(&[("a.tar", shard(0, 3)), ("b.tar", shard(3, 4)), ("c.tar", b"no shard".to_vec())]);
    let list = |sizes: &str| fs::write(dir.path().join("sizes.json"), sizes).unwrap();
    let scanned = open(dir.path(), "{a,b}.tar").unwrap();
    list(r#"{"a.tar": 3, "b.tar": 4, "c.tar": 2}"#);
    let listed = open(dir.path(), "{a,b}.tar").unwrap();
    assert_eq!(listed.len(), 7);
    for n in 0..7 {
        assert_eq!(shade(&listed, n), shade(&scanned, n));
        assert_eq!(listed.read(n).unwrap().name, scanned.read(n).unwrap().name);
    }

    // Nothing of c.tar is read before its samples are.
    let broken = open(dir.path(), "{a,c}.tar").unwrap();
    assert_eq!((broken.len(), shade(&broken, 2)), (5, 2.0));
    assert!(broken.read(3).unwrap_err().to_string().contains("c.tar"));

    list(r#"{"a.tar": 4, "b.tar": 1}"#);
    let other = open(dir.path(), "{a,b}.tar").unwrap();
    assert_eq!((other.len(), shade(&other, 4)), (5, 3.0));
    let error = other.read(3).unwrap_err();
    assert!(error.to_string().contains("a.tar") && format!("{error:?}").contains("sizes.json says 4"), "{error:?}");
    list(r#"{"a.tar": 3}"#);
    assert!(open(dir.path(), "{a,b}.tar").err().unwrap().to_string().contains("does not list b.tar"));
}

/// A header that declares exabytes must not allocate memory.
#[test]
fn a_huge_member_is_not_read() {
    let mut tar = Builder::new(vec![]);
    add(&mut tar, "a.png", &picture(1, ImageFormat::Png));
    add(&mut tar, "a.txt", b"one");
    let mut bytes = tar.into_inner().unwrap();
    bytes.truncate(4 * 512);
    for size in [1 << 33, 1 << 62, u64::MAX] {
        let mut header = Header::new_gnu();
        header.set_path("b.png").unwrap();
        header.set_size(size);
        header.set_cksum();
        let dir = folder(&[("a.tar", [&bytes[..], header.as_bytes(), &[7; 700]].concat())]);
        let source = open(dir.path(), "a.tar").unwrap();
        let broken = (1..source.len()).filter(|&index| source.read(index).is_err()).count();
        assert_eq!((shade(&source, 0), source.len() - broken), (1.0, 1), "{size}");
        assert_eq!(broken + source.left_out().len().min(1 - broken), 1, "{size}: it is counted");
    }
}

#[test]
fn the_sequence_over_shards_depends_on_the_seed_and_the_number_alone() {
    let dir = folder(&[("s-0.tar", shard(0, 10)), ("s-1.tar", shard(10, 10)), ("s-2.tar", shard(20, 10))]);
    let samples = |workers, pattern: &str| {
        let shards = Some(format!("{}/{pattern}", dir.path().display()));
        let source = SourceConfig { kind: SourceKind::Webdataset, shards, shuffle_buffer: 6, ..Default::default() };
        let data = DataConfig { size: 12, workers, prefetch: 6, source, ..Default::default() };
        Arc::new(Samples::open(data, DegradationConfig::default(), 3).unwrap())
    };
    let all = Loader::new(samples(0, "s-*.tar"), 0).unwrap().batch(70).unwrap();
    for workers in [1, 3] {
        assert_eq!(Loader::new(samples(workers, "s-{0..2}.tar"), 0).unwrap().batch(70).unwrap(), all);
        assert_eq!(Loader::new(samples(workers, "s-*.tar"), 41).unwrap().batch(29).unwrap(), all[41..]);
    }
    for pass in [&all[..30], &all[30..60]] {
        let mut visited: Vec<_> = pass.iter().map(|sample| sample.index).collect();
        assert_ne!(visited, (0..30).collect::<Vec<_>>());
        visited.sort_unstable();
        assert_eq!(visited, (0..30).collect::<Vec<_>>());
    }
}

/// Resuming at n reads only the shard of n, no earlier one.
#[test]
fn resuming_reads_no_earlier_shard() {
    let dir = folder(&[("s-0.tar", shard(0, 20)), ("s-1.tar", shard(20, 20)), ("s-2.tar", shard(40, 20))]);
    let source = open(dir.path(), "s-*.tar").unwrap();
    let last: Vec<usize> = (40..60).map(|n| source.nth(1, n)).collect();
    let (shard, _) = (last[0] / 20, last.iter().for_each(|index| assert_eq!(index / 20, last[0] / 20)));
    for other in (0..3).filter(|&other| other != shard) {
        fs::remove_file(dir.path().join(format!("s-{other}.tar"))).unwrap();
    }
    assert!(last.iter().all(|&index| source.read(index).is_ok()));
}

/// One row of a table: the picture's bytes and the captions.
type Row = (Option<Vec<u8>>, Vec<Vec<u8>>);

fn rows(first: u8, count: u8) -> Vec<Row> {
    let row = |shade| (Some(picture(shade, ImageFormat::Jpeg)), vec![format!("shade {shade}").into_bytes()]);
    (first..first + count).map(row).collect()
}

/// A Parquet file as Hugging Face writes it: a struct of bytes and path, a caption or a list of them, a number.
fn table(rows: &[Row], group: usize, list: bool, names: [&str; 2]) -> Vec<u8> {
    let captions = match list {
        true => format!(
            "optional group {} (LIST) {{ repeated group list {{ optional binary element (STRING); }} }}",
            names[1]
        ),
        false => format!("optional binary {} (STRING);", names[1]),
    };
    let schema = format!(
        "message schema {{ optional group {} {{ optional binary bytes; optional binary path (STRING); }} {captions} required int64 id; }}",
        names[0]
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut bytes = vec![];
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(group) {
        let mut columns = writer.next_row_group().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let pictures: Vec<ByteArray> = rows.iter().filter_map(|(picture, _)| picture.clone().map(Into::into)).collect();
        let levels: Vec<i16> = rows.iter().map(|(picture, _)| if picture.is_some() { 2 } else { 0 }).collect();
        column.typed::<ByteArrayType>().write_batch(&pictures, Some(&levels), None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![0; rows.len()]), None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let captions: Vec<ByteArray> =
            rows.iter().flat_map(|(_, captions)| captions.iter().cloned().map(Into::into)).collect();
        let (mut definitions, mut repetitions) = (vec![], vec![]);
        let full = if list { 3 } else { 1 };
        for (_, captions) in rows {
            definitions.extend(if captions.is_empty() { vec![0] } else { vec![full; captions.len()] });
            repetitions.extend((0..captions.len().max(1)).map(|i| i16::from(i > 0)));
        }
        let repetitions = list.then_some(&repetitions[..]);
        column.typed::<ByteArrayType>().write_batch(&captions, Some(&definitions), repetitions).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&vec![7; rows.len()], None, None).unwrap();
        column.close().unwrap();
        columns.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

fn open_parquet(dir: &Path, pattern: &str, caption: Option<&str>) -> Result<ParquetSource, SourceError> {
    ParquetSource::open(&format!("{}/{pattern}", dir.display()), &names(None, caption), 4)
}

#[test]
fn parquet_rows_are_read_in_any_order() {
    for list in [false, true] {
        let names = ["image", "text"];
        let dir = folder(&[
            ("p-0.parquet", table(&rows(0, 7), 3, list, names)),
            ("p-1.parquet", table(&rows(7, 5), 2, list, names)),
        ]);
        let source = open_parquet(dir.path(), "p-*.parquet", None).unwrap();
        assert_eq!((source.len(), source.left_out().len()), (12, 0));
        for index in [11, 0, 7, 3, 6, 9, 2] {
            let sample = source.read(index).unwrap();
            assert_eq!(sample.captions, [format!("shade {index}")]);
            assert!((shade(&source, index) - index as f32).abs() < 8.0);
            assert_eq!(sample.name, source.name(index));
        }
        assert!(source.name(9).ends_with("p-1.parquet/2"), "{}", source.name(9));
    }
}

#[test]
fn rows_without_a_picture_or_a_caption_are_named_and_the_others_read() {
    let good = rows(1, 1).remove(0);
    let table = |list| {
        let mut rows = vec![good.clone(), (None, vec![b"no picture".to_vec()]), (good.0.clone(), vec![]), good.clone()];
        rows.push((Some(b"no picture either".to_vec()), vec![b"text".to_vec()]));
        rows.push((good.0.clone(), vec![b"caf\xe9".to_vec()]));
        if list {
            rows.push((good.0.clone(), vec![b"one".to_vec(), b" ".to_vec(), b"two".to_vec()]));
        }
        table(&rows, 4, list, ["image", "caption"])
    };
    for list in [false, true] {
        let dir = folder(&[("a.parquet", table(list))]);
        let source = open_parquet(dir.path(), "a.parquet", None).unwrap();
        let error = |index: usize| source.read(index).unwrap_err();
        assert!(source.read(0).is_ok() && source.read(3).is_ok());
        assert!(matches!(error(1), SampleError::NoPicture { .. }), "{}", error(1));
        assert!(matches!(error(2), SampleError::NoCaption { .. }), "{}", error(2));
        assert!(matches!(error(4), SampleError::Picture(_)), "{}", error(4));
        assert!(matches!(error(5), SampleError::CaptionEncoding { offset: 3, .. }), "{}", error(5));
        assert!(error(5).to_string().contains("a.parquet/5"), "{}", error(5));
        if list {
            assert_eq!(source.read(6).unwrap().captions, ["one", "two"]);
        }
    }
}

#[test]
fn files_without_the_columns_are_skipped() {
    let dir = folder(&[
        ("a.parquet", table(&rows(0, 2), 9, false, ["image", "caption"])),
        ("b.parquet", table(&rows(2, 2), 9, false, ["photo", "caption"])),
        ("c.parquet", b"PAR1 but not really PAR1".to_vec()),
        ("d.parquet", vec![]),
    ]);
    let source = open_parquet(dir.path(), "*.parquet", None).unwrap();
    assert_eq!(source.len(), 2);
    let left_out = source.left_out();
    assert_eq!(left_out.len(), 3);
    assert!(
        left_out[0].reason.contains("data.source.image") && left_out[0].reason.contains("photo.bytes"),
        "{left_out:?}"
    );

    let error = open_parquet(dir.path(), "a.parquet", Some("label")).err().unwrap().to_string();
    assert!(error.contains("label") && error.contains("caption"), "{error}");
    let all = WebDatasetSource::open(&format!("{}/a.parquet", dir.path().display()), &Names::default(), 4);
    assert!(matches!(all, Err(SourceError::NoShard { .. })));
}

/// A damaged file gives an error or other bytes, never a crash.
#[test]
fn a_damaged_parquet_file_does_not_crash() {
    let whole = table(&rows(0, 4), 2, true, ["image", "caption"]);
    for place in (0..whole.len()).step_by(61) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        let dir = folder(&[("a.parquet", damaged)]);
        if let Ok(source) = open_parquet(dir.path(), "a.parquet", None) {
            for index in 0..source.len().min(6) {
                let _ = source.read(index);
            }
        }
    }
}

/// Files written by webdataset, tarfile, datasets and pyarrow (scripts/reference/shards.py).
#[test]
fn shards_written_by_other_programs_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/shards");
    let expected: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let shards = |name: &str| Some(folder.join(name).display().to_string());
    let source = |kind| SourceConfig { kind, ..Default::default() };
    for (config, all_captions) in [
        (SourceConfig { shards: shards("wds-{000000..000002}.tar"), ..source(SourceKind::Webdataset) }, true),
        (SourceConfig { shards: shards("pax.tar"), ..source(SourceKind::Webdataset) }, true),
        (SourceConfig { shards: shards("hf.parquet"), ..source(SourceKind::Parquet) }, false),
        (SourceConfig { shards: shards("list.parquet"), ..source(SourceKind::Parquet) }, true),
        (SourceConfig { path: Some(folder.clone()), ..source(SourceKind::Folder) }, true),
    ] {
        let source = spire_data::source::open(&config, 8).unwrap();
        assert_eq!((source.len(), source.left_out().len()), (expected.len(), 0), "{config:?}");
        for (index, expected) in expected.iter().enumerate() {
            let sample = source.read(index).unwrap();
            let picture = sample.picture.to_picture();
            let sums: Vec<u64> =
                picture.planes().map(|plane| plane.iter().map(|value| (value * 255.0).round() as u64).sum()).collect();
            assert_eq!(serde_json::json!(sums), expected["sums"], "{}", sample.name);
            assert_eq!(serde_json::json!([picture.width, picture.height]), expected["size"]);
            let captions = expected["captions"].as_array().unwrap();
            let count = if all_captions { captions.len() } else { 1 };
            assert_eq!(serde_json::json!(sample.captions), serde_json::json!(captions[..count]), "{}", sample.name);
        }
    }
}

/// A shard that disappears during a run affects only its own samples.
#[test]
fn a_lost_shard_does_not_stop_the_run() {
    let dir = folder(&[("s-0.tar", shard(0, 120)), ("s-1.tar", shard(120, 120))]);
    let shards = Some(format!("{}/s-*.tar", dir.path().display()));
    let source = SourceConfig { kind: SourceKind::Webdataset, shards, shuffle_buffer: 50, ..Default::default() };
    let data = DataConfig { size: 12, source, ..Default::default() };
    let samples = Samples::open(data, DegradationConfig::default(), 3).unwrap();
    let lost = dir.path().join("s-0.tar");
    let bytes = fs::read(&lost).unwrap();
    fs::remove_file(&lost).unwrap();
    for n in 0..240 {
        assert!(samples.sample(n).unwrap().index >= 120);
    }
    assert_eq!(samples.skipped().len(), 120);
    fs::write(&lost, bytes).unwrap();
    let back = (0..240).filter(|&n| samples.sample(n).unwrap().index < 120).count();
    assert_eq!(back, 120, "it is back");
}

/// A picture of half the size of [`picture`].
fn small(shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    RgbImage::from_pixel(10, 8, image::Rgb([shade; 3])).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn pairs_in_tar_shards_have_two_pictures_and_a_prompt() {
    let mut tar = Builder::new(vec![]);
    let whole = picture(3, ImageFormat::Png);
    for (key, degraded, json) in [
        ("0", Some(small(100)), r#"{"caption": "zero", "restoration": " Remove  rain "}"#),
        ("1", Some(whole.clone()), r#"{"caption": "one"}"#),
        ("2", None, r#"{"caption": "two"}"#),
        ("3", Some(picture(9, ImageFormat::Png)[..80].to_vec()), r#"{"caption": "three"}"#),
    ] {
        add(&mut tar, &format!("{key}.hq.png"), &whole);
        degraded.iter().for_each(|degraded| add(&mut tar, &format!("{key}.lq.png"), degraded));
        add(&mut tar, &format!("{key}.json"), json.as_bytes());
    }
    let dir = folder(&[("a.tar", tar.into_inner().unwrap())]);
    let pattern = format!("{}/a.tar", dir.path().display());
    let source = WebDatasetSource::open(&pattern, &names_of_pairs("hq.png", "lq.png"), 4).unwrap();
    let pair = |index| source.read(index).map(|sample| sample.pair.unwrap());
    let first = pair(0).unwrap();
    assert_eq!((first.factor, first.picture.size(), first.restoration.as_deref()), (2, (10, 8), Some("Remove rain")));
    assert_eq!((pair(1).unwrap().factor, pair(1).unwrap().restoration), (1, None));
    let missing = pair(2).unwrap_err().to_string();
    assert!(missing.contains("a.tar/2") && missing.contains("no .lq.png"), "{missing}");
    assert!(pair(3).unwrap_err().to_string().contains("3.lq.png"));
    assert!(source.read(0).unwrap().picture.size() == (20, 16));
}

#[test]
fn pairs_in_parquet_have_a_column_of_degraded_pictures() {
    let schema = "message rows { optional binary image; optional binary conditioning_image;
        optional binary text (UTF8); optional binary restoration (UTF8); }";
    let mut bytes = vec![];
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer =
        SerializedFileWriter::new(&mut bytes, Arc::new(parse_message_type(schema).unwrap()), properties).unwrap();
    let whole = picture(3, ImageFormat::Png);
    let columns: [[Option<Vec<u8>>; 3]; 4] = [
        [Some(whole.clone()), Some(whole.clone()), Some(whole)],
        [Some(small(100)), None, Some(picture(1, ImageFormat::Png))],
        ["zero", "one", "two"].map(|text| Some(text.into())),
        [Some("Remove rain".into()), None, None],
    ];
    let mut groups = writer.next_row_group().unwrap();
    for values in columns {
        let mut column = groups.next_column().unwrap().unwrap();
        let definitions: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
        let values: Vec<ByteArray> = values.into_iter().flatten().map(ByteArray::from).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&definitions), None).unwrap();
        column.close().unwrap();
    }
    groups.close().unwrap();
    writer.close().unwrap();
    let dir = folder(&[("a.parquet", bytes)]);
    let pattern = format!("{}/a.parquet", dir.path().display());
    let source = ParquetSource::open(&pattern, &names_of_pairs("image", "conditioning_image"), 4).unwrap();
    let pair = |index| source.read(index).map(|sample| sample.pair.unwrap());
    assert_eq!((pair(0).unwrap().factor, pair(0).unwrap().restoration.as_deref()), (2, Some("Remove rain")));
    let missing = pair(1).unwrap_err().to_string();
    assert!(missing.contains("degraded picture") && missing.contains("a.parquet/1"), "{missing}");
    assert_eq!((pair(2).unwrap().factor, pair(2).unwrap().restoration), (1, None));
    let error = ParquetSource::open(&pattern, &names_of_pairs("image", "lq"), 4).err().unwrap().to_string();
    assert!(error.contains("data.source.degraded") && error.contains("conditioning_image"), "{error}");
}
