//! Shards on a web server that is slow, busy, breaks off and changes its files.
#![cfg(feature = "object-store")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use image::ImageFormat;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use spire_data::degrade::DegradationConfig;
use spire_data::loader::{DataConfig, Loader, Part, Samples, TrainingSample};
use spire_data::order::Slice;
use spire_data::source::{SourceConfig, SourceError, SourceKind};
use support::{Manners, Server};

/// A picture that tells its number; the larger ones take several packets.
fn picture(number: usize) -> Vec<u8> {
    let side = 12 + number as u32 % 50;
    let shade = |x: u32, y: u32| (x * 31 + y * 17 + number as u32 * 7) as u8;
    let image = image::RgbImage::from_fn(side, side, |x, y| image::Rgb([number as u8, shade(x, y), shade(y, x * y)]));
    let mut bytes = std::io::Cursor::new(vec![]);
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn shard(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    for number in numbers {
        for (extension, bytes) in [("png", picture(number)), ("txt", format!("number {number}").into_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("{number:06}.{extension}"), &*bytes).unwrap();
        }
    }
    tar.into_inner().unwrap()
}

/// Shards of these lengths, as files by name.
fn shards(lens: &[usize]) -> Vec<(String, Vec<u8>)> {
    let mut first = 0;
    let shard = |(i, &len): (usize, &usize)| {
        first += len;
        (format!("s-{i:02}.tar"), shard(first - len..first))
    };
    lens.iter().enumerate().map(shard).collect()
}

fn sizes(lens: &[usize]) -> (String, Vec<u8>) {
    let list: serde_json::Map<_, _> =
        lens.iter().enumerate().map(|(i, &len)| (format!("s-{i:02}.tar"), len.into())).collect();
    ("sizes.json".to_owned(), serde_json::to_vec(&list).unwrap())
}

fn folder(files: &[(String, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
    dir
}

fn serve(files: Vec<(String, Vec<u8>)>, manners: Manners) -> Server {
    Server::start(files.into_iter().map(|(name, bytes)| (format!("/{name}"), bytes)), manners)
}

fn webdataset(place: &dyn std::fmt::Display, count: usize) -> SourceConfig {
    let shards = Some(format!("{place}/s-{{00..{:02}}}.tar", count - 1));
    SourceConfig { kind: SourceKind::Webdataset, shards, shuffle_buffer: 24, ..Default::default() }
}

fn samples(source: SourceConfig, workers: usize) -> Arc<Samples> {
    let data = DataConfig { size: 12, workers, prefetch: 8, source, ..Default::default() };
    Arc::new(Samples::open(data, DegradationConfig::default(), 3).unwrap())
}

fn take(samples: &Arc<Samples>, start: u64, count: usize) -> Vec<TrainingSample> {
    let mut taken = Loader::new(Arc::clone(samples), start).unwrap().batch(count).unwrap();
    // Names hold the place of the shards.
    taken.iter_mut().for_each(|sample| sample.name.clear());
    taken
}

/// All that can be wrong with a server.
const BAD: Manners = Manners {
    delay: Duration::from_millis(5),
    busy_every: Some(3),
    cut_every: Some(2),
    hold: false,
    ranges: true,
    tags: true,
};

#[test]
fn passes_over_a_bad_server_are_those_over_files() {
    let lens = [40, 17, 33, 50, 1, 29];
    let dir = folder(&shards(&lens));
    let local = take(&samples(webdataset(&dir.path().display(), 6), 0), 0, 250);
    for manners in [
        Manners::default(),
        BAD,
        Manners { tags: false, ..BAD },
        Manners { ranges: false, cut_every: Some(4), ..BAD },
        Manners { ranges: false, tags: false, cut_every: Some(4), ..BAD },
    ] {
        let server = serve(shards(&lens).into_iter().chain([sizes(&lens)]).collect(), manners);
        for (start, workers) in [(0, 2), (131, 3)] {
            let remote = samples(webdataset(&server.address, 6), workers);
            assert_eq!(remote.epoch_len(), 170);
            assert!(take(&remote, start, 250 - start as usize) == local[start as usize..], "{manners:?} from {start}");
            assert_eq!(remote.skipped(), []);
        }
    }
}

/// A run that resumes fetches no shard that lies before.
#[test]
fn resuming_fetches_no_earlier_shard() {
    let lens = [30; 8];
    let server = serve(shards(&lens).into_iter().chain([sizes(&lens)]).collect(), Manners::default());
    let source = webdataset(&server.address, 8);
    let remote = samples(SourceConfig { shuffle_buffer: 10, shards_ahead: 1, ..source }, 0);
    let pass: Vec<usize> = take(&remote, 0, 240).iter().map(|sample| sample.index / 30).collect();
    server.take_log();
    let again = samples(SourceConfig { shuffle_buffer: 10, shards_ahead: 1, ..webdataset(&server.address, 8) }, 0);
    take(&again, 125, 5);
    server.wait_for(3);
    let asked: BTreeSet<String> = server.take_log().into_iter().map(|request| request.path).collect();
    let wanted: BTreeSet<String> = pass[120..180].iter().map(|shard| format!("/s-{shard:02}.tar")).collect();
    assert_eq!(asked.len(), 3, "the list, the shard, and one ahead: {asked:?}");
    assert!(wanted.iter().all(|shard| asked.contains(shard)), "{asked:?}, not {wanted:?}");
}

/// Each rank fetches the shards of its own lanes, and the batches are those of one process.
#[test]
fn ranks_fetch_different_shards() {
    let lens = [20; 8];
    let server = serve(shards(&lens).into_iter().chain([sizes(&lens)]).collect(), Manners::default());
    let source = || SourceConfig { lanes: 4, shards_ahead: 0, ..webdataset(&server.address, 8) };
    let all = take(&samples(source(), 0), 0, 160);
    server.take_log();
    let mut taken = vec![];
    let mut asked = vec![];
    for rank in 0..2 {
        let slice = Slice::new(8, rank, 2).unwrap();
        let mut loader = Loader::slice(samples(source(), 1), 0, slice).unwrap();
        taken.extend(loader.batch(80).unwrap().into_iter().map(|sample| (sample.n, sample.index)));
        let log: BTreeSet<String> = server.take_log().into_iter().map(|request| request.path).collect();
        asked.push(log.into_iter().filter(|path| path.ends_with("tar")).collect::<BTreeSet<_>>());
    }
    taken.sort_unstable();
    assert_eq!(taken, all.iter().map(|sample| (sample.n, sample.index)).collect::<Vec<_>>());
    // The loader prepares samples of the next pass as well, which begins with other shards.
    assert!(asked.iter().all(|shards| shards.len() <= 6), "{asked:?}");
    assert_eq!(asked[0].union(&asked[1]).count(), 8, "{asked:?}");
}

#[test]
fn without_a_list_every_shard_is_taken_to_be_as_long_as_the_first() {
    let lens = [20, 20, 12];
    let server = serve(shards(&lens), Manners::default());
    let open = |samples_per_shard| {
        let config = SourceConfig { samples_per_shard, ..webdataset(&server.address, 3) };
        spire_data::source::open(&config, 12).unwrap()
    };
    let source = open(None);
    assert_eq!(source.len(), 60);
    let caption = |index| source.read(index).unwrap().captions.remove(0);
    assert_eq!((caption(39), caption(40), caption(51)), ("number 39".into(), "number 40".into(), "number 51".into()));
    // The last shard begins again.
    assert_eq!((caption(52), caption(59)), ("number 40".into(), "number 47".into()));
    assert!(source.name(41).ends_with("/s-02.tar/1"), "{}", source.name(41));
    assert_eq!(source.read(41).unwrap().name, source.name(41));
    server.take_log();
    let shorter = open(Some(15));
    assert_eq!((shorter.len(), server.take_log().len()), (45, 0), "nothing is fetched to open it");
    assert_eq!(shorter.read(15).unwrap().captions, ["number 20"]);
}

#[test]
fn a_list_that_lacks_a_shard_and_a_server_that_lacks_all_are_named() {
    let server = serve(shards(&[5, 5]).into_iter().chain([sizes(&[5])]).collect(), Manners::default());
    let error = |address: &str, count| {
        let error = spire_data::source::open(&webdataset(&address, count), 12).err().unwrap();
        assert!(matches!(error, SourceError::Store { .. }), "{error}");
        error.to_string()
    };
    let unlisted = error(&server.address, 2);
    assert!(unlisted.contains("sizes.json") && unlisted.contains("s-01.tar"), "{unlisted}");
    let none = error(&format!("{}/elsewhere", server.address), 2);
    assert!(none.contains("/elsewhere/s-00.tar") && none.contains("data.source.shards"), "{none}");
}

/// What comes after the damage is skipped, and named once.
#[test]
fn a_truncated_or_missing_shard_loses_its_own_samples_alone() {
    let lens = [100; 4];
    let mut files = shards(&lens);
    files[1].1.truncate(40_000);
    let whole = shards(&lens)[2].1.clone();
    files.remove(2);
    let server = serve(files.into_iter().chain([sizes(&lens)]).collect(), Manners::default());
    let remote = samples(webdataset(&server.address, 4), 2);
    let first = take(&remote, 0, 400);
    let there: Vec<bool> = (0..400).map(|index| first.iter().any(|sample| sample.index == index)).collect();
    assert!(there[..110].iter().all(|&there| there) && there[300..].iter().all(|&there| there));
    assert!(there[190..300].iter().all(|&there| !there), "the end of the truncated one, and the missing one");
    let skipped = remote.skipped();
    assert!(
        skipped.iter().any(|skipped| skipped.name.contains("s-01.tar/") && skipped.reason.contains("s-01.tar: after"))
    );
    assert!(skipped.iter().filter(|skipped| skipped.reason.contains("s-02.tar")).count() == 100, "{skipped:?}");
    server.set("/s-02.tar", Some(whole));
    assert!(samples(webdataset(&server.address, 4), 0).sample(0).is_ok());
}

/// A shard that has become another one while it was read is no mixture of both.
#[test]
fn a_shard_that_is_replaced_while_it_is_read_is_not_mixed() {
    let one = shard(0..400);
    let mut other = one.clone();
    let at = other.len() * 3 / 4;
    other[at] ^= 1;
    let manners = Manners { hold: true, cut_every: Some(1), ..Manners::default() };
    let server = Server::start([("/s-00.tar".to_owned(), one)], manners);
    let source = SourceConfig { samples_per_shard: Some(400), ..webdataset(&server.address, 1) };
    let source = spire_data::source::open(&source, 12).unwrap();
    assert!(source.read(0).is_ok());
    server.set("/s-00.tar", Some(other));
    server.set_manners(Manners::default());
    let error = source.read(390).unwrap_err().to_string();
    assert!(error.contains("s-00.tar") && error.contains("replaced"), "{error}");
}

#[test]
fn few_shards_are_fetched_at_a_time() {
    let lens = [50; 30];
    let server = serve(shards(&lens).into_iter().chain([sizes(&lens)]).collect(), Manners::default());
    let remote = samples(webdataset(&server.address, 30), 2);
    take(&remote, 0, 60);
    let asked = server.take_log().len();
    // The list, three shards of two blocks and of the loader's lead, two ahead.
    assert!((4..=8).contains(&asked), "{asked} requests for 60 of 1500 samples");
    take(&remote, 60, 1440);
    let bodies = server.take_log();
    assert!(bodies.len() <= 30 + 8, "{} bodies of 30 shards: none is fetched twice", bodies.len());
}

/// In a process of its own, with a cache folder of its own.
#[test]
fn a_cached_shard_is_not_fetched_again_and_the_cache_is_bounded() {
    const INNER: &str = "SPIRE_TEST_CACHE";
    if std::env::var_os(INNER).is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["a_cached_shard_is_not_fetched_again_and_the_cache_is_bounded", "--exact"]);
        let output = test.env(INNER, "1").env("XDG_CACHE_HOME", dir.path()).env("HOME", dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let lens = [120; 6];
    let files = shards(&lens);
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!((1_200_000..5_000_000).contains(&bytes), "{bytes} bytes do not fit into one megabyte, and do into five");
    let server = serve(files.into_iter().chain([sizes(&lens)]).collect(), Manners::default());
    let shards_fetched = || server.take_log().iter().filter(|request| request.path.ends_with("tar")).count();
    let source = |cache_megabytes| SourceConfig { cache_megabytes, ..webdataset(&server.address, 6) };
    let plain = take(&samples(source(None), 0), 0, 720);
    shards_fetched();
    assert!(take(&samples(source(Some(5)), 0), 0, 720) == plain);
    assert!(shards_fetched() >= 6);
    // Those of the end of the pass and of the next one may still be on their way.
    std::thread::sleep(Duration::from_millis(300));
    shards_fetched();
    assert!(take(&samples(source(Some(5)), 0), 0, 720) == plain, "from the cache");
    assert_eq!(shards_fetched(), 0);
    let changed = shard(0..120).into_iter().chain([0; 512]).collect();
    server.set("/s-00.tar", Some(changed));
    assert!(take(&samples(source(Some(1)), 0), 0, 720) == plain, "one is fetched again");
    assert!(shards_fetched() >= 1);
    std::thread::sleep(Duration::from_millis(300));
    let kept = fs::read_dir(dirs::cache_dir().unwrap().join("spire/objects")).unwrap();
    let kept: u64 = kept.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(kept <= 1_000_000, "{kept} bytes are kept");
}

#[test]
fn shards_are_held_out_as_a_whole() {
    let lens = [25; 10];
    let server = serve(shards(&lens).into_iter().chain([sizes(&lens)]).collect(), Manners::default());
    let part = |part| {
        let data = DataConfig { size: 12, workers: 0, source: webdataset(&server.address, 10), ..Default::default() };
        let samples = Samples::open_part(data, DegradationConfig::default(), 3, part).unwrap().unwrap();
        let of = |n| samples.sample(n).unwrap().name.split("s-").last().unwrap()[..2].to_owned();
        (samples.epoch_len(), (0..250).map(of).collect::<BTreeSet<String>>())
    };
    let (held_out, training) = (part(Part::HeldOut(1e-9)), part(Part::Training(1e-9)));
    assert_eq!((held_out.0, held_out.1.len()), (25, 1));
    assert_eq!((training.0, training.1.len()), (225, 9));
    assert!(held_out.1.is_disjoint(&training.1));
}

/// Rows of a picture, a caption, and a column that nobody reads.
fn table(numbers: std::ops::Range<usize>, group: usize) -> Vec<u8> {
    let schema = "message rows { required binary image; required binary unread; required binary text (UTF8); }";
    let mut bytes = vec![];
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer =
        SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::builder().build())).unwrap();
    let numbers: Vec<usize> = numbers.collect();
    for numbers in numbers.chunks(group) {
        let mut columns = writer.next_row_group().unwrap();
        let pictures = numbers.iter().map(|&number| picture(number)).collect::<Vec<_>>();
        let texts = numbers.iter().map(|number| format!("number {number}").into_bytes()).collect::<Vec<_>>();
        // Random bytes, which no codec makes smaller; larger than the gap that is fetched along.
        let unread = numbers.iter().map(|&number| (0..200_000).map(|i: usize| (i * i * 31 + number) as u8).collect());
        for values in [pictures, unread.collect(), texts] {
            let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
            let mut column = columns.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
        }
        columns.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_on_a_bad_server_is_read_by_ranges() {
    let files: Vec<(String, Vec<u8>)> =
        (0..4).map(|i| (format!("p-{i}.parquet"), table(30 * i..30 * i + 30, 8))).collect();
    let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let dir = folder(&files);
    let source = |place: &dyn std::fmt::Display| {
        let shards = Some(format!("{place}/p-{{0..3}}.parquet"));
        SourceConfig { kind: SourceKind::Parquet, shards, shuffle_buffer: 16, ..Default::default() }
    };
    let local = take(&samples(source(&dir.path().display()), 0), 0, 160);
    for manners in [Manners::default(), BAD, Manners { tags: false, cut_every: Some(3), ..BAD }] {
        let server = serve(files.clone(), manners);
        for (start, workers) in [(0, 2), (77, 1)] {
            let remote = samples(source(&server.address), workers);
            assert!(take(&remote, start, 160 - start as usize) == local[start as usize..], "{manners:?} from {start}");
        }
        server.set_manners(Manners::default());
        server.take_log();
        take(&samples(source(&server.address), 0), 0, 120);
        let fetched: usize = server.take_log().iter().map(|request| request.bytes).sum();
        assert!(fetched < total / 4, "{fetched} of {total} bytes");
    }
}

#[test]
fn damaged_parquet_on_a_server_is_skipped() {
    let whole = table(0..16, 8);
    for damaged in [whole[..whole.len() - 3].to_vec(), b"PAR1".to_vec(), vec![], vec![0xff; 3000]] {
        let files = vec![("p-0.parquet".to_owned(), damaged), ("p-1.parquet".to_owned(), whole.clone())];
        let server = serve(files, Manners::default());
        let shards = Some(format!("{}/p-{{0..1}}.parquet", server.address));
        let config = SourceConfig { kind: SourceKind::Parquet, shards, ..Default::default() };
        let source = spire_data::source::open(&config, 12).unwrap();
        assert_eq!((source.len(), source.left_out().len()), (16, 1));
        assert!(source.read(15).is_ok());
    }
}

#[test]
fn keys_for_stores_are_refused_for_files() {
    let dir = folder(&shards(&[3]));
    let local = webdataset(&dir.path().display(), 1);
    for (key, config) in [
        ("samples_per_shard", SourceConfig { samples_per_shard: Some(3), ..local.clone() }),
        ("cache_megabytes", SourceConfig { cache_megabytes: Some(3), ..local.clone() }),
    ] {
        let message = spire_data::source::open(&config, 12).err().unwrap().to_string();
        assert!(message.contains(&format!("data.source.{key}")), "{message}");
    }
    let data = DataConfig { max_samples: Some(3), source: webdataset(&"https://x", 2), ..Default::default() };
    let message = data.validate().unwrap_err().to_string();
    assert!(message.contains("data.max_samples") && message.contains("data.source.shards"), "{message}");
}

/// Samples come while their shard is still on its way.
#[test]
fn the_first_sample_does_not_wait_for_the_whole_shard() {
    let server = serve(shards(&[400]), Manners { hold: true, ..Manners::default() });
    let source = SourceConfig { samples_per_shard: Some(400), ..webdataset(&server.address, 1) };
    let source = spire_data::source::open(&source, 12).unwrap();
    assert!(source.read(3).is_ok(), "the second half of the shard has not been sent");
    server.set_manners(Manners::default());
    assert!(source.read(399).is_ok());
}

#[test]
fn a_compressed_shard_is_refused_with_what_to_do() {
    let server = serve(vec![("s-00.tar".to_owned(), [&b"\x1f\x8b"[..], &[7; 2000]].concat())], Manners::default());
    let error = spire_data::source::open(&webdataset(&server.address, 1), 12).err().unwrap().to_string();
    assert!(error.contains("s-00.tar") && error.contains("gunzip"), "{error}");
}
