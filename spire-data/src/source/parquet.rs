//! Parquet files with a column of encoded pictures and a column of captions, as in Hugging Face's datasets.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::caption::{self, CAPTION_KEYS};
use super::prefetch::Prefetch;
use super::remote;
use super::shards::{Reading, Recent, nothing};
use super::table_file::{TableFile, table_files};
use super::{Names, Pair, Pixels, Sample, SampleError, Skipped, Source, SourceError};
use crate::order::ShardOrder;
use crate::parallel::in_order;
use crate::picture::decode_rgb8;

/// The rows of Parquet files. A row group is decoded when its first row is requested, and cached while its neighbours
/// in the shuffled order need it. In a store, the row groups that come next are fetched ahead.
pub struct ParquetSource {
    groups: Arc<Groups>,
    order: ShardOrder,
    left_out: Vec<Skipped>,
    prefetch: Option<Prefetch>,
}

/// The row groups of all files, and those that are decoded.
struct Groups {
    all: Vec<RowGroup>,
    decoded: Recent<Decoded>,
}

/// The rows of a group, or why there are none.
struct Decoded {
    rows: Result<Rows, String>,
    at: Instant,
}

/// One row group of one file.
struct RowGroup {
    file: Arc<Table>,
    number: usize,
    rows: usize,
    /// The number of its first row in the file.
    first_row: usize,
}

/// A file and the leaf columns to read.
struct Table {
    file: TableFile,
    image: usize,
    caption: usize,
    /// In a source of pairs.
    degraded: Option<usize>,
    /// Of the restoration prompts.
    restoration: Option<usize>,
}

/// The decoded columns of a row group: the non-null values of each row.
struct Rows {
    pictures: Vec<Vec<ByteArray>>,
    captions: Vec<Vec<ByteArray>>,
    degraded: Option<Vec<Vec<ByteArray>>>,
    restorations: Option<Vec<Vec<ByteArray>>>,
}

/// The non-null values of one row.
struct Row {
    picture: Vec<ByteArray>,
    captions: Vec<ByteArray>,
    degraded: Option<Vec<ByteArray>>,
    restoration: Vec<ByteArray>,
}

const IMAGE_COLUMNS: [&str; 5] = ["image", "img", "jpg", "png", "webp"];

/// Limit on the decoded bytes of one row group.
const MOST_BYTES: i64 = 1 << 31;

/// Limit on the rows of one row group; a larger number indicates a damaged file.
const MOST_ROWS: usize = 1 << 24;

/// Number of files in a store whose footers are fetched at a time.
const FOOTERS_AT_ONCE: usize = 16;

/// Number of rows requested from the reader at a time; it allocates memory for them.
const READ_AT_ONCE: usize = 1024;

impl ParquetSource {
    /// Opens the files of a pattern such as `data/train-*.parquet` or `s3://bucket/train-*.parquet`. `names`
    /// has the columns; without one of pictures or captions the usual names are tried. Columns of pictures hold bytes, or a
    /// struct with a field `bytes`; the caption column holds a text or a list of texts.
    ///
    /// A file that can't be read, or lacks the columns, is skipped with a warning.
    ///
    /// # Errors
    /// The pattern lists a file that is not there, no file can be read, or there are no rows.
    pub fn open(pattern: &str, names: &Names, reading: impl Into<Reading>) -> Result<Self, SourceError> {
        let reading = reading.into();
        remote::check_others(&reading)?;
        let Reading { shuffle_buffer, lanes, shards_ahead, .. } = reading;
        let files = table_files(pattern)?;
        let is_remote = files.iter().any(TableFile::is_remote);
        let threads = if is_remote { FOOTERS_AT_ONCE } else { 1 };
        let read = |i: usize| Ok::<_, Infallible>(guarded(|| row_groups(&files[i], names)));
        let read = in_order(files.len(), threads, read).unwrap_or_else(|never| match never {});
        let mut all = vec![];
        let mut left_out = vec![];
        for (file, found) in files.iter().zip(read) {
            match found {
                Ok(found) => all.extend(found),
                Err(reason) => {
                    tracing::warn!(file = %file.path().display(), reason, "skipping a broken file");
                    left_out.push(Skipped { name: file.path().display().to_string(), reason });
                }
            }
        }
        let order = ShardOrder::new(all.iter().map(|group| group.rows), shuffle_buffer).in_lanes(lanes);
        if order.is_empty() {
            return Err(nothing(pattern, files.len(), left_out));
        }
        // The row groups of one shuffle block, and the first of the next; of two blocks if they are fetched ahead.
        let of_block = shuffle_buffer.div_ceil((order.len() / all.len()).max(1)).max(lanes);
        let blocks = if is_remote { 2 } else { 1 };
        let in_use = of_block.saturating_mul(blocks).saturating_add(1 + lanes).min(all.len());
        let groups = Arc::new(Groups { all, decoded: Recent::new(in_use) });
        let decode = Arc::clone(&groups);
        let prefetch = is_remote.then(|| Prefetch::new(shards_ahead, move |number| decode.with(number, |_| ())));
        Ok(Self { groups, order, left_out, prefetch })
    }

