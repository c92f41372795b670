//! A Parquet file: every row is read or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_data::source::{ParquetSource, Source};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fuzzed.parquet");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(source) = ParquetSource::open(path.to_str().unwrap(), None, None, 10) {
        for index in 0..source.len().min(100) {
            let _ = source.read(index);
        }
    }
});
