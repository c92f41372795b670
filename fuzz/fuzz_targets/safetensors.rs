//! A safetensors file: every tensor that its header names is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_model::weights::Tensors;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensors) = Tensors::from_bytes(bytes.to_vec(), "fuzzed") {
        tensors.not_finite().expect("a header that fits the file leads to all of its tensors");
    }
});
