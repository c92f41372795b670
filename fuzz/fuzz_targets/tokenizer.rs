//! A tokenizer's files: `tokenizer.json`, or `vocab.json` and `merges.txt`, which a zero byte separates. A tokenizer that opens
//! encodes every text to the length that was asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spire_model::tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => {
            write("vocab.json", &bytes[..end]);
            write("merges.txt", &bytes[end + 1..]);
        }
        None => {
            write("tokenizer.json", bytes);
            write("special_tokens_map.json", bytes);
        }
    }
    if let Ok(tokenizer) = Tokenizer::from_folder(dir.path()) {
        for text in ["", "a panda by the bamboo", "ein Bär — 熊 &amp; \u{1b}[0m"] {
            assert_eq!(tokenizer.encode_padded(text, 20, tokenizer.pad_id()).len(), 20);
        }
    }
});
