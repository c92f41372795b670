//! Picture files: whether a JPEG is whole, and how the decoders' results are used.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use spire_data::Picture;
use spire_data::picture::decode_rgb8;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzzed");
    let opaque = decode_rgb8(bytes, path).is_ok();
    assert_eq!(Picture::decode_with_alpha(bytes, path).is_ok(), opaque);
});
