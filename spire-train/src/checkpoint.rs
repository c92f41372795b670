//! Checkpoints that survive a kill at any moment. Each is a directory that one rename makes visible when it is
//! complete. Its manifest has checksums, which are verified when files are read.
//!
//! ```text
//! checkpoints/
//!   step-00000100/   manifest.json, control.safetensors, …
//!   step-00000200/
//!   .tmp-step-00000300/   incomplete: being written, or left by a kill
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use spire_core::atomic_write::{TEMPORARY, WriteError, sync_dir, write_synced};
use spire_core::checksum::sha256;
use thiserror::Error;
use tracing::warn;

/// The version of the layout of a checkpoint directory.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";

/// Why a checkpoint could not be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// An operating system error.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A name that can't be a file of a checkpoint.
    #[error("{name:?} can't name a file of a checkpoint: use a plain file name other than {MANIFEST}")]
    Name {
        /// The name.
        name: String,
    },
    /// The checkpoint has no such file.
    #[error("the checkpoint {dir} holds no {name}; it holds {}", .held.join(", "))]
    Missing {
        /// The checkpoint.
        dir: PathBuf,
        /// The requested file.
        name: String,
        /// The files that exist.
        held: Vec<String>,
    },
    /// The checkpoint is incomplete or corrupt.
    #[error("the checkpoint {dir} is damaged: {reason}")]
    Damaged {
        /// The checkpoint.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// All checkpoints are damaged.
    #[error("every checkpoint in {dir} is damaged; restore one from a backup, or remove the run and start again:{}",
        .reasons.iter().map(|reason| format!("\n  {reason}")).collect::<String>())]
    AllDamaged {
        /// The directory of checkpoints.
        dir: PathBuf,
        /// What is wrong with each, newest first.
        reasons: Vec<String>,
    },
}

impl From<WriteError> for CheckpointError {
    fn from(WriteError { path, source }: WriteError) -> Self {
        Self::Io { path, source }
    }
}

type Result<T, E = CheckpointError> = std::result::Result<T, E>;

/// The checkpoints of one run. Only one process may save at a time; any number may read meanwhile.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    keep_last: usize,
}

/// A checkpoint that was intact when it was opened.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Optimiser steps done.
    pub step: u64,
    /// The directory that holds its files.
    pub dir: PathBuf,
    /// Its validation score; higher is better.
    pub score: Option<f64>,
    files: BTreeMap<String, FileRecord>,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    score: Option<f64>,
    files: BTreeMap<String, FileRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

impl CheckpointStore {
    /// The store in `dir`, which may not exist yet. It keeps the newest `keep_last` checkpoints (at least one) and the
    /// best.
    pub fn new(dir: impl Into<PathBuf>, keep_last: usize) -> Self {
        Self { dir: dir.into(), keep_last: keep_last.max(1) }
    }

    /// Writes the named `files` as the checkpoint of `step` and returns its directory. When this returns, the
    /// checkpoint is on the disk. After an earlier kill, the previous checkpoint still exists and the incomplete one is
    /// ignored.
    ///
    /// A higher `score` is better; the checkpoint with the highest is kept besides the newest. A checkpoint of the same
    /// step is replaced. Later ones, of an abandoned continuation, are kept.
    ///
    /// The iterator is advanced when the previous file is on the disk, so that only one file is in memory.
    ///
    /// # Errors
    /// The disk is full or not writable, a name is not a plain file name, or `files` gives an error.
    pub fn save<'a, E: From<CheckpointError>>(
        &self,
        step: u64,
        files: impl IntoIterator<Item = Result<(&'a str, Vec<u8>), E>>,
        score: Option<f64>,
    ) -> Result<PathBuf, E> {
        fs::create_dir_all(&self.dir).map_err(io_error(&self.dir))?;
        self.remove_temporaries()?;

        let name = directory_name(step);
        let temporary = self.dir.join(format!("{TEMPORARY}{name}"));
        fs::create_dir(&temporary).map_err(io_error(&temporary))?;
        let mut records = BTreeMap::new();
        for file in files {
            let (name, bytes) = file?;
            if !is_plain_name(name) {
                return Err(CheckpointError::Name { name: name.to_owned() }.into());
            }
            write_synced(&temporary.join(name), &bytes).map_err(CheckpointError::from)?;
            records.insert(name.to_owned(), FileRecord { bytes: bytes.len() as u64, sha256: sha256(&bytes) });
        }
        let manifest =
            Manifest { format: FORMAT, step, score: score.filter(|score| score.is_finite()), files: records };
        let manifest = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        write_synced(&temporary.join(MANIFEST), &manifest).map_err(CheckpointError::from)?;
        sync_dir(&temporary).map_err(CheckpointError::from)?;

        let dir = self.dir.join(&name);
        if dir.exists() {
            let replaced = self.dir.join(format!("{TEMPORARY}replaced-{name}"));
            fs::rename(&dir, &replaced).map_err(io_error(&dir))?;
        }
        fs::rename(&temporary, &dir).map_err(io_error(&dir))?;
        sync_dir(&self.dir).map_err(CheckpointError::from)?;
        self.remove_temporaries()?;
        self.prune(step)?;
        Ok(dir)
    }

