//! Sources of clean pictures and captions: the illustrated world, a folder, MS-COCO, WebDataset or Parquet shards, or a
//! mixture of them. Folders and shards may hold pairs: clean pictures with the degraded ones that belong to them.

mod caption;
mod coco;
mod error;
mod folder;
mod held_out;
mod local_shards;
mod metadata;
mod mixture;
mod pair;
mod pairing;
mod parquet;
mod pixels;
mod prefetch;
mod remote;
mod shards;
mod sizes;
mod subset;
mod table_file;
mod tar_index;
mod tar_shards;
mod webdataset;
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use caption::caption_of;
pub(crate) use caption::tidy;
pub use coco::CocoSource;
pub use error::{SampleError, SourceError};
pub use folder::{FolderSource, list_pictures};
pub(crate) use held_out::{HeldOut, HeldOutSource, Kept};
pub use mixture::MixtureSource;
pub use pair::Pair;
pub use parquet::ParquetSource;
pub use pixels::Pixels;
pub use shards::Reading;
pub(crate) use subset::Subset;
pub use webdataset::WebDatasetSource;
pub use world::WorldSource;

use crate::order::permuted;

/// A clean picture with its captions.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name: a path relative to the source's folder, or `world/{index}`.
    pub name: String,
    /// The picture at its original size.
    pub picture: Pixels,
    /// One caption or several alternatives; empty only if the source accepts pictures without captions.
    pub captions: Vec<String>,
    /// In a source of pairs, the degraded picture.
    pub pair: Option<Pair>,
}

/// A sample or shard that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The name of the sample or shard.
    pub name: String,
    /// The cause.
    pub reason: String,
}

/// A fixed sequence of captioned pictures that can be read in any order, from any thread.
pub trait Source: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of different samples that a pass visits; all, unless some are held out.
    fn pass_len(&self) -> usize {
        self.len()
    }

    /// The name of sample `index`, without reading it.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    fn name(&self, index: usize) -> String;

    /// What is held out from training together with sample `index`: the sample itself, by its name. Where samples are cheap to
    /// read only with their neighbours, it is the name of their shard.
    fn group(&self, index: usize) -> String {
        self.name(index)
    }

    /// Sample `index`; the same one at every call.
    ///
    /// # Errors
    /// This sample is broken.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    fn read(&self, index: usize) -> Result<Sample, SampleError>;

    /// The index of the n-th sample in the endless shuffled sequence of `seed`. Every pass visits every sample once,
    /// except in a mixture, where weights decide.
    ///
    /// # Panics
    /// If there are no samples.
    fn nth(&self, seed: u64, n: u64) -> usize {
        let len = self.len() as u64;
        permuted(seed, "order", n / len, n % len, len) as usize
    }

    /// Samples of the sequence whose numbers differ by a multiple of this are near each other in the source; see
    /// [`ShardOrder`](crate::order::ShardOrder).
    fn lanes(&self) -> u64 {
        1
    }

    /// What was skipped when the source was opened; it is not counted as samples.
    fn left_out(&self) -> Vec<Skipped> {
        Vec::new()
    }
}

/// The kinds of [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Scenes that the program draws.
    #[default]
    World,
    /// A folder of pictures with `.txt` captions beside them, or a `metadata.jsonl`.
    Folder,
    /// MS-COCO: a folder of pictures and a `captions_*.json`.
    Coco,
    /// WebDataset: tar files of pictures with `.txt` or `.json` captions beside them.
    Webdataset,
    /// Parquet files with a column of pictures and a column of captions, as in Hugging Face's datasets.
    Parquet,
    /// A weighted mixture of sources.
    Mixture,
}

