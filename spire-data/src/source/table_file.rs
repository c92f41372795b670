//! A Parquet file on a disk or in a store.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};

use super::SourceError;
use super::remote;
use super::shards::expand;

/// A file that may be opened.
#[derive(Clone)]
pub(super) enum TableFile {
    Local(PathBuf),
    #[cfg(feature = "object-store")]
    Remote(remote::RemoteTable),
}

/// The files of a pattern.
pub(super) fn table_files(pattern: &str) -> Result<Vec<TableFile>, SourceError> {
    match remote::is_address(pattern) {
        #[cfg(feature = "object-store")]
        true => Ok(remote::tables(pattern)?.into_iter().map(TableFile::Remote).collect()),
        #[cfg(not(feature = "object-store"))]
        true => Err(SourceError::NoStores { pattern: pattern.to_owned() }),
        false => Ok(expand(pattern)?.into_iter().map(TableFile::Local).collect()),
    }
}

impl TableFile {
    /// Its path or address.
    pub fn path(&self) -> &Path {
        match self {
            Self::Local(path) => path,
            #[cfg(feature = "object-store")]
            Self::Remote(table) => Path::new(table.address()),
        }
    }

    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Local(_))
    }

    /// Reads the footer. The file that comes with it knows the footer.
    pub fn open(&self) -> Result<(Self, Box<dyn FileReader>), String> {
        match self {
            Self::Local(path) => Ok((self.clone(), local(path)?)),
            #[cfg(feature = "object-store")]
            Self::Remote(table) => table.open().map(|(table, reader)| (Self::Remote(table), reader)),
        }
    }

    /// A reader of these columns of a row group.
    #[cfg_attr(not(feature = "object-store"), expect(unused_variables, reason = "a file has all of them"))]
    pub fn group(&self, number: usize, columns: &[usize]) -> Result<Box<dyn FileReader>, String> {
        match self {
            Self::Local(path) => local(path),
            #[cfg(feature = "object-store")]
            Self::Remote(table) => table.group(number, columns),
        }
    }
}

fn local(path: &Path) -> Result<Box<dyn FileReader>, String> {
    let open = || SerializedFileReader::new(LocalFile(File::open(path)?));
    open().map(|reader| Box::new(reader) as _).map_err(|error: ParquetError| error.to_string())
}

/// A file on a disk.
struct LocalFile(File);

impl Length for LocalFile {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for LocalFile {
    type T = BufReader<Bounded<File>>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut file = self.0.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(Bounded(file)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(not_there(start, length));
        }
        self.0.get_bytes(start, length)
    }
}

pub(super) fn not_there(start: u64, length: usize) -> ParquetError {
    ParquetError::EOF(format!("{length} bytes from byte {start} on are not in the file"))
}

/// Fails on reads past the end: on damaged headers the reader of Parquet would otherwise loop forever.
pub(super) struct Bounded<R>(pub R);

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}
