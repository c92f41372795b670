//! TensorFlow's record format, in which event files are written: length, checksum of the length, data, checksum of the data,
//! all little-endian (`tensorflow/core/lib/io/record_writer.h`).

use std::io::{self, Write};

use crc::{CRC_32_ISCSI, Crc};

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Appends `data` to `file` as one record, in one write.
///
/// # Errors
/// `file` can't be written.
pub fn write_record(file: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc32c(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc32c(data).to_le_bytes());
    file.write_all(&record)
}

/// The checksum that TensorFlow stores: a CRC of bytes that contain CRCs is weak, so it rotates and offsets them.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The records of a whole file.
    pub fn records(bytes: &[u8]) -> Vec<&[u8]> {
        let (mut rest, mut records) = (bytes, Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked_crc32c(&rest[..8]).to_le_bytes());
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked_crc32c(data).to_le_bytes());
            records.push(data);
            rest = &rest[16 + length..];
        }
        records
    }

    #[test]
    fn a_record_has_the_bytes_that_tensorflow_writes() {
        // What tensorboard's RecordWriter makes of b"abc" and b"".
        let mut written = Vec::new();
        write_record(&mut written, b"abc").unwrap();
        write_record(&mut written, b"").unwrap();
        assert_eq!(records(&written), [b"abc".as_slice(), b""]);
        assert_eq!(hex(&written), "0300000000000000b099490e6162636e57f121000000000000000029039807d8ea82a2");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
