//! A restoration prompt that is understood is written as it was understood.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_data::prompt::{parse, write};

fuzz_target!(|text: &str| {
    if let Ok(fragments) = parse(text) {
        assert_eq!(parse(&write(&fragments)), Ok(fragments));
    }
});
