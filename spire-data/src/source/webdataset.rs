//! WebDataset: tar files whose members `000001.jpg` and `000001.txt` (or `.json`) form a sample.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::shards::{Recent, expand, nothing};
use super::tar_index::{Entry, Extensions, Member, TarIndex};
use super::{Names, Pair, Pixels, Sample, SampleError, Skipped, Source, SourceError, caption};
use crate::order::ShardOrder;
use crate::parallel::{self, in_order};
use crate::picture::decode_rgb8;

/// The samples of tar shards. The headers are read once and cached (in the user's cache folder, `spire/shards`); each
/// sample is read on demand, without unpacking.
///
/// A sample is a group of consecutive files with the same name up to the first dot: a picture, and a caption in `.txt`
/// or otherwise `.json`.
pub struct WebDatasetSource {
    shards: Vec<PathBuf>,
    names: Names,
    order: ShardOrder,
    left_out: Vec<Skipped>,
    indices: Recent<Result<TarIndex, (io::ErrorKind, String)>>,
}

/// Number of shards whose index is held in memory: about a megabyte per 10,000 samples.
const INDICES: usize = 16;

/// Limit on the bytes of a picture in a shard.
const MOST_BYTES: u64 = 1 << 28;

/// Limit on the bytes of a caption's file in a shard; JSON holds more than the caption.
const MOST_TEXT_BYTES: u64 = 1 << 22;

impl WebDatasetSource {
    /// Opens the shards of a pattern such as `train/{000000..000999}.tar` or `train/*.tar`, shuffled within
    /// `shuffle_buffer` samples. `names` has the extensions of the pictures, and the keys of captions and restoration prompts
    /// in JSON.
    ///
    /// A shard that can't be read at all is skipped with a warning.
    ///
    /// # Errors
    /// The pattern lists a file that is not there, or no shard can be read, or there are no samples.
    pub fn open(pattern: &str, names: &Names, shuffle_buffer: usize) -> Result<Self, SourceError> {
        let extensions = extensions(names);
        let shards = expand(pattern)?;
        let mut lens = vec![];
        let mut left_out = vec![];
        let scanned = in_order(shards.len(), parallel::available(), |i| {
            let index = TarIndex::load(&shards[i], &extensions);
            let counted = index.map(|index| (index.samples.len(), index.damage));
            Ok::<_, Infallible>(counted.unwrap_or_else(|error| (0, Some(error.to_string()))))
        });
        for (shard, (len, damage)) in shards.iter().zip(scanned.unwrap_or_else(|never| match never {})) {
            lens.push(len);
            if let Some(damage) = damage {
                let reason = format!("after {len} samples: {damage}");
                tracing::warn!(shard = %shard.display(), reason, "skipping the rest of a broken shard");
                left_out.push(Skipped { name: shard.display().to_string(), reason });
            }
        }
        let order = ShardOrder::new(lens, shuffle_buffer);
        if order.is_empty() {
            return Err(nothing(pattern, shards.len(), left_out));
        }
        Ok(Self { shards, names: names.clone(), order, left_out, indices: Recent::new(INDICES) })
    }

    fn with_entry<R>(&self, index: usize, look: impl FnOnce(&Path, &Entry) -> R) -> Result<R, SampleError> {
        let (shard, place) = self.order.locate(index);
        let path = &self.shards[shard];
        let load = || TarIndex::load(path, &extensions(&self.names)).map_err(|error| (error.kind(), error.to_string()));
        let found = self.indices.with(shard, load, |loaded| match loaded {
            Ok(loaded) => match loaded.samples.get(place) {
                Some(entry) => Ok(look(path, entry)),
                // The file has become shorter since it was indexed.
                None => Err(SampleError::CutShort { path: path.clone(), end: 0 }),
            },
            Err((kind, message)) => {
                Err(SampleError::Io { path: path.clone(), source: io::Error::new(*kind, message.clone()) })
            }
        });
        if matches!(found, Err(SampleError::Io { .. })) {
            // The disk may be available again for the next sample.
            self.indices.forget(shard);
        }
        found
    }
}

impl Source for WebDatasetSource {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn name(&self, index: usize) -> String {
        let (shard, _) = self.order.locate(index);
        let named = self.with_entry(index, name_of);
        named.unwrap_or_else(|_| self.shards[shard].display().to_string())
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        let (shard, entry) = self.with_entry(index, |path, entry| (path.to_owned(), entry.clone()))?;
        let name = name_of(&shard, &entry);
        let read = |member: &Member, most: u64| {
            let path = PathBuf::from(format!("{name}.{}", member.extension));
            read_member(&shard, member, &path, most).map(|bytes| (bytes, path))
        };
        let picture_of = |member: &Option<Member>, extension: &Option<String>| {
            let Some(member) = member else {
                let any = "no file with a picture's extension".to_owned();
                let wanted = extension.as_ref().map_or(any, |extension| format!("no .{extension}"));
                return Err(SampleError::NoPicture { path: name.clone().into(), wanted });
            };
            let (bytes, path) = read(member, MOST_BYTES)?;
            Ok(Pixels::Bytes(decode_rgb8(&bytes, &path)?))
        };
        let json = |key: Option<&str>| match &entry.json {
            Some(json) => {
                let (bytes, path) = read(json, MOST_TEXT_BYTES)?;
                caption::from_json(&bytes, key, &name, &path)
            }
            None => Err(caption::missing(&name, &shard)),
        };
        let captions = match &entry.text {
            Some(text) => {
                let (bytes, path) = read(text, MOST_TEXT_BYTES)?;
                vec![caption::from_text(&bytes, &name, &path)?]
            }
            None => json(self.names.caption.as_deref())?,
        };
        let picture = picture_of(&entry.picture, &self.names.image)?;
        let pair = match &self.names.degraded {
            Some(_) => {
                let degraded = picture_of(&entry.degraded, &self.names.degraded)?;
                let prompts = match self.names.restoration.as_deref().map(|key| json(Some(key))) {
                    Some(Err(error)) if !error.is_missing_caption() => return Err(error),
                    // A sample without a prompt has that of blind restoration.
                    prompts => prompts.and_then(Result::ok).unwrap_or_default(),
                };
                Some(Pair::new(&name, picture.size(), degraded, prompts.into_iter().next())?)
            }
            None => None,
        };
        Ok(Sample { picture, name, captions, pair })
    }

    fn nth(&self, seed: u64, n: u64) -> usize {
        self.order.nth(seed, n)
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.left_out.clone()
    }
}

fn extensions(names: &Names) -> Extensions {
    Extensions { image: names.image.clone(), degraded: names.degraded.clone() }
}

fn name_of(shard: &Path, entry: &Entry) -> String {
    format!("{}/{}", shard.display(), entry.key)
}

fn read_member(shard: &Path, member: &Member, path: &Path, most: u64) -> Result<Vec<u8>, SampleError> {
    let io = |source| SampleError::Io { path: shard.to_owned(), source };
    if member.bytes > most {
        return Err(SampleError::TooLarge { path: path.to_owned(), bytes: member.bytes, most });
    }
    let mut file = File::open(shard).map_err(io)?;
    file.seek(SeekFrom::Start(member.offset)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(member.bytes).read_to_end(&mut bytes).map_err(io)?;
    if (bytes.len() as u64) < member.bytes {
        return Err(SampleError::CutShort { path: path.to_owned(), end: member.offset + member.bytes });
    }
    Ok(bytes)
}
