//! A folder of pictures with a `.txt` caption beside each, or with a `metadata.jsonl`.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use image::{ImageFormat, ImageReader};
use walkdir::WalkDir;

use super::metadata::{METADATA, Metadata};
use super::pairing::Pairing;
use super::{Pair, Pixels, Sample, SampleError, Skipped, Source, SourceError, caption_of};
use crate::picture::open_rgb8;

/// The pictures that the folder's `metadata.jsonl` lists, in its order. Without that file: every picture in the folder
/// and its subfolders, sorted by path; the caption of `a/b.png` is in `a/b.txt`.
///
/// A file counts as a picture by its extension or, without a known extension, by its content. Hidden files and folders
/// are ignored; links are followed. What can't be read, and what is not a regular file, is skipped with a warning.
#[derive(Debug)]
pub struct FolderSource {
    root: PathBuf,
    pictures: Pictures,
    left_out: Vec<Skipped>,
    uncaptioned: bool,
    /// The folder of the captions, if they are not beside the pictures.
    captions: Option<PathBuf>,
    /// In a source of pairs, the degraded pictures.
    pairing: Option<Pairing>,
}

#[derive(Debug)]
enum Pictures {
    Found(Vec<PathBuf>),
    Listed(Metadata),
}

impl FolderSource {
    /// Lists the folder; pictures and captions are read on demand. `caption` is the key of the captions in
    /// `metadata.jsonl`; `None` tries the usual ones.
    ///
    /// # Errors
    /// The folder does not exist, can't be searched, or has no pictures; or a line of `metadata.jsonl` can't be understood.
    pub fn open(root: impl Into<PathBuf>, caption: Option<&str>) -> Result<Self, SourceError> {
        let root = root.into();
        if !root.is_dir() {
            return Err(SourceError::NoFolder { path: root, key: "path" });
        }
        let list = root.join(METADATA);
        let (pictures, left_out) = match list.is_file() {
            true => (Pictures::Listed(Metadata::read(list, caption)?), vec![]),
            false => {
                let (found, left_out) = list_pictures(&root)?;
                (Pictures::Found(found), left_out)
            }
        };
        for Skipped { name, reason } in &left_out {
            tracing::warn!(name, reason, "skipping a part of a folder");
        }
        let source = Self { root, pictures, left_out, uncaptioned: false, captions: None, pairing: None };
        if source.is_empty() {
            return Err(SourceError::Empty { place: format!("{} (data.source.path)", source.root.display()) });
        }
        Ok(source)
    }

    /// Whether pictures without a caption are accepted.
    pub fn uncaptioned(self, uncaptioned: bool) -> Self {
        Self { uncaptioned, ..self }
    }

    /// The captions are in `folder`, under the names of the pictures: `a/b.txt` of `a/b.png`. Otherwise they are beside them, or
    /// in `metadata.jsonl`.
    ///
    /// # Errors
    /// The folder does not exist.
    pub fn captions_in(self, folder: Option<&Path>) -> Result<Self, SourceError> {
        match folder {
            Some(folder) if !folder.is_dir() => Err(SourceError::NoFolder { path: folder.to_owned(), key: "captions" }),
            folder => Ok(Self { captions: folder.map(Path::to_owned), ..self }),
        }
    }

