//! Compresses the files of the small model in `assets/tiny`, which the library embeds (see `src/embedded.rs`).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by Cargo"));
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by Cargo")).join("../assets/tiny");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = vec![];
    list(&root, &mut files);
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    // Each part of the program that uses a constant may have a copy of it.
    let mut code = String::from("pub static FILES: &[EmbeddedFile] = &[\n");
    for (index, file) in files.iter().enumerate() {
        let name = file.strip_prefix(&root).expect("listed below it").to_string_lossy().replace('\\', "/");
        let bytes = fs::read(file).expect("a readable file");
        hash = name.bytes().chain(bytes.iter().copied()).fold(hash, fnv1a);
        // Weights are f16: their upper bytes, which hold the exponents, are alike, and compress better beside each other.
        let in_halves = name.ends_with(".safetensors");
        let path = out.join(format!("embedded-{index}.deflate"));
        let deflated = if in_halves { deflate(&halves(&bytes)) } else { deflate(&bytes) };
        fs::write(&path, deflated).expect("a writable build folder");
        let path = path.display().to_string();
        let mut crc = Crc::new();
        crc.update(&bytes);
        writeln!(
            code,
            "    EmbeddedFile {{ name: {name:?}, size: {}, crc: {}, in_halves: {in_halves}, deflated: include_bytes!({path:?}) }},",
            bytes.len(),
            crc.sum()
        )
        .expect("memory");
    }
    writeln!(code, "];\n/// Changes with the files.\npub const VERSION: &str = \"{hash:016x}\";").expect("memory");
    fs::write(out.join("embedded_files.rs"), code).expect("a writable build folder");
}

/// The bytes at even places, then those at odd places.
fn halves(bytes: &[u8]) -> Vec<u8> {
    [0, 1].into_iter().flat_map(|first| bytes.iter().skip(first).step_by(2)).copied().collect()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(vec![], Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
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