    /// Calls `look` with the row group of sample `index` and the position in it.
    fn with_rows<R>(
        &self,
        index: usize,
        look: impl FnOnce(&RowGroup, usize, &Rows) -> Result<R, SampleError>,
    ) -> Result<R, SampleError> {
        let (number, place) = self.order.locate(index);
        let group = &self.groups.all[number];
        self.groups.with(number, |rows| match rows {
            Ok(rows) => look(group, place, rows),
            Err(message) => Err(SampleError::RowGroup {
                path: group.file.file.path().to_owned(),
                group: group.number,
                message: message.clone(),
            }),
        })
    }
}

impl Groups {
    /// Calls `look` with the rows of a group, which are decoded if they are not there.
    fn with<R>(&self, number: usize, look: impl FnOnce(&Result<Rows, String>) -> R) -> R {
        let group = &self.all[number];
        let decode = || Decoded { rows: guarded(|| group.decode()), at: Instant::now() };
        let (looked, may_pass) = self.decoded.with(number, decode, |Decoded { rows, at }| {
            (look(rows), rows.is_err() && group.file.file.is_remote() && at.elapsed() > remote::ASKED_AGAIN)
        });
        if may_pass {
            self.decoded.forget(number);
        }
        looked
    }
}

/// The row groups of a file, from its footer.
fn row_groups(table: &TableFile, names: &Names) -> Result<Vec<RowGroup>, String> {
    let (table, reader) = table.open()?;
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let optional =
        |what: &str, name: &Option<String>| name.as_deref().map(|name| find(schema, what, Some(name), &[])).transpose();
    let file = Arc::new(Table {
        file: table,
        image: find(schema, "pictures (data.source.image)", names.image.as_deref(), &IMAGE_COLUMNS)?,
        caption: find(schema, "captions (data.source.caption)", names.caption.as_deref(), &CAPTION_KEYS)?,
        degraded: optional("degraded pictures (data.source.degraded)", &names.degraded)?,
        restoration: optional("restoration prompts (data.source.restoration)", &names.restoration)?,
    });
    let columns = [Some(file.image), Some(file.caption), file.degraded, file.restoration];
    let mut first_row = 0;
    let mut groups = vec![];
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let bytes: i64 = columns.iter().flatten().map(|&column| group.column(column).uncompressed_size()).sum();
        let rows = usize::try_from(group.num_rows()).ok().filter(|&rows| rows <= MOST_ROWS);
        let rows =
            rows.ok_or_else(|| format!("row group {number} has {} rows; the most are {MOST_ROWS}", group.num_rows()))?;
        if bytes > MOST_BYTES {
            return Err(format!(
                "row group {number} holds {rows} rows in {bytes} bytes; the most are {MOST_BYTES}: write the file with smaller row groups"
            ));
        }
        groups.push(RowGroup { file: Arc::clone(&file), number, rows, first_row });
        first_row += rows;
    }
    Ok(groups)
}

/// Calls `read` and turns panics into errors: the reader panics on some damaged files.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("it is damaged".to_owned()))
}

/// Finds the leaf column of bytes called `wanted` or, if that is `None`, by the usual names. A field `bytes` of a
/// struct counts under the struct's name, the elements of a list under the list's.
fn find(schema: &SchemaDescriptor, what: &str, wanted: Option<&str>, usual: &[&str]) -> Result<usize, String> {
    let names = wanted.map_or(usual.to_vec(), |name| vec![name]);
    let fits = |column: &ColumnDescriptor, name: &str| {
        let path = column.path().parts();
        let bytes = column.physical_type() == parquet::basic::Type::BYTE_ARRAY;
        let of_struct = path.len() == 2 && path[1] == "bytes";
        bytes && path[0] == name && (path.len() == 1 || of_struct || column.max_rep_level() == 1)
    };
    let found = names.iter().find_map(|name| schema.columns().iter().position(|column| fits(column, name)));
    found.ok_or_else(|| {
        let there: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        format!("no column of {what} called {}: there are {}", names.join(" or "), there.join(", "))
    })
}

impl RowGroup {
    fn decode(&self) -> Result<Rows, String> {
        let Table { image, caption, degraded, restoration, .. } = *self.file;
        let columns: Vec<usize> = [Some(image), Some(caption), degraded, restoration].into_iter().flatten().collect();
        let reader = self.file.file.group(self.number, &columns)?;
        self.rows(&*reader).map_err(|error| error.to_string())
    }

