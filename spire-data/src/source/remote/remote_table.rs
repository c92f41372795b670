//! A Parquet file in a store, of which the footer and the columns in use are fetched.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};

use super::Objects;
use super::objects::Identity;
use crate::source::SourceError;
use crate::source::table_file::{Bounded, not_there};

/// A Parquet file in a store.
#[derive(Clone)]
pub(in crate::source) struct RemoteTable {
    objects: Arc<Objects>,
    address: String,
    /// Of an opened file.
    footer: Option<Footer>,
}

/// What is known of an opened file.
#[derive(Clone)]
struct Footer {
    identity: Identity,
    end: Piece,
}

/// A part of a file, and where it begins.
#[derive(Clone)]
struct Piece {
    start: u64,
    bytes: Bytes,
}

/// The part at the end that is fetched first: most footers fit into it.
const END: u64 = 1 << 16;

/// The most bytes of a footer.
const MOST_FOOTER: u64 = 1 << 28;

/// The most bytes of the fetched columns of a row group.
const MOST_COLUMNS: u64 = 1 << 31;

/// The bytes at the end that say how long the footer is.
const TAIL: u64 = 8;

/// The files of a pattern of addresses.
pub(in crate::source) fn tables(pattern: &str) -> Result<Vec<RemoteTable>, SourceError> {
    let objects = Arc::new(Objects::default());
    let addresses = objects.expand(pattern)?;
    Ok(addresses
        .into_iter()
        .map(|address| RemoteTable { objects: Arc::clone(&objects), address, footer: None })
        .collect())
}

impl RemoteTable {
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Fetches the footer.
    pub fn open(&self) -> Result<(Self, Box<dyn FileReader>), String> {
        let identity = self.objects.identity(&self.address)?;
        let bytes = identity.size;
        let fetch = |range: Range<u64>| {
            let start = range.start;
            let fetched = self.objects.ranges(&self.address, std::slice::from_ref(&range), &identity)?;
            fetched.into_iter().next().map(|bytes| Piece { start, bytes }).ok_or_else(|| "no answer".to_owned())
        };
        let mut end = fetch(bytes.saturating_sub(END)..bytes)?;
        let tail = end.bytes.len().saturating_sub(TAIL as usize);
        let footer = end.bytes.slice(tail..).try_get_u32_le().map_or(0, u64::from).saturating_add(TAIL);
        if footer > MOST_FOOTER.min(bytes) {
            return Err(format!("a footer of {footer} bytes in a file of {bytes} is damaged, or no Parquet file"));
        }
        if footer > END {
            end = fetch(bytes - footer..bytes)?;
        }
        let reader = reader(bytes, vec![end.clone()])?;
        Ok((Self { footer: Some(Footer { identity, end }), ..self.clone() }, reader))
    }

    /// Fetches these columns of a row group.
    pub fn group(&self, number: usize, columns: &[usize]) -> Result<Box<dyn FileReader>, String> {
        let Some(Footer { identity, end }) = &self.footer else { return Err("it is not open".to_owned()) };
        let bytes = identity.size;
        let footer = reader(bytes, vec![end.clone()])?;
        let group = footer.metadata().row_group(number);
        let range = |&column: &usize| {
            let (start, length) = group.column(column).byte_range();
            start..start.saturating_add(length).min(bytes).max(start)
        };
        let ranges: Vec<Range<u64>> = columns.iter().map(range).collect();
        let total = ranges.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
        if total > MOST_COLUMNS {
            return Err(format!("its columns have {total} bytes; the most are {MOST_COLUMNS}"));
        }
        let fetched = self.objects.ranges(&self.address, &ranges, identity)?;
        let pieces = ranges.iter().zip(fetched).map(|(range, bytes)| Piece { start: range.start, bytes });
        reader(bytes, pieces.chain([end.clone()]).collect())
    }
}

fn reader(bytes: u64, pieces: Vec<Piece>) -> Result<Box<dyn FileReader>, String> {
    let reader = SerializedFileReader::new(Pieces { bytes, pieces });
    reader.map(|reader| Box::new(reader) as _).map_err(|error| error.to_string())
}

/// A file of which some parts are here.
struct Pieces {
    bytes: u64,
    pieces: Vec<Piece>,
}

impl Pieces {
    /// What is here from byte `start` on.
    fn from(&self, start: u64) -> Option<Bytes> {
        let holds = |piece: &&Piece| (piece.start..piece.start + piece.bytes.len() as u64).contains(&start);
        let piece = self.pieces.iter().find(holds)?;
        Some(piece.bytes.slice((start - piece.start) as usize..))
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Pieces {
    type T = Bounded<Cursor<Bytes>>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(Bounded(Cursor::new(self.from(start).ok_or_else(|| not_there(start, 1))?)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let found = self.from(start).filter(|bytes| bytes.len() >= length);
        found.map(|bytes| bytes.slice(..length)).ok_or_else(|| not_there(start, length))
    }
}