    /// The source of pairs with the degraded pictures in `folder`, which have the names of the clean ones; `prompts` is the
    /// list of restoration prompts. Pictures whose other half is missing are left out.
    ///
    /// # Errors
    /// The folder does not exist or can't be searched, no picture has both halves, or the list can't be read.
    pub fn paired(mut self, folder: &Path, prompts: Option<&Path>) -> Result<Self, SourceError> {
        if !folder.is_dir() {
            return Err(SourceError::NoFolder { path: folder.to_owned(), key: "degraded" });
        }
        let (files, unreadable) = list_pictures(folder)?;
        let names: Vec<String> = (0..self.len()).map(|index| self.name(index)).collect();
        let (pairing, missing) = Pairing::find(&names, &self.root, &files, folder, prompts)?;
        if let Some(Skipped { name, reason }) = missing.first() {
            let halves = missing.len();
            tracing::warn!(name, reason, halves, "leaving out pictures whose other half is missing, such as the first");
        }
        self.left_out.extend(unreadable.into_iter().chain(missing));
        let kept: Vec<bool> = names.iter().map(|name| pairing.degraded(name).is_some()).collect();
        self.pictures.retain(&kept);
        if self.is_empty() {
            let place = format!(
                "{} (data.source.path) and {} (data.source.degraded) have no two files of one name",
                self.root.display(),
                folder.display()
            );
            return Err(SourceError::Empty { place });
        }
        let names: Vec<String> = (0..self.len()).map(|index| self.name(index)).collect();
        match pairing.without_prompt(&names) {
            0 => {}
            count => tracing::warn!("{count} of {} pictures are not in the list of restoration prompts", names.len()),
        }
        self.pairing = Some(pairing);
        Ok(self)
    }

    /// A picture's file and its captions.
    fn entry(&self, index: usize) -> Result<(PathBuf, Vec<String>), SampleError> {
        let path = match &self.pictures {
            Pictures::Listed(list) => list.picture(&self.root, index)?,
            Pictures::Found(paths) => paths[index].clone(),
        };
        let captions = match (&self.captions, &self.pictures) {
            (Some(folder), _) => caption_of(&folder.join(self.name(index))).map(|caption| vec![caption]),
            (None, Pictures::Listed(list)) => list.captions(index),
            (None, Pictures::Found(_)) => caption_of(&path).map(|caption| vec![caption]),
        };
        captions.or_else(|error| self.excuse(error)).map(|captions| (path, captions))
    }

    /// No captions, if the source accepts that.
    fn excuse(&self, error: SampleError) -> Result<Vec<String>, SampleError> {
        if self.uncaptioned && error.is_missing_caption() { Ok(vec![]) } else { Err(error) }
    }
}

impl Pictures {
    /// Keeps those whose flag is set.
    fn retain(&mut self, kept: &[bool]) {
        let mut kept = kept.iter();
        let mut next = || kept.next().copied().unwrap_or(false);
        match self {
            Self::Found(paths) => paths.retain(|_| next()),
            Self::Listed(list) => list.entries.retain(|_| next()),
        }
    }
}

/// The pictures in a folder and below, sorted by path (see [`FolderSource`]), and what was skipped: subfolders that can't
/// be searched, links to nothing, pipes and devices.
///
/// # Errors
/// The folder itself can't be searched.
pub fn list_pictures(root: &Path) -> Result<(Vec<PathBuf>, Vec<Skipped>), SourceError> {
    let files = WalkDir::new(root)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let (mut pictures, mut left_out) = (vec![], vec![]);
    for file in files {
        match file {
            Ok(file) if file.file_type().is_dir() => {}
            Ok(file) if !file.file_type().is_file() => {
                let reason = "a pipe or a device, not a regular file".to_owned();
                left_out.push(Skipped { name: file.path().display().to_string(), reason });
            }
            Ok(file) if is_picture(file.path()) => pictures.push(file.into_path()),
            Ok(_) => {}
            Err(error) if error.depth() == 0 => {
                return Err(SourceError::List { path: root.to_owned(), source: error });
            }
            Err(error) => {
                let path = error.path().unwrap_or(root).to_owned();
                // A link to a picture that is gone counts as a broken sample.
                if is_named_as_picture(&path) && path.is_symlink() {
                    pictures.push(path);
                } else {
                    let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                    left_out.push(Skipped { name: path.display().to_string(), reason });
                }
            }
        }
    }
    Ok((pictures, left_out))
}

impl Source for FolderSource {
    fn len(&self) -> usize {
        match &self.pictures {
            Pictures::Found(paths) => paths.len(),
            Pictures::Listed(list) => list.entries.len(),
        }
    }