    fn rows(&self, reader: &dyn FileReader) -> Result<Rows, ParquetError> {
        let group = reader.get_row_group(self.number)?;
        let column = |number: usize| {
            let descriptor = reader.metadata().file_metadata().schema_descr().column(number);
            let mut column = get_typed_column_reader::<ByteArrayType>(group.get_column_reader(number)?);
            let (mut values, mut definitions, mut repetitions) = (vec![], vec![], vec![]);
            let mut left = self.rows;
            while left > 0 {
                let most = left.min(READ_AT_ONCE);
                let (rows, ..) =
                    column.read_records(most, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
                if rows == 0 {
                    break;
                }
                left -= rows;
            }
            Ok::<_, ParquetError>(by_row(values, &definitions, &repetitions, descriptor.max_def_level()))
        };
        Ok(Rows {
            pictures: column(self.file.image)?,
            captions: column(self.file.caption)?,
            degraded: self.file.degraded.map(column).transpose()?,
            restorations: self.file.restoration.map(column).transpose()?,
        })
    }
}

/// Groups a column's values by row, from the definition and repetition levels. There is a level for every value or
/// null. Repetition level 0 starts a row; a value exists where the definition level is the maximum. Without levels
/// every row has exactly one value.
fn by_row(
    values: Vec<ByteArray>,
    definitions: &[i16],
    repetitions: &[i16],
    max_definition: i16,
) -> Vec<Vec<ByteArray>> {
    let levels = definitions.len().max(repetitions.len()).max(values.len());
    let mut sorted: Vec<Vec<ByteArray>> = vec![];
    let mut values = values.into_iter();
    for i in 0..levels {
        if repetitions.get(i).is_none_or(|&level| level == 0) {
            sorted.push(vec![]);
        }
        if definitions.get(i).is_none_or(|&level| level == max_definition)
            && let (Some(row), Some(value)) = (sorted.last_mut(), values.next())
        {
            row.push(value);
        }
    }
    sorted
}

impl Source for ParquetSource {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn name(&self, index: usize) -> String {
        let (group, place) = self.order.locate(index);
        let RowGroup { file, first_row, .. } = &self.groups.all[group];
        format!("{}/{}", file.file.path().display(), first_row + place)
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        let name = self.name(index);
        let path = Path::new(&name);
        let Row { picture, captions, degraded, restoration } = self.with_rows(index, |group, place, rows| {
            let missing = || SampleError::RowGroup {
                path: group.file.file.path().to_owned(),
                group: group.number,
                message: format!("it has no row {place}, though the file's footer says so"),
            };
            let of = |column: &Vec<Vec<ByteArray>>| column.get(place).cloned().ok_or_else(missing);
            Ok(Row {
                picture: of(&rows.pictures)?,
                captions: of(&rows.captions)?,
                degraded: rows.degraded.as_ref().map(of).transpose()?,
                restoration: rows.restorations.as_ref().map(of).transpose()?.unwrap_or_default(),
            })
        })?;
        let texts = |texts: &[ByteArray]| -> Result<Vec<String>, SampleError> {
            caption::check_length(texts.iter().map(ByteArray::len).sum(), path)?;
            texts
                .iter()
                .map(|text| caption::from_text(text.data(), &name, path))
                .filter(|text| !matches!(text, Err(SampleError::NoCaption { .. })))
                .collect()
        };
        let picture_in = |bytes: &[ByteArray], wanted: &str| {
            let none = || SampleError::NoPicture { path: path.to_owned(), wanted: wanted.to_owned() };
            Ok::<_, SampleError>(Pixels::Bytes(decode_rgb8(bytes.first().ok_or_else(none)?.data(), path)?))
        };
        let captions = texts(&captions)?;
        if captions.is_empty() {
            return Err(caption::missing(&name, path));
        }
        let picture = picture_in(&picture, "the row has no bytes")?;
        let pair = match degraded {
            Some(degraded) => {
                let degraded = picture_in(&degraded, "the row has no bytes of the degraded picture")?;
                let prompt = texts(&restoration)?.into_iter().next();
                Some(Pair::new(&name, picture.size(), degraded, prompt)?)
            }
            None => None,
        };
        Ok(Sample { name, picture, captions, pair })
    }

    fn nth(&self, seed: u64, n: u64) -> usize {
        if let Some(prefetch) = &self.prefetch {
            prefetch.prepare(&self.order, seed, n);
        }
        self.order.nth(seed, n)
    }

    fn lanes(&self) -> u64 {
        self.order.lanes()
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.left_out.clone()
    }
}
