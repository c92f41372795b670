//! EXIF metadata with a single entry, the description of the picture: what JPEG and WebP have in place of PNG's text chunks.

/// The tag ImageDescription.
const DESCRIPTION: u16 = 0x010E;

/// The type of texts: bytes with a zero at the end. The standard says ASCII; programs read and write UTF-8.
const TEXT: u16 = 2;

/// The offset of the first directory, behind the byte order, the number 42 and the offset itself.
const DIRECTORY: usize = 8;

/// The length of one entry of a directory.
const ENTRY: usize = 12;

/// EXIF metadata with the description `text` of at least 4 bytes; shorter ones would have to lie in the entry itself.
pub fn with_description(text: &str) -> Vec<u8> {
    let mut bytes = b"II*\0".to_vec();
    bytes.extend((DIRECTORY as u32).to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(DESCRIPTION.to_le_bytes());
    bytes.extend(TEXT.to_le_bytes());
    bytes.extend((text.len() as u32 + 1).to_le_bytes());
    // The text follows the number of entries, the entry and the offset of the next directory, of which there is none.
    bytes.extend(((DIRECTORY + 2 + ENTRY + 4) as u32).to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

/// The description in metadata as [`with_description`] writes it; `None` for any other.
pub fn description(exif: &[u8]) -> Option<&str> {
    exif.strip_prefix(b"II*\0")?;
    let start = number(exif, 4)?;
    let count = usize::from(u16::from_le_bytes(exif.get(start..start.checked_add(2)?)?.try_into().ok()?));
    let entries = exif.get(start + 2..)?.chunks_exact(ENTRY).take(count);
    let entry = entries.into_iter().find(|entry| entry[..2] == DESCRIPTION.to_le_bytes())?;
    let (length, at) = (number(entry, 4)?, number(entry, 8)?);
    let text = exif.get(at..at.checked_add(length)?)?;
    str::from_utf8(text.strip_suffix(b"\0")?).ok()
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_description_comes_back() {
        let exif = with_description("spire: ein Bär");
        assert_eq!(description(&exif), Some("spire: ein Bär"));
        assert!((0..exif.len()).all(|length| description(&exif[..length]).is_none()));
    }

    proptest! {
        #[test]
        fn damaged_metadata_does_not_panic(place in 0..40_usize, value: u8, rest in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut exif = with_description("spire: a description");
            let last = exif.len() - 1;
            exif[place.min(last)] = value;
            description(&exif);
            description(&[b"II*\0".as_slice(), &rest].concat());
        }
    }
}