    /// The newest intact checkpoint; `None` without checkpoints. A warning names each newer checkpoint that is damaged,
    /// with the reason.
    ///
    /// # Errors
    /// All checkpoints are damaged, or the directory can't be read.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let mut reasons = Vec::new();
        for (_, dir) in self.by_step()?.into_iter().rev() {
            match Checkpoint::open(&dir) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => {
                    warn!("{error}; trying the one before");
                    reasons.push(error.to_string());
                }
            }
        }
        if reasons.is_empty() { Ok(None) } else { Err(CheckpointError::AllDamaged { dir: self.dir.clone(), reasons }) }
    }

    /// The checkpoint of `step`.
    ///
    /// # Errors
    /// It does not exist, or it is damaged.
    pub fn of_step(&self, step: u64) -> Result<Checkpoint> {
        Checkpoint::open(self.dir.join(directory_name(step)))
    }

    /// The intact checkpoint with the highest score, the newest of equal ones; `None` if none has a score.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn best(&self) -> Result<Option<Checkpoint>> {
        let mut scored: Vec<(f64, PathBuf)> =
            self.by_step()?.into_iter().filter_map(|(_, dir)| Some((score_of(&dir)?, dir))).collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, dir) in scored.into_iter().rev() {
            match Checkpoint::open(&dir) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => warn!("{error}; trying the next best"),
            }
        }
        Ok(None)
    }

    /// Of the checkpoints up to `step`, removes all but the newest `keep_last` and the best.
    fn prune(&self, step: u64) -> Result<()> {
        let mut all = self.by_step()?;
        all.retain(|(other, _)| *other <= step);
        let best = all
            .iter()
            .filter_map(|(step, dir)| Some((score_of(dir)?, *step)))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, step)| step);
        all.truncate(all.len().saturating_sub(self.keep_last));
        for (_, dir) in all.into_iter().filter(|(step, _)| Some(*step) != best) {
            // Rename first, so that a kill during the removal leaves no incomplete checkpoint.
            let doomed = self.dir.join(format!("{TEMPORARY}{}", dir.file_name().unwrap_or_default().display()));
            fs::rename(&dir, &doomed).map_err(io_error(&dir))?;
            fs::remove_dir_all(&doomed).map_err(io_error(&doomed))?;
        }
        Ok(())
    }

    /// Every checkpoint directory, intact or not, oldest first.
    fn by_step(&self) -> Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_error(&self.dir))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_error(&self.dir))?.path();
            if let Some(step) = step_of(&path) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    fn remove_temporaries(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir).map_err(io_error(&self.dir))? {
            let entry = entry.map_err(io_error(&self.dir))?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                fs::remove_dir_all(entry.path()).map_err(io_error(&entry.path()))?;
            }
        }
        Ok(())
    }
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and verifies the checksum of every file.
    ///
    /// # Errors
    /// The manifest is missing or unreadable, or a file is missing, truncated or changed.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let damaged = |reason: String| CheckpointError::Damaged { dir: dir.clone(), reason };
        let manifest = fs::read(dir.join(MANIFEST)).map_err(|error| damaged(format!("{MANIFEST}: {error}")))?;
        let manifest: Manifest =
            serde_json::from_slice(&manifest).map_err(|error| damaged(format!("{MANIFEST}: {error}")))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("its format is {}, and only {FORMAT} is understood", manifest.format)));
        }
        if step_of(&dir).is_some_and(|step| step != manifest.step) {
            return Err(damaged(format!("{MANIFEST} is of step {}", manifest.step)));
        }
        if let Some(name) = manifest.files.keys().find(|name| !is_plain_name(name)) {
            return Err(damaged(format!("{MANIFEST} names a file outside: {name:?}")));
        }
        let checkpoint = Self { step: manifest.step, score: manifest.score, files: manifest.files, dir };
        for name in checkpoint.files.keys() {
            checkpoint.read(name)?;
        }
        Ok(checkpoint)
    }

    /// The content of a file; its checksum is verified again.
    ///
    /// # Errors
    /// The checkpoint has no such file, or the file has been changed or removed.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let record = self.files.get(name).ok_or_else(|| CheckpointError::Missing {
            dir: self.dir.clone(),
            name: name.to_owned(),
            held: self.files.keys().cloned().collect(),
        })?;
        let damaged = |reason: String| CheckpointError::Damaged { dir: self.dir.clone(), reason };
        let bytes = fs::read(self.dir.join(name)).map_err(|error| damaged(format!("{name}: {error}")))?;
        if bytes.len() as u64 != record.bytes {
            return Err(damaged(format!("{name} has {} bytes of {}", bytes.len(), record.bytes)));
        }
        if sha256(&bytes) != record.sha256 {
            return Err(damaged(format!("{name} does not match its checksum")));
        }
        Ok(bytes)
    }

    /// The names of its files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { path, source }
}

