//! A tar shard: every sample is read or an error, and all of them are counted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_data::source::{Names, Source, WebDatasetSource};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fuzzed.tar");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(source) = WebDatasetSource::open(path.to_str().unwrap(), &Names::default(), 10) {
        for index in 0..source.len() {
            assert!(!source.name(index).is_empty());
            let _ = source.read(index);
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is unpacked");
});
