//! A Parquet file: every row is read or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_data::source::{Names, ParquetSource, Source};

// The decoder panics on damage in places, which the source catches; what it does not catch still ends the program.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fuzzed.parquet");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(source) = ParquetSource::open(path.to_str().unwrap(), &Names::default(), 10) {
        for index in 0..source.len().min(100) {
            let _ = source.read(index);
        }
    }
});