fn directory_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn step_of(dir: &Path) -> Option<u64> {
    dir.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

fn score_of(dir: &Path) -> Option<f64> {
    serde_json::from_slice::<Manifest>(&fs::read(dir.join(MANIFEST)).ok()?).ok()?.score
}

fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    name != MANIFEST && matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn files(step: u64) -> [Result<(&'static str, Vec<u8>), CheckpointError>; 2] {
        [
            Ok(("control.safetensors", vec![step as u8; 1000])),
            Ok(("state.json", format!("{{\"step\":{step}}}").into_bytes())),
        ]
    }

    fn store(keep_last: usize) -> (tempfile::TempDir, CheckpointStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(dir.path().join("checkpoints"), keep_last);
        (dir, store)
    }

    fn steps(store: &CheckpointStore) -> Vec<u64> {
        store.by_step().unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn saved_files_are_read_back() {
        let (_guard, store) = store(3);
        assert!(store.latest().unwrap().is_none());
        let dir = store.save(100, files(100), Some(21.5)).unwrap();
        assert!(dir.ends_with("checkpoints/step-00000100"));
        let checkpoint = store.latest().unwrap().unwrap();
        assert_eq!((checkpoint.step, checkpoint.score), (100, Some(21.5)));
        for (name, bytes) in files(100).map(Result::unwrap) {
            assert_eq!(checkpoint.read(name).unwrap(), bytes);
        }
        let message = checkpoint.read("ema.safetensors").unwrap_err().to_string();
        assert!(message.contains("holds control.safetensors, state.json"), "{message}");
    }

    /// Damages the newest of two checkpoints. The other must be used, and the error must have the reason.
    fn falls_back(damage: impl Fn(&Path), reason: &str) {
        let (_guard, store) = store(3);
        store.save(1, files(1), None).unwrap();
        let newest = store.save(2, files(2), None).unwrap();
        damage(&newest);
        let message = Checkpoint::open(&newest).unwrap_err().to_string();
        assert!(message.contains(reason) && message.contains("step-00000002"), "{message}");
        assert_eq!(store.latest().unwrap().unwrap().step, 1);
        assert_eq!(store.latest().unwrap().unwrap().read("control.safetensors").unwrap(), vec![1; 1000]);
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        falls_back(
            |dir| File::options().write(true).open(dir.join("control.safetensors")).unwrap().set_len(999).unwrap(),
            "control.safetensors has 999 bytes of 1000",
        );
    }

    #[test]
    fn a_flipped_bit_is_an_error() {
        let flip = |dir: &Path| {
            let path = dir.join("control.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            bytes[500] ^= 1;
            fs::write(path, bytes).unwrap();
        };
        falls_back(flip, "control.safetensors does not match its checksum");
    }

    #[test]
    fn a_missing_or_truncated_manifest_is_an_error() {
        falls_back(|dir| fs::remove_file(dir.join(MANIFEST)).unwrap(), MANIFEST);
        falls_back(|dir| fs::write(dir.join(MANIFEST), "{\"format\": 1, \"st").unwrap(), MANIFEST);
        falls_back(|dir| fs::remove_file(dir.join("state.json")).unwrap(), "state.json");
    }

    #[test]
    fn a_manifest_can_not_name_files_outside() {
        let climb = |dir: &Path| {
            let manifest = fs::read_to_string(dir.join(MANIFEST)).unwrap().replace("state.json", "../../x");
            fs::write(dir.join(MANIFEST), manifest).unwrap();
        };
        falls_back(climb, "outside");
    }

    #[test]
    fn a_fallback_gives_a_warning() {
        use std::sync::{Arc, Mutex};

        #[derive(Default)]
        struct Messages(Arc<Mutex<Vec<String>>>);
        impl tracing::Subscriber for Messages {
            fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
                true
            }
            fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
                tracing::span::Id::from_u64(1)
            }
            fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
            fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
            fn event(&self, event: &tracing::Event<'_>) {
                let messages = &self.0;
                let mut visit = |_: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                    messages.lock().unwrap().push(format!("{value:?}"));
                };
                event.record(&mut visit);
            }
            fn enter(&self, _: &tracing::span::Id) {}
            fn exit(&self, _: &tracing::span::Id) {}
        }

        let (_guard, store) = store(3);
        store.save(1, files(1), None).unwrap();
        fs::write(store.save(2, files(2), None).unwrap().join("state.json"), "{}").unwrap();
        let messages = Messages::default();
        let logged = messages.0.clone();
        tracing::subscriber::with_default(messages, || store.latest().unwrap());
        let logged = logged.lock().unwrap().join("\n");
        assert!(logged.contains("step-00000002") && logged.contains("state.json has 2 bytes of 10"), "{logged}");
    }

    #[test]
    fn if_all_are_damaged_the_error_names_each() {
        let (_guard, store) = store(3);
        for step in [1, 2] {
            fs::remove_file(store.save(step, files(step), None).unwrap().join(MANIFEST)).unwrap();
        }
        let message = store.latest().unwrap_err().to_string();
        assert!(message.contains("step-00000001") && message.contains("step-00000002"), "{message}");
    }

    #[test]
    fn the_newest_and_the_best_are_kept() {
        let (_guard, store) = store(2);
        for (step, score) in [(1, Some(1.0)), (2, Some(9.0)), (3, None), (4, Some(f64::NAN)), (5, Some(8.0)), (6, None)]
        {
            store.save(step, files(step), score).unwrap();
        }
        assert_eq!(steps(&store), [2, 5, 6]);
        assert_eq!(store.best().unwrap().unwrap().step, 2);
        store.save(7, files(7), Some(10.0)).unwrap();
        store.save(8, files(8), None).unwrap();
        assert_eq!(steps(&store), [7, 8]);
    }

    #[test]
    fn a_damaged_later_checkpoint_does_not_displace_the_one_just_saved() {
        let (_guard, store) = store(1);
        store.save(1, files(1), None).unwrap();
        let later = store.dir.join("step-00000009");
        fs::create_dir(&later).unwrap();
        store.save(2, files(2), None).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 2);
        store.save(9, files(9), None).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 9);
        assert_eq!(steps(&store), [9]);
    }

    #[test]
    fn leftovers_of_a_kill_are_ignored_and_removed() {
        let (_guard, store) = store(2);
        store.save(1, files(1), None).unwrap();
        let leftover = store.dir.join(".tmp-step-00000002");
        fs::create_dir(&leftover).unwrap();
        fs::write(leftover.join("control.safetensors"), "half").unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 1);
        store.save(2, files(2), None).unwrap();
        assert!(!leftover.exists());
        assert_eq!(store.latest().unwrap().unwrap().step, 2);
    }

    #[test]
    fn names_outside_of_the_directory_are_rejected() {
        let (_guard, store) = store(2);
        for name in ["../x", "/x", "a/b", "", ".", "..", "a/", MANIFEST] {
            let saved = store.save(1, [Ok((name, vec![]))], None);
            assert!(matches!(saved, Err(CheckpointError::Name { .. })), "{name:?}");
        }
        assert!(store.latest().unwrap().is_none());
    }
}
