//! A pickle of PyTorch, alone or in a zip archive: tensors or an error, and no code runs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_model::weights::Tensors;

// The reader may panic on damage, which opening turns into an error; what it does not catch still ends the program.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fuzzed.bin");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(tensors) = Tensors::open(&path) {
        let _ = tensors.not_finite();
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is written");
});
