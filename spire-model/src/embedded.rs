//! The files of the models in `assets`, which `build.rs` compresses into the library.

use std::io::Read as _;

use flate2::Crc;
use flate2::read::DeflateDecoder;

include!(concat!(env!("OUT_DIR"), "/embedded_files.rs"));

/// A model with all its files.
pub struct EmbeddedModel {
    /// Its folder in `assets`.
    pub name: &'static str,
    /// Changes with the files.
    pub version: &'static str,
    pub files: &'static [EmbeddedFile],
}

/// One file, by its path in the model's folder.
pub struct EmbeddedFile {
    pub name: &'static str,
    size: usize,
    crc: u32,
    /// Whether the bytes at even places come first, then those at odd places.
    in_halves: bool,
    deflated: &'static [u8],
}

impl EmbeddedFile {
    /// What the file contains.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size);
        DeflateDecoder::new(self.deflated).read_to_end(&mut bytes).expect("compressed by build.rs");
        if !self.in_halves {
            return bytes;
        }
        let (even, odd) = bytes.split_at(self.size.div_ceil(2));
        (0..self.size).map(|place| if place % 2 == 0 { even[place / 2] } else { odd[place / 2] }).collect()
    }

    /// Whether `found` has the size and the checksum of the file: much faster than [`Self::bytes`], and the program asks at
    /// every start.
    pub fn holds(&self, found: &[u8]) -> bool {
        let mut crc = Crc::new();
        crc.update(found);
        (self.size, self.crc) == (found.len(), crc.sum())
    }
}

/// The model of this name.
///
/// # Panics
/// There is none.
pub fn model(name: &str) -> &'static EmbeddedModel {
    MODELS.iter().find(|model| model.name == name).unwrap_or_else(|| panic!("there is no built-in model {name}"))
}

/// The file of this name in `assets/tiny`, as text.
///
/// # Panics
/// If `assets/tiny` has no such file, or one that is no text.
pub fn text(name: &str) -> String {
    let file = model("tiny").files.iter().find(|file| file.name == name);
    let file = file.unwrap_or_else(|| panic!("assets/tiny has no {name}"));
    String::from_utf8(file.bytes()).unwrap_or_else(|_| panic!("{name} is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_one_that_differs() {
        let file = model("tiny").files.iter().find(|file| file.name == "unet/config.json").unwrap();
        let mut bytes = file.bytes();
        assert!(file.holds(&bytes));
        bytes[0] ^= 1;
        assert!(!file.holds(&bytes));
        bytes[0] ^= 1;
        bytes.push(b' ');
        assert!(!file.holds(&bytes));
        assert!(!file.holds(b""));
    }

    #[test]
    fn files_come_back_as_they_were() {
        let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
        for model in MODELS {
            for file in model.files {
                let bytes = file.bytes();
                assert!(bytes == std::fs::read(assets.join(model.name).join(file.name)).unwrap(), "{}", file.name);
                assert!(file.holds(&bytes));
            }
        }
    }
}
