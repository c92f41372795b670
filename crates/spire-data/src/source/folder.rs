//! A folder of pictures with a `.txt` caption beside each.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use image::{ImageFormat, ImageReader};
use walkdir::WalkDir;

use super::{Sample, SampleError, Source, SourceError, tidy};
use crate::Picture;

/// Every picture in a folder and below, sorted by path; `a/b.png` has its caption in `a/b.txt`.
///
/// A file counts as a picture if its name says so or, where the name says nothing, if its content does. Hidden files and
/// folders are left out; links are followed.
#[derive(Debug)]
pub struct FolderSource {
    root: PathBuf,
    pictures: Vec<PathBuf>,
}

impl FolderSource {
    /// Lists the folder; pictures and captions are read later.
    ///
    /// # Errors
    /// The folder does not exist, can't be searched, or has no pictures.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, SourceError> {
        let root = root.into();
        if !root.is_dir() {
            return Err(SourceError::NoFolder { path: root, key: "path" });
        }
        let pictures = list_pictures(&root)?;
        if pictures.is_empty() {
            return Err(SourceError::Empty { place: format!("{} (data.source.path)", root.display()) });
        }
        Ok(Self { root, pictures })
    }
}

/// The pictures in a folder and below, sorted by path: see [`FolderSource`].
///
/// # Errors
/// The folder can't be searched.
pub fn list_pictures(root: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let files = WalkDir::new(root)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let mut pictures = Vec::new();
    for file in files {
        match file {
            Ok(file) if !file.file_type().is_dir() && is_picture(file.path()) => pictures.push(file.into_path()),
            Ok(_) => {}
            // A picture behind a dangling link is a broken sample, not a broken folder.
            Err(error) => match error.path() {
                Some(path) if is_named_as_picture(path) => pictures.push(path.to_owned()),
                path => return Err(SourceError::List { path: path.unwrap_or(root).to_owned(), source: error }),
            },
        }
    }
    Ok(pictures)
}

/// The caption beside a picture: `a/b.txt` of `a/b.png`.
///
/// # Errors
/// There is none, it is empty, or it is not UTF-8.
pub fn caption_of(picture: &Path) -> Result<String, SampleError> {
    read_caption(&picture.display().to_string(), picture.with_extension("txt"))
}

impl Source for FolderSource {
    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn name(&self, index: usize) -> String {
        let path = &self.pictures[index];
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    fn read(&self, index: usize) -> Result<Sample, SampleError> {
        let path = &self.pictures[index];
        let name = self.name(index);
        let caption = read_caption(&name, path.with_extension("txt"))?;
        Ok(Sample { name, picture: Picture::open(path)?, captions: vec![caption] })
    }
}

fn read_caption(name: &str, path: PathBuf) -> Result<String, SampleError> {
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(SampleError::CaptionFile { path, source }),
    };
    match str::from_utf8(&bytes) {
        Ok(text) => tidy(text).ok_or_else(|| SampleError::NoCaption { name: name.to_owned(), path }),
        Err(error) => Err(SampleError::CaptionEncoding { path, offset: error.valid_up_to() }),
    }
}

fn is_named_as_picture(path: &Path) -> bool {
    ImageFormat::from_path(path).is_ok()
}

fn is_picture(path: &Path) -> bool {
    // An unreadable file counts, so that it is reported when it is read.
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
        let source = FolderSource::open(dir.path()).unwrap();
        assert_eq!(names(&source), ["a/z.png", "b.png", "bare", "misnamed.jpg"]);
        for (index, (red, caption)) in
            [(0, "a black square"), (255, "a red square"), (51, "a dark square"), (153, "a brown square")]
                .into_iter()
                .enumerate()
        {
            let sample = source.read(index).unwrap();
            assert_eq!(sample.picture.to_rgb8().get_pixel(5, 3).0, [red, 0, 0]);
            assert_eq!(sample.captions, [caption]);
        }
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
        let source = FolderSource::open(dir.path()).unwrap();
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
        let source = FolderSource::open(dir.path()).unwrap();
        assert_eq!(names(&source), ["a.png", "b.png"]);
        assert!(source.read(0).is_ok());
        assert!(source.read(1).unwrap_err().to_string().contains("b.png"));
    }

    #[test]
    fn folders_without_pictures_do_not_open() {
        let dir = folder_with(&[("a.txt", b"a caption alone")]);
        assert!(matches!(FolderSource::open(dir.path()).unwrap_err(), SourceError::Empty { .. }));
        let missing = FolderSource::open(dir.path().join("missing")).unwrap_err();
        assert!(matches!(&missing, SourceError::NoFolder { path, .. } if path.ends_with("missing")));
        assert!(matches!(FolderSource::open(dir.path().join("a.txt")).unwrap_err(), SourceError::NoFolder { .. }));
    }
}
