//! The text in a PNG.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_data::png_text::read;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fuzzed.png");
    std::fs::write(&path, bytes).unwrap();
    let _ = read(&path, "prompt");
});
