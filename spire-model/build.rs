//! Lists the files of the small model in `assets/tiny`, which the library embeds (see `src/builtin.rs`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// `src/tokenizer.rs` embeds these itself.
const ALREADY_EMBEDDED: &str = "tokenizer";

fn main() {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by Cargo")).join("../assets/tiny");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = vec![];
    list(&root, &mut files);
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut code = String::from("pub(super) const FILES: &[(&str, &[u8])] = &[\n");
    for file in &files {
        let name = file.strip_prefix(&root).expect("listed below it").to_string_lossy().replace('\\', "/");
        let bytes = fs::read(file).expect("a readable file");
        hash = name.bytes().chain(bytes).fold(hash, fnv1a);
        if !name.starts_with(ALREADY_EMBEDDED) {
            let path = file.canonicalize().expect("an existing file");
            writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string()).expect("memory");
        }
    }
    writeln!(code, "];\n/// Changes with the files.\npub(super) const VERSION: &str = \"{hash:016x}\";")
        .expect("memory");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by Cargo"));
    fs::write(out.join("builtin_files.rs"), code).expect("a writable build folder");
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

fn fnv1a(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}
