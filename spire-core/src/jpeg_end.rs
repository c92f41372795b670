//! Detects truncated JPEG files. Decoders fill missing parts with grey and report no error.

const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// Whether the first image in `bytes` reaches its end marker. `bytes` must start with a JPEG's `FF D8`. Data after the
/// end marker, which some cameras append, is ignored.
pub fn is_whole(bytes: &[u8]) -> bool {
    reaches_end(bytes).unwrap_or(false)
}

/// `None` if the bytes end before the image.
fn reaches_end(bytes: &[u8]) -> Option<bool> {
    let mut at = 2;
    loop {
        // Markers may be preceded by any number of fill bytes.
        let skipped = bytes.get(at..)?.iter().position(|&byte| byte != 0xFF)?;
        if skipped == 0 {
            return Some(false);
        }
        at += skipped;
        let marker = bytes[at];
        at += 1;
        if marker == EOI {
            return Some(true);
        }
        if is_standalone(marker) {
            continue;
        }
        let length = bytes.get(at..at + 2)?;
        at += usize::from(u16::from_be_bytes([length[0], length[1]]));
        if marker == SOS {
            at += next_marker(bytes.get(at..)?)?;
        }
    }
}

/// Markers without a length field: restart markers and TEM.
fn is_standalone(marker: u8) -> bool {
    matches!(marker, 0x01 | 0xD0..=0xD7)
}

/// The offset of the next marker: the end of the entropy-coded data, where `FF` is followed neither by 0 nor by a
/// restart marker.
fn next_marker(data: &[u8]) -> Option<usize> {
    data.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn jpeg() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/pictures/rotated.jpg")).unwrap()
    }

    #[test]
    fn every_truncation_is_detected_and_trailing_bytes_are_ignored() {
        let whole = jpeg();
        assert!(is_whole(&whole));
        assert!((0..whole.len()).all(|length| !is_whole(&whole[..length])));
        assert!(is_whole(&[&whole[..], &[0xFF, 0xDA, 0, 1, 2]].concat()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            is_whole(&bytes);
        }

        #[test]
        fn a_damaged_file_does_not_panic(place in 0..1399_usize, value: u8) {
            let mut bytes = jpeg();
            let last = bytes.len() - 1;
            bytes[place.min(last)] = value;
            is_whole(&bytes);
        }
    }
}