    fn name(&self, index: usize) -> String {
        match &self.pictures {
            Pictures::Found(paths) => {
                paths[index].strip_prefix(&self.root).unwrap_or(&paths[index]).display().to_string()
            }
            Pictures::Listed(list) => list.entries[index].file_name.clone(),
        }
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        let (path, captions) = self.entry(index)?;
        let (name, picture) = (self.name(index), Pixels::Bytes(open_rgb8(&path)?));
        let pair = match &self.pairing {
            Some(pairing) => {
                let file = pairing.degraded(&name).unwrap_or(&path);
                Some(Pair::new(&name, picture.size(), Pixels::Bytes(open_rgb8(file)?), pairing.prompt(&name))?)
            }
            None => None,
        };
        Ok(Sample { name, picture, captions, pair })
    }

    fn left_out(&self) -> Vec<Skipped> {
        self.left_out.clone()
    }
}

fn is_named_as_picture(path: &Path) -> bool {
    ImageFormat::from_path(path).is_ok()
}

fn is_picture(path: &Path) -> bool {
    // An unreadable file counts as a picture, so that the error is reported when it is read.
    is_named_as_picture(path)
        || (path.extension().is_none_or(|extension| extension != "txt") && starts_as_picture(path).unwrap_or(true))
}

fn starts_as_picture(path: &Path) -> io::Result<bool> {
    let file = BufReader::new(File::open(path)?);
    Ok(ImageReader::new(file).with_guessed_format()?.format().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Picture;
    use std::fs;

    fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }

    fn png(red: f32) -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        Picture::filled(6, 4, [red, 0.0, 0.0]).to_rgb8().write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn names(source: &FolderSource) -> Vec<String> {
        (0..source.len()).map(|index| source.name(index).replace('\\', "/")).collect()
    }

    #[test]
    fn pictures_are_found_by_name_or_content_and_sorted() {
        let dir = folder_with(&[
            ("b.png", &png(1.0)),
            ("b.txt", b" a red\nsquare\n"),
            ("a/z.png", &png(0.0)),
            ("a/z.txt", b"a black square"),
            ("bare", &png(0.2)),
            ("bare.txt", b"a dark square"),
            ("misnamed.jpg", &png(0.6)),
            ("misnamed.txt", b"a brown square"),
            ("readme.md", b"# not a picture"),
            (".hidden.png", &png(0.0)),
            (".cache/c.png", &png(0.0)),
        ]);
        let source = FolderSource::open(dir.path(), None).unwrap();
        assert_eq!(names(&source), ["a/z.png", "b.png", "bare", "misnamed.jpg"]);
        for (index, (red, caption)) in
            [(0, "a black square"), (255, "a red square"), (51, "a dark square"), (153, "a brown square")]
                .into_iter()
                .enumerate()
        {
            let sample = source.read(index).unwrap();
            assert_eq!(sample.picture.to_picture().to_rgb8().get_pixel(5, 3).0, [red, 0, 0]);
            assert_eq!(sample.captions, [caption]);
        }
    }

    #[test]
    fn captions_may_lie_in_another_folder() {
        let dir = folder_with(&[
            ("gt/a/1.png", &png(1.0)),
            ("gt/2.png", &png(0.5)),
            ("tag/a/1.txt", b"a red square"),
            ("gt/2.txt", b"not this one"),
        ]);
        let source = FolderSource::open(dir.path().join("gt"), None).unwrap();
        let source = source.captions_in(Some(&dir.path().join("tag"))).unwrap();
        let index = |name: &str| names(&source).iter().position(|found| found == name).unwrap();
        assert_eq!(source.read(index("a/1.png")).unwrap().captions, ["a red square"]);
        let missing = source.read(index("2.png")).unwrap_err();
        assert!(missing.is_missing_caption() && missing.to_string().contains("tag"), "{missing}");
        let none = FolderSource::open(dir.path().join("gt"), None).unwrap().captions_in(Some(Path::new("nowhere")));
        assert!(none.unwrap_err().to_string().contains("data.source.captions"));
    }

    #[test]
    fn pairs_are_read_by_name_with_the_prompts_of_a_list() {
        let dir = folder_with(&[
            ("hr/1.png", &png(1.0)),
            ("hr/2.png", &png(0.5)),
            ("hr/3.png", &png(0.5)),
            ("lr/1.png", &png(0.25)),
            ("lr/2x2.png", &png(0.0)),
            ("prompts.jsonl", b"{\"file_name\": \"1.png\", \"restoration\": \" Remove  rain\"}\n"),
        ]);
        let [high, low] = ["hr", "lr"].map(|name| dir.path().join(name));
        let open = || FolderSource::open(&high, None).unwrap().uncaptioned(true);
        let source = open().paired(&low, Some(&dir.path().join("prompts.jsonl"))).unwrap();
        assert_eq!(names(&source), ["1.png", "2.png"]);
        let left_out = source.left_out();
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].name == "3.png" && left_out[0].reason.contains("no degraded picture"), "{left_out:?}");
        let pairs = [0, 1].map(|index| source.read(index).unwrap().pair.unwrap());
        assert_eq!(pairs[0].restoration.as_deref(), Some("Remove rain"));
        assert_eq!(pairs[0].picture.to_picture().to_rgb8().get_pixel(0, 0).0, [64, 0, 0]);
        assert_eq!(pairs[1].restoration, None);

        fs::write(dir.path().join("prompts.jsonl"), "{\"file_name\": \"1.png\"}\n").unwrap();
        let error = open().paired(&low, Some(&dir.path().join("prompts.jsonl"))).unwrap_err().to_string();
        assert!(error.contains("prompts.jsonl:1") && error.contains("restoration"), "{error}");
        let none = open().paired(&dir.path().join("nowhere"), None).unwrap_err().to_string();
        assert!(none.contains("data.source.degraded"), "{none}");
        fs::create_dir(dir.path().join("empty")).unwrap();
        let empty = open().paired(&dir.path().join("empty"), None).unwrap_err().to_string();
        assert!(empty.contains("no two files of one name"), "{empty}");
    }

    #[test]
    fn each_kind_of_broken_sample_names_its_file() {
        let cut_short = &png(1.0)[..60];
        let dir = folder_with(&[
            ("a.png", &png(1.0)),
            ("b.png", &png(1.0)),
            ("b.txt", b"caf\xe9"),
            ("c.png", &png(1.0)),
            ("c.txt", b""),
            ("d.png", b""),
            ("d.txt", b"zero bytes"),
            ("e.png", cut_short),
            ("e.txt", b"cut short"),
        ]);
        let source = FolderSource::open(dir.path(), None).unwrap();
        let error = |index| source.read(index).unwrap_err();
        assert!(matches!(error(0), SampleError::CaptionFile { path, .. } if path.ends_with("a.txt")));
        assert!(matches!(error(1), SampleError::CaptionEncoding { path, offset: 3 } if path.ends_with("b.txt")));
        assert!(matches!(error(2), SampleError::NoCaption { path, .. } if path.ends_with("c.txt")));
        for (index, name) in [(3, "d.png"), (4, "e.png")] {
            assert!(matches!(error(index), SampleError::Picture(_)));
            assert!(error(index).to_string().contains(name));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_dangling_link_is_a_broken_sample() {
        let dir = folder_with(&[("a.png", &png(1.0)), ("a.txt", b"red"), ("b.txt", b"gone")]);
        std::os::unix::fs::symlink(dir.path().join("nowhere.png"), dir.path().join("b.png")).unwrap();
        let source = FolderSource::open(dir.path(), None).unwrap();
        assert_eq!(names(&source), ["a.png", "b.png"]);
        assert!(source.read(0).is_ok());
        assert!(source.read(1).unwrap_err().to_string().contains("b.png"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_skipped_and_named() {
        use std::os::unix::fs::symlink;

        let dir = folder_with(&[("a.png", &png(1.0)), ("a.txt", b"red"), ("below/b.png", &png(1.0))]);
        symlink("/dev/zero", dir.path().join("endless.png")).unwrap();
        symlink("nowhere", dir.path().join("notes")).unwrap();
        symlink(dir.path(), dir.path().join("below/again")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket.png")).unwrap();
        let source = FolderSource::open(dir.path(), None).unwrap();
        drop(socket);
        assert_eq!(names(&source), ["a.png", "below/b.png"]);
        let left_out: Vec<String> =
            source.left_out().into_iter().map(|skipped| format!("{}: {}", skipped.name, skipped.reason)).collect();
        for (name, reason) in
            [("endless.png", "a device"), ("notes", "notes"), ("below/again", "again"), ("socket.png", "a device")]
        {
            let named = |line: &&String| line.contains(name) && line.contains(reason);
            assert!(left_out.iter().any(|line| named(&line)), "{name}: {left_out:?}");
        }
        assert_eq!(left_out.len(), 4);
    }

    #[test]
    fn folders_without_pictures_do_not_open() {
        let dir = folder_with(&[("a.txt", b"a caption alone")]);
        assert!(matches!(FolderSource::open(dir.path(), None).unwrap_err(), SourceError::Empty { .. }));
        let missing = FolderSource::open(dir.path().join("missing"), None).unwrap_err();
        assert!(matches!(&missing, SourceError::NoFolder { path, .. } if path.ends_with("missing")));
        assert!(matches!(
            FolderSource::open(dir.path().join("a.txt"), None).unwrap_err(),
            SourceError::NoFolder { .. }
        ));
    }

    #[test]
    fn a_list_names_pictures_and_captions() {
        let list = concat!(
            r#"{"file_name": "b.png", "text": "a red square"}"#,
            "\n\n",
            r#"{"file_name": "a/z.png", "text": ["black", "dark"], "extra": 3}"#,
            "\r\n",
            r#"{"file_name": "../b.png", "text": "outside"}"#,
            "\n",
            r#"{"file_name": "b.png", "text": ""}"#,
            "\n",
        );
        let dir = folder_with(&[("b.png", &png(1.0)), ("a/z.png", &png(0.0)), ("metadata.jsonl", list.as_bytes())]);
        let source = FolderSource::open(dir.path(), None).unwrap();
        assert_eq!(names(&source), ["b.png", "a/z.png", "../b.png", "b.png"]);
        assert_eq!(source.read(0).unwrap().captions, ["a red square"]);
        assert_eq!(source.read(1).unwrap().captions, ["black", "dark"]);
        assert!(matches!(source.read(2).unwrap_err(), SampleError::Outside { .. }));
        assert!(source.read(3).unwrap_err().to_string().contains("metadata.jsonl"));
        let other = FolderSource::open(dir.path(), Some("label")).unwrap();
        assert!(matches!(other.read(0).unwrap_err(), SampleError::NoCaption { .. }));
    }

    #[test]
    fn the_error_names_a_malformed_line() {
        for (list, message) in [
            (&b"{\"file_name\": \"a.png\"}\n{\"text\": \"cat\"}"[..], "metadata.jsonl:2: \"file_name\" is missing"),
            (b"{\"file_name\": \"a.png\"", "metadata.jsonl:1: not JSON"),
        ] {
            let dir = folder_with(&[("metadata.jsonl", list)]);
            let error = FolderSource::open(dir.path(), None).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn one_caption_with_a_bad_encoding_does_not_fail_the_list() {
        let list = b"{\"file_name\": \"a.png\", \"text\": \"caf\xe9\"}\n{\"file_name\": \"b.png\", \"text\": \"red\"}";
        let dir = folder_with(&[("b.png", &png(1.0)), ("metadata.jsonl", list)]);
        let source = FolderSource::open(dir.path(), None).unwrap();
        assert!(matches!(source.read(0).unwrap_err(), SampleError::NoCaption { .. }));
        assert_eq!(source.read(1).unwrap().captions, ["red"]);
    }
}
