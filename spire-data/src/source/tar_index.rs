//! The index of a tar shard, for random access to its samples.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use image::ImageFormat;
use serde::{Deserialize, Serialize};
use spire_core::atomic_write::write_atomic;
use tar::Archive;

use crate::rng::fnv1a;

/// The samples of one shard, in order. A sample is a group of consecutive files with the same name up to the first dot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TarIndex {
    pub samples: Vec<Entry>,
    /// Why the rest of the shard could not be read.
    pub damage: Option<String>,
}

/// The files of one sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The common name, with its folders.
    pub key: String,
    pub picture: Option<Member>,
    /// In a source of pairs.
    pub degraded: Option<Member>,
    pub text: Option<Member>,
    pub json: Option<Member>,
}

/// The extensions of the pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Extensions {
    /// Of the clean ones; `None` accepts all known ones.
    pub image: Option<String>,
    /// Of the degraded ones, in a source of pairs.
    pub degraded: Option<String>,
}

/// One file inside the shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Member {
    /// The extension: what follows the first dot of the name, in lower case.
    pub extension: String,
    /// Offset of its first byte in the shard.
    pub offset: u64,
    pub bytes: u64,
}

impl TarIndex {
    /// Builds the index from the headers.
    ///
    /// For a truncated or damaged shard, the index contains the samples up to the damage.
    pub fn scan(shard: &Path, extensions: &Extensions) -> io::Result<Self> {
        Self::of(File::open(shard)?, extensions)
    }

    /// [`scan`](Self::scan) of an open file.
    pub fn of(mut file: File, extensions: &Extensions) -> io::Result<Self> {
        let mut start = Vec::new();
        file.by_ref().take(6).read_to_end(&mut start)?;
        check_uncompressed(&start)?;
        file.rewind()?;
        let mut samples = vec![];
        let mut archive = Archive::new(file);
        let damage = each_sample(archive.entries_with_seek()?, extensions, |sample| samples.push(sample));
        Ok(Self { samples, damage })
    }

    /// [`scan`](Self::scan) with a cache: the index of a large shard is stored in the user's cache folder,
    /// `spire/shards`, and reused while the shard's size and date do not change.
    pub fn load(shard: &Path, extensions: &Extensions) -> io::Result<Self> {
        let large = shard.metadata()?.len() >= LARGE;
        let Some((cache, identity)) =
            dirs::cache_dir().filter(|_| large).and_then(|dir| cache_of(shard, extensions, &dir))
        else {
            return Self::scan(shard, extensions);
        };
        if let Some(cached) = read_cache(&cache, &identity) {
            return Ok(cached);
        }
        let index = Self::scan(shard, extensions)?;
        // If the cache can't be written, the next start only takes longer.
        if let Err(error) = write_cache(&cache, &Cached { identity, index: index.clone() }) {
            tracing::debug!(cache = %cache.display(), %error, "the index of a shard is not kept");
        }
        Ok(index)
    }
}

/// The first bytes of compressed files, and the programs that unpack them.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gunzip"), (b"\x28\xb5\x2f\xfd", "unzstd"), (b"BZh", "bunzip2"), (b"\xfd7zXZ\0", "unxz")];

/// Refuses compressed shards, which begin with `start`: their samples can't be read one by one.
pub(super) fn check_uncompressed(start: &[u8]) -> io::Result<()> {
    match COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, program)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("compressed, where samples are read at any position: unpack it to a .tar with {program}"),
        )),
        None => Ok(()),
    }
}

/// Calls `each` with the samples of an archive, in order, as soon as all their files have passed. Returns why the rest
/// could not be read.
pub(super) fn each_sample<R: Read>(
    entries: tar::Entries<R>,
    extensions: &Extensions,
    mut each: impl FnMut(Entry),
) -> Option<String> {
    let mut sample = Entry::default();
    let mut damage = None;
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                damage = Some(error.to_string());
                break;
            }
        };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        // Names are only compared and printed, never used as paths.
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some((key, extension)) = split(&name) else { continue };
        if sample.key != key {
            let next = Entry { key: key.to_owned(), ..Entry::default() };
            Some(std::mem::replace(&mut sample, next)).filter(Entry::is_sample).into_iter().for_each(&mut each);
        }
        sample.add(Member { extension, offset: entry.raw_file_position(), bytes: entry.size() }, extensions);
    }
    Some(sample).filter(Entry::is_sample).into_iter().for_each(each);
    damage
}

impl Entry {
    fn is_sample(&self) -> bool {
        [&self.picture, &self.degraded, &self.text, &self.json].into_iter().any(Option::is_some)
    }

