//! Compresses the files of the models in `assets`, which the library embeds (see `src/embedded.rs`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

const MODELS: [&str; 2] = ["tiny", "small"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by Cargo"));
    let assets = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by Cargo")).join("../assets");
    let mut contents = Contents::default();
    let models: String = MODELS.iter().map(|name| model(name, &assets.join(name), &mut contents)).collect();
    let statics = contents.write(&out);
    let code = format!("{statics}pub static MODELS: &[EmbeddedModel] = &[\n{models}];\n");
    fs::write(out.join("embedded_files.rs"), code).expect("a writable build folder");
}

/// The code of the model `name` in the folder `root`. Its version is a hash of all names and contents.
fn model(name: &str, root: &Path, contents: &mut Contents) -> String {
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = vec![];
    list(root, &mut files);
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut entries = String::new();
    for file in &files {
        let name = file.strip_prefix(root).expect("listed below it").to_string_lossy().replace('\\', "/");
        let bytes = fs::read(file).expect("a readable file");
        hash = name.bytes().chain(bytes.iter().copied()).fold(hash, fnv1a);
        let mut crc = Crc::new();
        crc.update(&bytes);
        // Weights are f16: their upper bytes, which hold the exponents, are alike, and compress better beside each other.
        let in_halves = name.ends_with(".safetensors");
        let (size, crc) = (bytes.len(), crc.sum());
        let content = contents.number(bytes, in_halves);
        writeln!(
            entries,
            "        EmbeddedFile {{ name: {name:?}, size: {size}, crc: {crc}, in_halves: {in_halves}, deflated: CONTENT_{content} }},"
        )
        .expect("memory");
    }
    format!("    EmbeddedModel {{ name: {name:?}, version: \"{hash:016x}\", files: &[\n{entries}    ] }},\n")
}

/// What is embedded. The models share files, such as the text tower: each content is there once.
#[derive(Default)]
struct Contents {
    numbers: HashMap<Vec<u8>, usize>,
    deflated: Vec<Vec<u8>>,
}

impl Contents {
    /// The number of the content `bytes`.
    fn number(&mut self, bytes: Vec<u8>, in_halves: bool) -> usize {
        let Self { numbers, deflated } = self;
        *numbers.entry(bytes).or_insert_with_key(|bytes| {
            deflated.push(if in_halves { deflate(&halves(bytes)) } else { deflate(bytes) });
            deflated.len() - 1
        })
    }

    /// Writes a file for each content; returns the code of the statics that include them.
    fn write(&self, out: &Path) -> String {
        let mut code = String::new();
        for (number, deflated) in self.deflated.iter().enumerate() {
            let path = out.join(format!("embedded-{number}.deflate"));
            fs::write(&path, deflated).expect("a writable build folder");
            // A static: each part of the program that uses a constant may have a copy of it.
            writeln!(code, "static CONTENT_{number}: &[u8] = include_bytes!({:?});", path.display().to_string())
                .expect("memory");
        }
        code
    }
}

/// The bytes at even places, then those at odd places.
fn halves(bytes: &[u8]) -> Vec<u8> {
    [0, 1].into_iter().flat_map(|first| bytes.iter().skip(first).step_by(2)).copied().collect()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(vec![], Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}

/// Files below `folder`; links to folders are followed.
fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

fn fnv1a(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}
