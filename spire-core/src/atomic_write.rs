//! Files that are either old or new after a crash or on a full disk, never half written.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use thiserror::Error;

/// Prefix of files and directories that are still being written. Readers skip them.
pub const TEMPORARY: &str = ".tmp-";

/// A file or directory could not be written.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct WriteError {
    /// The file or directory.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl WriteError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { path, source: bare(source) }
    }

    fn refused(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), source: io::Error::new(io::ErrorKind::InvalidInput, reason.into()) }
    }
}

/// The error without the name of the temporary file, which the library for temporary files adds (`reason at path "…"`, without
/// the system's error as its source) and with which a reader can't do anything.
fn bare(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.split_once(" at path \"") {
        Some((reason, _)) if error.raw_os_error().is_none() => io::Error::new(error.kind(), reason.to_owned()),
        _ => error,
    }
}

/// A file that is written beside its place and moves there when it is [finished](Self::finish). Dropped before that, it
/// leaves no trace.
#[derive(Debug)]
pub struct AtomicFile {
    /// As the caller named it, for errors.
    path: PathBuf,
    /// The file behind the links of `path`.
    place: PathBuf,
    writer: BufWriter<NamedTempFile>,
}

impl AtomicFile {
    /// Begins a file that replaces `path`. A link stays: the file that it points to is replaced.
    ///
    /// # Errors
    /// As [`check_replaceable`]; or the folder is missing or not writable.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        let place = replaceable(path)?;
        let folder = folder_of(&place);
        if !folder.is_dir() {
            let missing = format!("there is no folder {}", folder.display());
            return Err(WriteError::at(path)(io::Error::new(io::ErrorKind::NotFound, missing)));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(WriteError::at(path))?;
        if let Ok(old) = fs::metadata(&place) {
            // Some file systems have no permissions; the content matters more.
            let _ = file.as_file().set_permissions(old.permissions());
        }
        Ok(Self { path: path.to_owned(), place, writer: BufWriter::new(file) })
    }

    /// Another handle, to read what has been [flushed](Write::flush), also after the file has its place.
    ///
    /// # Errors
    /// The file system failed.
    pub fn reader(&self) -> io::Result<File> {
        self.writer.get_ref().reopen()
    }

    /// Moves the file to its place when its content is on the disk.
    ///
    /// # Errors
    /// The disk is full, or the file system failed. The old file is unchanged then.
    pub fn finish(self) -> Result<(), WriteError> {
        self.finish_by(|file, place| file.persist(place).map_err(|error| error.error))
    }

    fn finish_by(self, move_to: impl FnOnce(NamedTempFile, &Path) -> io::Result<File>) -> Result<(), WriteError> {
        let Self { path, place, writer } = self;
        let write = || {
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.as_file().sync_all()?;
            move_to(file, &place)
        };
        write().map_err(WriteError::at(&path))?;
        sync_dir(folder_of(&place))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Replaces the content of `path` atomically. After a crash at any moment, and on a full disk, the file has its old content
/// or the new one. When this returns, the new content is on the disk.
///
/// # Errors
/// The folder does not exist, the disk is full, or the file can't be replaced (see [`check_replaceable`]).
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(WriteError::at(path))?;
    file.finish()
}

/// As [`write_atomic`], for a file that must not exist yet.
///
/// # Errors
/// As [`write_atomic`]; the kind of error is `AlreadyExists` if the file exists.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(WriteError::at(path))?;
    file.finish_by(|file, place| file.persist_noclobber(place).map_err(|error| error.error))
}

/// Checks that a file can be written at `path`, before the work whose result it shall hold.
///
/// # Errors
/// There is a folder, a device, a pipe or a dangling link.
pub fn check_replaceable(path: &Path) -> Result<(), WriteError> {
    replaceable(path).map(|_| ())
}

/// As [`check_replaceable`]; and the file must not be `input`, from which it is made.
///
/// # Errors
/// As [`check_replaceable`], or the two are the same file.
pub fn check_output(path: &Path, input: &Path) -> Result<(), WriteError> {
    let place = replaceable(path)?;
    match (fs::canonicalize(place), fs::canonicalize(input)) {
        (Ok(output), Ok(input)) if output == input => {
            Err(WriteError::refused(path, "this is the input, which is never overwritten: name another output"))
        }
        _ => Ok(()),
    }
}

/// The file to replace, behind all links.
fn replaceable(path: &Path) -> Result<PathBuf, WriteError> {
    let link = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path.to_owned()),
        found => found.map_err(WriteError::at(path))?.is_symlink(),
    };
    let Ok(found) = fs::metadata(path) else {
        return Err(WriteError::refused(path, "this is a link to a file that does not exist"));
    };
    if !found.is_file() {
        let what = if found.is_dir() { "a folder" } else { "a device or a pipe" };
        return Err(WriteError::refused(path, format!("this is {what}; only regular files are replaced")));
    }
    if link { fs::canonicalize(path).map_err(WriteError::at(path)) } else { Ok(path.to_owned()) }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file and waits until its content is on the disk. Not atomic: use it inside a temporary directory.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(WriteError::at(path))
}

/// Waits until the entries of a directory are on the disk: on Unix a rename survives a crash only after this. Elsewhere it
/// does nothing.
///
/// # Errors
/// The directory cannot be opened.
pub fn sync_dir(dir: &Path) -> Result<(), WriteError> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(WriteError::at(dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::with_causes;

    #[test]
    fn write_atomic_replaces_the_file_and_removes_the_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("summary.json");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let missing = write_atomic(&dir.path().join("no/such"), b"").unwrap_err().to_string();
        assert!(missing.contains("there is no folder"), "{missing}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_error_names_the_file_and_the_reason_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut file = AtomicFile::create(&path).unwrap();
        // A disk that is always full.
        let full = tempfile::Builder::new().make_in(dir.path(), |_| File::options().write(true).open("/dev/full"));
        file.writer = BufWriter::new(full.unwrap());
        file.write_all(b"a").unwrap();
        let error = file.finish().unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(with_causes(&error), format!("{}: No space left on device (os error 28)", path.display()));
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half of the new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn write_new_refuses_an_existing_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_new(&path, b"first").unwrap();
        assert_eq!(write_new(&path, b"second").unwrap_err().source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_output_is_neither_a_folder_nor_the_input() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("a");
        fs::write(&input, b"input").unwrap();
        let folder = write_atomic(dir.path(), b"").unwrap_err().to_string();
        assert!(folder.contains("a folder"), "{folder}");
        let same = check_output(&dir.path().join("./a"), &input).unwrap_err().to_string();
        assert!(same.contains("this is the input"), "{same}");
        assert!(check_output(&dir.path().join("b"), &input).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_devices_are_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), b"old").unwrap();
        fs::set_permissions(path("a"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("a", path("link")).unwrap();
        write_atomic(&path("link"), b"new").unwrap();
        assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
        assert_eq!(fs::read(path("a")).unwrap(), b"new");
        assert_eq!(fs::metadata(path("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(check_output(&path("link"), &path("a")).is_err());

        symlink("nowhere", path("dangling")).unwrap();
        assert!(write_atomic(&path("dangling"), b"").unwrap_err().to_string().contains("does not exist"));
        symlink("/dev/full", path("full")).unwrap();
        for device in [Path::new("/dev/null"), &path("full")] {
            let refused = write_atomic(device, b"").unwrap_err().to_string();
            assert!(refused.contains("a device or a pipe"), "{refused}");
        }
    }
}