/// The `[data.source]` section. It is one flat table, not one per kind, so that `kind` can be changed from the command
/// line and errors can name each key's line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// Which source.
    pub kind: SourceKind,
    /// `world`: which scenes are drawn.
    pub seed: u64,
    /// `world`: how many scenes there are.
    pub count: usize,
    /// `world`: clean scenes are out of focus by up to so many pixels.
    pub soft: f32,
    /// `folder`: the folder; subfolders are searched too.
    pub path: Option<PathBuf>,
    /// `folder`: the folder of the captions, `a/b.txt` for `a/b.png`; if not set, they are beside the pictures.
    pub captions: Option<PathBuf>,
    /// `folder`: whether pictures without a caption are accepted, with an empty one.
    pub uncaptioned: bool,
    /// `coco`: the folder that the annotations' file names are relative to.
    pub images: Option<PathBuf>,
    /// `coco`: the `captions_*.json`.
    pub annotations: Option<PathBuf>,
    /// `webdataset`, `parquet`: the files, as in `shards/{000000..000999}.tar` or `data/train-*.parquet`; or objects in a
    /// store, `s3://`, `gs://`, `az://`, or on a web server, `https://`.
    pub shards: Option<String>,
    /// `webdataset`, `parquet`: the size of the shuffle buffer in samples; the order of the shards is shuffled as well.
    /// For Parquet, row groups of that many samples are held in memory.
    pub shuffle_buffer: usize,
    /// `webdataset`, `parquet`: a pass is cut into so many parts, which are read side by side. Each rank of a distributed run
    /// reads the shards of its own lanes if the number of ranks divides that of the lanes.
    pub lanes: usize,
    /// Shards in a store: how many shards, or row groups, are fetched ahead, of each lane.
    pub shards_ahead: usize,
    /// Tar shards in a store: how many samples each has, if no `sizes.json` lies beside them; if not set, as many as the first.
    pub samples_per_shard: Option<usize>,
    /// Shards in a store: the size of the cache in the user's cache folder, in megabytes; if not set, shards are kept only while
    /// they are read.
    pub cache_megabytes: Option<u64>,
    /// The key of the caption in JSON, or the column in Parquet; if not set, the first that exists of `caption`,
    /// `text`, `captions`, `txt` and `prompt`.
    pub caption: Option<String>,
    /// `parquet`: the column of the pictures; if not set, `image`, `img`, `jpg`, `png` or `webp`. `webdataset`: the
    /// extension of the pictures, for samples with several.
    pub image: Option<String>,
    /// A source of pairs: where the degraded pictures are. `folder`: their folder, with the names of the clean ones;
    /// `webdataset`: their extension; `parquet`: their column (diffusers' `conditioning_image_column`).
    pub degraded: Option<String>,
    /// A source of pairs: the restoration prompts. `folder`: a file with a line of JSON a picture, `file_name` and
    /// `restoration`; `webdataset`: the key in JSON; `parquet`: the column. Without one, or where a picture has none, it is
    /// "Remove all degradation".
    pub restoration: Option<String>,
    /// `mixture`: the sources.
    pub sources: Vec<SourceConfig>,
    /// In a mixture: the source's weight relative to the others, with a resolution of one thousandth.
    pub weight: f64,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            kind: SourceKind::World,
            seed: 1,
            count: 20_000,
            soft: 0.0,
            path: None,
            captions: None,
            uncaptioned: false,
            images: None,
            annotations: None,
            shards: None,
            shuffle_buffer: 1000,
            lanes: 1,
            shards_ahead: 2,
            samples_per_shard: None,
            cache_megabytes: None,
            caption: None,
            image: None,
            degraded: None,
            restoration: None,
            sources: Vec::new(),
            weight: 1.0,
        }
    }
}

impl SourceConfig {
    /// Whether shards are in a store or on a web server.
    pub fn is_remote(&self) -> bool {
        let shards = |shards: &String| remote::is_address(shards);
        self.shards.as_ref().is_some_and(shards) || self.sources.iter().any(Self::is_remote)
    }

    /// Whether every picture comes with its degraded one.
    pub fn is_paired(&self) -> bool {
        match self.kind {
            SourceKind::Mixture => self.sources.iter().all(Self::is_paired),
            _ => self.degraded.is_some(),
        }
    }
}

