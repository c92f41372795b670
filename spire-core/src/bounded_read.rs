//! Reading files of others: regular files only, and only up to a size.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// The content of a regular file of at most `most` bytes. Links are followed. A pipe would block the program, and a device
/// such as `/dev/zero` never ends.
///
/// # Errors
/// The file is missing, unreadable, larger, or not a regular file.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        let what = if found.is_dir() { "a folder" } else { "a pipe or a device" };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{what}, not a regular file")));
    }
    // The file may grow while it is read.
    let mut bytes = Vec::with_capacity(found.len().min(most) as usize);
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let length = found.len().max(bytes.len() as u64);
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes; the most are {most}")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().to_string(), "5 bytes; the most are 4");
        assert!(read(dir.path(), 4).unwrap_err().to_string().contains("a folder"));
        assert_eq!(read(&dir.path().join("b"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("a.png");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert!(read(&link, 4).unwrap_err().to_string().contains("a pipe or a device"));
    }
}