    fn add(&mut self, member: Member, extensions: &Extensions) {
        let Extensions { image, degraded } = extensions;
        let place = match member.extension.as_str() {
            extension if degraded.as_ref().is_some_and(|degraded| degraded == extension) => &mut self.degraded,
            "txt" => &mut self.text,
            "json" => &mut self.json,
            extension if image.as_ref().map_or_else(|| is_picture(extension), |image| image == extension) => {
                &mut self.picture
            }
            _ => return,
        };
        place.get_or_insert(member);
    }
}

/// Splits a member's name into key and extension, as WebDataset does. `None` for hidden files and names without
/// extension.
fn split(name: &str) -> Option<(&str, String)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.')?;
    (dot > start).then(|| (&name[..dot], name[dot + 1..].to_ascii_lowercase()))
}

fn is_picture(extension: &str) -> bool {
    ImageFormat::from_extension(extension).is_some_and(|format| format.reading_enabled())
}

#[derive(Serialize, Deserialize)]
struct Cached {
    identity: Identity,
    index: TarIndex,
}

/// The state of the shard that an index was built from.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    shard: PathBuf,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u128,
    extensions: Extensions,
}

/// Size in bytes from which on a shard's index is cached.
const LARGE: u64 = 1 << 26;

/// The cache file for the index of `shard` in the folder `caches`, and the shard's current state.
fn cache_of(shard: &Path, extensions: &Extensions, caches: &Path) -> Option<(PathBuf, Identity)> {
    let folder = caches.join("spire").join("shards");
    let shard = shard.canonicalize().ok()?;
    let metadata = shard.metadata().ok()?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    let identity = Identity { bytes: metadata.len(), modified, extensions: extensions.clone(), shard };
    let name = format!("{:016x}.json", fnv1a(&identity.shard.to_string_lossy()));
    Some((folder.join(name), identity))
}

fn read_cache(cache: &Path, identity: &Identity) -> Option<TarIndex> {
    let cached: Cached = serde_json::from_slice(&std::fs::read(cache).ok()?).ok()?;
    (cached.identity == *identity).then_some(cached.index)
}

/// Written atomically, so that concurrent readers find the old index or the new one.
fn write_cache(cache: &Path, cached: &Cached) -> io::Result<()> {
    std::fs::create_dir_all(cache.parent().unwrap_or(Path::new(".")))?;
    write_atomic(cache, &serde_json::to_vec(cached)?).map_err(|error| error.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_the_first_dot_of_the_last_part() {
        assert_eq!(split("a/b.c/0001.seg.PNG"), Some(("a/b.c/0001", "seg.png".to_owned())));
        assert_eq!(split("0001.jpg"), Some(("0001", "jpg".to_owned())));
        assert_eq!(split("../../etc/passwd.txt"), Some(("../../etc/passwd", "txt".to_owned())));
        for none in ["README", "a/.hidden.jpg", "a/", ""] {
            assert_eq!(split(none), None, "{none}");
        }
    }

    #[test]
    fn a_compressed_shard_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for (magic, program) in COMPRESSED {
            let shard = dir.path().join("a.tar.gz");
            std::fs::write(&shard, [magic, &[0; 2048]].concat()).unwrap();
            let error = TarIndex::scan(&shard, &Extensions::default()).unwrap_err().to_string();
            assert!(error.contains("compressed") && error.contains(program), "{error}");
        }
    }

    #[test]
    fn an_index_is_kept_until_the_shard_changes() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("a.tar");
        std::fs::write(&shard, [0; 1024]).unwrap();
        let member = Member { extension: "jpg".to_owned(), offset: 512, bytes: 7 };
        let entry = Entry { key: "a".to_owned(), picture: Some(member), ..Entry::default() };
        let index = TarIndex { samples: vec![entry], damage: Some("cut".to_owned()) };
        let cache = |image: Option<&str>| {
            let extensions = Extensions { image: image.map(str::to_owned), degraded: None };
            cache_of(&shard, &extensions, dir.path()).unwrap()
        };

        let (file, identity) = cache(None);
        assert_eq!(read_cache(&file, &identity), None);
        write_cache(&file, &Cached { identity, index: index.clone() }).unwrap();
        assert_eq!(read_cache(&file, &cache(None).1), Some(index));
        assert_eq!(read_cache(&file, &cache(Some("png")).1), None);
        std::fs::write(&shard, [0; 2048]).unwrap();
        assert_eq!(read_cache(&file, &cache(None).1), None);
        std::fs::write(&file, b"{\"identity\"").unwrap();
        assert_eq!(read_cache(&file, &cache(None).1), None);
    }
}
