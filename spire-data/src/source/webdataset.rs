//! WebDataset: tar files whose members `000001.jpg` and `000001.txt` (or `.json`) form a sample.

use std::path::PathBuf;

use super::local_shards::LocalShards;
use super::remote;
use super::shards::{Reading, nothing};
use super::tar_index::{Extensions, Member};
use super::tar_shards::{Found, TarShards};
use super::{Names, Pair, Pixels, Sample, SampleError, Skipped, Source, SourceError, caption};
use crate::order::ShardOrder;
use crate::picture::decode_rgb8;

/// The samples of tar shards, in files or in a store. Each sample is read on demand, without unpacking.
///
/// A sample is a group of consecutive files with the same name up to the first dot: a picture, and a caption in `.txt`
/// or otherwise `.json`.
pub struct WebDatasetSource {
    shards: Box<dyn TarShards>,
    names: Names,
    order: ShardOrder,
    left_out: Vec<Skipped>,
}

/// Limit on the bytes of a picture in a shard.
const MOST_BYTES: u64 = 1 << 28;

/// Limit on the bytes of a caption's file in a shard; JSON holds more than the caption.
const MOST_TEXT_BYTES: u64 = 1 << 22;

impl WebDatasetSource {
    /// Opens the shards of a pattern such as `train/{000000..000999}.tar`, `train/*.tar` or `s3://bucket/{000..099}.tar`.
    /// `names` has the extensions of the pictures, and the keys of captions and restoration prompts in JSON.
    ///
    /// A file that can't be read at all is skipped with a warning.
    ///
    /// # Errors
    /// The pattern lists a file that is not there, or no shard can be read, or there are no samples; or the shards are in a
    /// store that does not answer, or that this build can't read.
    pub fn open(pattern: &str, names: &Names, reading: impl Into<Reading>) -> Result<Self, SourceError> {
        let reading = reading.into();
        let extensions = Extensions { image: names.image.clone(), degraded: names.degraded.clone() };
        let shards: Box<dyn TarShards> = match remote::is_address(pattern) {
            true => remote::open_tar(pattern, extensions, &reading)?,
            false => {
                remote::check_others(&reading)?;
                Box::new(LocalShards::open(pattern, extensions)?)
            }
        };
        let (lens, left_out) = (shards.lens(), shards.left_out());
        let order = ShardOrder::new(lens.iter().copied(), reading.shuffle_buffer).in_lanes(reading.lanes);
        if order.is_empty() {
            return Err(nothing(pattern, lens.len(), left_out));
        }
        Ok(Self { shards, names: names.clone(), order, left_out })
    }
}

impl Source for WebDatasetSource {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn name(&self, index: usize) -> String {
        let (shard, place) = self.order.locate(index);
        self.shards.name(shard, place)
    }

    fn group(&self, index: usize) -> String {
        let (shard, place) = self.order.locate(index);
        self.shards.group(shard, place)
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        let (shard, place) = self.order.locate(index);
        let Found { name, path, entry, bytes } = self.shards.find(shard, place)?;
        let read = |member: &Member, most: u64| {
            let path = PathBuf::from(format!("{}/{}.{}", path.display(), entry.key, member.extension));
            if member.bytes > most {
                return Err(SampleError::TooLarge { path, bytes: member.bytes, most });
            }
            let source = bytes.read_at(member.offset, member.bytes);
            let bytes = source.map_err(|source| SampleError::Io { path: path.clone(), source })?;
            match (bytes.len() as u64) < member.bytes {
                true => Err(SampleError::CutShort { path, end: member.offset + member.bytes }),
                false => Ok((bytes, path)),
            }
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
            None => Err(caption::missing(&name, &path)),
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
        self.shards.prepare(&self.order, seed, n);
        self.order.nth(seed, n)
    }

    fn lanes(&self) -> u64 {
        self.order.lanes()
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.left_out.clone()
    }
}