/// Opens the source of `config`. The illustrated world's pictures are `size` × `size`; others keep their size.
///
/// # Errors
/// A setting is missing, a folder or file is not there or malformed, or there are no pictures.
pub fn open(config: &SourceConfig, size: usize) -> Result<Arc<dyn Source>, SourceError> {
    fn needed<T: Clone>(
        value: &Option<T>,
        key: &'static str,
        kind: &'static str,
        what: &'static str,
    ) -> Result<T, SourceError> {
        value.clone().ok_or(SourceError::Unset { key, kind, what })
    }
    check_pairs(config)?;
    let caption = config.caption.as_deref();
    Ok(match config.kind {
        SourceKind::World => {
            check_unread(config)?;
            Arc::new(WorldSource::new(size, config.count, config.seed)?.soft(config.soft)?)
        }
        SourceKind::Folder => {
            let path = needed(&config.path, "path", "folder", "a folder of pictures with captions")?;
            let source = FolderSource::open(path, caption)?.captions_in(config.captions.as_deref())?;
            let source = source.uncaptioned(config.uncaptioned);
            Arc::new(match &config.degraded {
                Some(folder) => source.paired(Path::new(folder), config.restoration.as_deref().map(Path::new))?,
                None => source,
            })
        }
        SourceKind::Coco => {
            let images = needed(&config.images, "images", "coco", "the folder of the pictures")?;
            let annotations = needed(&config.annotations, "annotations", "coco", "a captions_*.json")?;
            Arc::new(CocoSource::open(images, annotations)?)
        }
        SourceKind::Webdataset => {
            let shards = needed(&config.shards, "shards", "webdataset", "tar files, as in shards/{0000..0099}.tar")?;
            Arc::new(WebDatasetSource::open(&shards, &Names::of(config), Reading::of(config))?)
        }
        SourceKind::Parquet => {
            let shards = needed(&config.shards, "shards", "parquet", "files, as in data/train-*.parquet")?;
            Arc::new(ParquetSource::open(&shards, &Names::of(config), Reading::of(config))?)
        }
        SourceKind::Mixture => Arc::new(MixtureSource::open(&config.sources, size)?),
    })
}

/// The names of a sample's parts in shards: members of a tar file or keys of their JSON, columns of a table.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Of the pictures.
    pub image: Option<String>,
    /// Of the captions.
    pub caption: Option<String>,
    /// Of the degraded pictures, in a source of pairs.
    pub degraded: Option<String>,
    /// Of the restoration prompts, in a source of pairs.
    pub restoration: Option<String>,
}

impl Names {
    fn of(config: &SourceConfig) -> Self {
        let SourceConfig { image, caption, degraded, restoration, .. } = config.clone();
        Self { image, caption, degraded, restoration }
    }
}

/// Checks that the keys of pairs are set where they are read.
fn check_pairs(config: &SourceConfig) -> Result<(), SourceError> {
    let kind = match config.kind {
        SourceKind::World => Some("world"),
        SourceKind::Coco => Some("coco"),
        SourceKind::Mixture => Some("mixture"),
        SourceKind::Folder | SourceKind::Webdataset | SourceKind::Parquet => None,
    };
    if let (Some(kind), true) = (kind, config.degraded.is_some()) {
        return Err(SourceError::NoPairs { kind });
    }
    match config.restoration.is_some() && config.degraded.is_none() {
        true => Err(SourceError::PromptsWithoutPairs),
        false => Ok(()),
    }
}

