//! The lists that name pictures: `metadata.jsonl`, MS-COCO's captions, a benchmark's checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_data::testset::check;
use spire_data::source::{CocoSource, FolderSource, Source};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["metadata.jsonl", "captions.json", "SHA256SUMS"] {
        std::fs::write(path(name), bytes).unwrap();
    }
    let read_all = |source: &dyn Source| (0..source.len().min(100)).filter(|&index| source.read(index).is_ok()).count();
    if let Ok(source) = FolderSource::open(dir.path(), None) {
        assert_eq!(read_all(&source), 0, "there is no picture in the folder");
    }
    if let Ok(source) = CocoSource::open(dir.path(), path("captions.json")) {
        assert_eq!(read_all(&source), 0, "there is no picture in the folder");
    }
    let _ = check(dir.path(), 1);
});
