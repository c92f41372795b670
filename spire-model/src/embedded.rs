//! The files of the small model in `assets/tiny`, which `build.rs` compresses into the library.

use std::io::Read as _;

use flate2::Crc;
use flate2::read::GzDecoder;

include!(concat!(env!("OUT_DIR"), "/embedded_files.rs"));

/// One file, by its path in the model's folder.
pub struct EmbeddedFile {
    pub name: &'static str,
    gzip: &'static [u8],
}

impl EmbeddedFile {
    /// What the file contains.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![];
        GzDecoder::new(self.gzip).read_to_end(&mut bytes).expect("compressed by build.rs");
        bytes
    }

    /// Whether `found` has the size and the checksum with which a gzip file ends (RFC 1952): much faster than
    /// [`Self::bytes`], and the program asks at every start.
    pub fn holds(&self, found: &[u8]) -> bool {
        let mut crc = Crc::new();
        crc.update(found);
        self.gzip.ends_with(&[crc.sum().to_le_bytes(), crc.amount().to_le_bytes()].concat())
    }
}

/// The file of this name, as text.
///
/// # Panics
/// If `assets/tiny` has no such file, or one that is no text.
pub fn text(name: &str) -> String {
    let file = FILES.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("assets/tiny has no {name}"));
    String::from_utf8(file.bytes()).unwrap_or_else(|_| panic!("{name} is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_one_that_differs() {
        let file = FILES.iter().find(|file| file.name == "unet/config.json").unwrap();
        let mut bytes = file.bytes();
        assert!(file.holds(&bytes));
        bytes[0] ^= 1;
        assert!(!file.holds(&bytes));
        bytes[0] ^= 1;
        bytes.push(b' ');
        assert!(!file.holds(&bytes));
        assert!(!file.holds(b""));
    }
}