/// Checks that no key names data which the illustrated world would silently replace.
fn check_unread(config: &SourceConfig) -> Result<(), SourceError> {
    let set = [
        ("path", "folder", config.path.is_some()),
        ("images", "coco", config.images.is_some()),
        ("annotations", "coco", config.annotations.is_some()),
        ("shards", "webdataset", config.shards.is_some()),
        ("sources", "mixture", !config.sources.is_empty()),
    ];
    match set.into_iter().find(|(.., is_set)| *is_set) {
        Some((key, kind, _)) => Err(SourceError::Unread { key, kind }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(config: &SourceConfig) -> String {
        open(config, 16).err().expect("should not open").to_string()
    }

    #[test]
    fn the_error_names_a_missing_setting() {
        let folder = SourceConfig { kind: SourceKind::Folder, ..Default::default() };
        assert!(message(&folder).contains("data.source.path"), "{}", message(&folder));
        let coco = SourceConfig { kind: SourceKind::Coco, images: Some("x".into()), ..Default::default() };
        assert!(message(&coco).contains("data.source.annotations"), "{}", message(&coco));
        for kind in [SourceKind::Webdataset, SourceKind::Parquet] {
            let shards = SourceConfig { kind, ..Default::default() };
            assert!(message(&shards).contains("data.source.shards"), "{}", message(&shards));
        }
        let mixture = SourceConfig { kind: SourceKind::Mixture, ..Default::default() };
        assert!(message(&mixture).contains("data.source.sources"), "{}", message(&mixture));
    }

    #[test]
    fn data_that_the_world_would_replace_is_an_error() {
        let folder = SourceConfig { path: Some("photos".into()), ..Default::default() };
        let expected =
            "data.source.path is set, but kind = \"world\" draws its own scenes: set data.source.kind = \"folder\"";
        assert!(message(&folder).starts_with(expected), "{}", message(&folder));
        let mixture = SourceConfig { sources: vec![SourceConfig::default()], ..Default::default() };
        assert!(message(&mixture).contains("\"mixture\""), "{}", message(&mixture));
    }

    #[test]
    fn pairs_belong_to_folders_and_shards() {
        for (kind, name) in [(SourceKind::World, "world"), (SourceKind::Coco, "coco"), (SourceKind::Mixture, "mixture")]
        {
            let config = SourceConfig { kind, degraded: Some("lr".into()), ..Default::default() };
            let message = message(&config);
            assert!(message.contains("data.source.degraded") && message.contains(name), "{message}");
            assert!(!SourceConfig { kind: SourceKind::Folder, ..Default::default() }.is_paired());
        }
        let prompts =
            SourceConfig { kind: SourceKind::Folder, restoration: Some("a.jsonl".into()), ..Default::default() };
        assert!(message(&prompts).contains("data.source.degraded"), "{}", message(&prompts));
        let pairs = SourceConfig { kind: SourceKind::Folder, degraded: Some("lr".into()), ..Default::default() };
        let mixture = |sources| SourceConfig { kind: SourceKind::Mixture, sources, ..Default::default() };
        assert!(mixture(vec![pairs.clone()]).is_paired() && !mixture(vec![pairs, SourceConfig::default()]).is_paired());
    }

    #[cfg(not(feature = "object-store"))]
    #[test]
    fn a_build_without_stores_says_how_to_build_one_with_them() {
        for (kind, scheme) in
            [(SourceKind::Webdataset, "s3"), (SourceKind::Webdataset, "https"), (SourceKind::Parquet, "gs")]
        {
            let shards = Some(format!("{scheme}://bucket/{{000..009}}.tar"));
            let message = message(&SourceConfig { kind, shards, ..Default::default() });
            assert!(message.contains("data.source.shards") && message.contains("--features object-store"), "{message}");
            assert_eq!(message.lines().count(), 1);
        }
    }

    #[test]
    fn an_empty_world_is_an_error() {
        assert!(message(&SourceConfig { count: 0, ..Default::default() }).contains("data.source.count"));
    }

    #[test]
    fn the_section_is_read_with_defaults_and_refuses_unknown_keys() {
        let read = |text| serde_json::from_str::<SourceConfig>(text);
        assert_eq!(read("{}").unwrap(), SourceConfig::default());
        let folder = read(r#"{"kind": "folder", "path": "photos"}"#).unwrap();
        assert_eq!((folder.kind, folder.path), (SourceKind::Folder, Some("photos".into())));
        assert!(read(r#"{"pth": "photos"}"#).unwrap_err().to_string().contains("pth"));
        assert!(read(r#"{"kind": "imagenet"}"#).unwrap_err().to_string().contains("imagenet"));
    }
}
