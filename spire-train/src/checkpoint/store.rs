//! The checkpoints of a run: how they are written, which one a run continues from, which ones are removed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use spire_core::atomic_write::{TEMPORARY, sync_dir, write_atomic, write_synced};
use tracing::warn;

use super::error::CheckpointError;
use super::retention::{Candidate, kept};
use super::saved::{
    Checkpoint, FORMAT, FileRecord, MANIFEST, Manifest, Standing, directory_name, is_plain_name, step_of,
};

type Result<T, E = CheckpointError> = std::result::Result<T, E>;

/// The checkpoints of one run. Only one process may save at a time; any number may read meanwhile.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    keep_last: usize,
}

impl CheckpointStore {
    /// The store in `dir`, which may not exist yet. It keeps the newest `keep_last` checkpoints, at least one, and those
    /// that [`kept`] adds.
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
        fs::create_dir_all(&self.dir).map_err(CheckpointError::io(&self.dir))?;
        self.remove_temporaries()?;
        let written = self.write(step, files, score);
        if written.is_err() {
            // What is half written would take room that a full disk lacks. The first error is the one to tell.
            let _ = self.remove_temporaries();
        }
        let dir = written?;
        self.prune(step)?;
        Ok(dir)
    }

    fn write<'a, E: From<CheckpointError>>(
        &self,
        step: u64,
        files: impl IntoIterator<Item = Result<(&'a str, Vec<u8>), E>>,
        score: Option<f64>,
    ) -> Result<PathBuf, E> {
        let name = directory_name(step);
        let temporary = self.dir.join(format!("{TEMPORARY}{name}"));
        fs::create_dir(&temporary).map_err(CheckpointError::io(&temporary))?;
        let mut records = BTreeMap::new();
        for file in files {
            let (name, bytes) = file?;
            if !is_plain_name(name) {
                return Err(CheckpointError::Name { name: name.to_owned() }.into());
            }
            write_synced(&temporary.join(name), &bytes).map_err(CheckpointError::from)?;
            records.insert(name.to_owned(), FileRecord::of(&bytes));
        }
        let score = score.filter(|score| score.is_finite());
        let manifest = Manifest { format: FORMAT, step, score, standing: Standing::New, files: records };
        write_synced(&temporary.join(MANIFEST), &manifest.to_json()).map_err(CheckpointError::from)?;
        sync_dir(&temporary).map_err(CheckpointError::from)?;

        let dir = self.dir.join(&name);
        let replaced = self.dir.join(format!("{TEMPORARY}replaced-{name}"));
        if dir.exists() {
            fs::rename(&dir, &replaced).map_err(CheckpointError::io(&dir))?;
        }
        if let Err(error) = fs::rename(&temporary, &dir) {
            // The old one stays, if there is one.
            let _ = fs::rename(&replaced, &dir);
            return Err(CheckpointError::io(&dir)(error).into());
        }
        sync_dir(&self.dir).map_err(CheckpointError::from)?;
        self.remove_temporaries()?;
        Ok(dir)
    }

    /// The newest intact checkpoint that is not marked as bad; `None` without one. A warning names each newer one that is
    /// left out, with the reason.
    ///
    /// # Errors
    /// Checkpoints are damaged and none can be used, or the directory can't be read.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let mut reasons = Vec::new();
        for (step, dir) in self.by_step()?.into_iter().rev() {
            if Manifest::read(&dir).is_ok_and(|manifest| manifest.standing == Standing::Bad) {
                warn!("{} is left out: the steps after it were not finite (--from {step} uses it)", dir.display());
                continue;
            }
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
        let dir = self.dir.join(directory_name(step));
        if !dir.is_dir() {
            let held = self.by_step()?.into_iter().map(|(step, _)| step).collect();
            return Err(CheckpointError::NoStep { dir: self.dir.clone(), step, held });
        }
        Checkpoint::open(dir)
    }

    /// The intact checkpoint with the highest score, the newest of equal ones; `None` if none has a score. Those that are
    /// marked as bad don't count.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn best(&self) -> Result<Option<Checkpoint>> {
        let score = |dir: &Path| Manifest::read(dir).ok().filter(|it| it.standing != Standing::Bad)?.score;
        let mut scored: Vec<(f64, PathBuf)> =
            self.by_step()?.into_iter().filter_map(|(_, dir)| Some((score(&dir)?, dir))).collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, dir) in scored.into_iter().rev() {
            match Checkpoint::open(&dir) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => warn!("{error}; trying the next best"),
            }
        }
        Ok(None)
    }

    /// Marks the checkpoint of `step` as good, and earlier ones of which nothing is known yet.
    ///
    /// # Errors
    /// A manifest can't be written.
    pub fn mark_good(&self, step: u64) -> Result<()> {
        self.mark(|other, known| other == step || (other < step && known == Standing::New), Standing::Good)
    }

    /// Marks the checkpoints of `steps` as bad.
    ///
    /// # Errors
    /// A manifest can't be written.
    pub fn mark_bad(&self, steps: &[u64]) -> Result<()> {
        self.mark(|step, _| steps.contains(&step), Standing::Bad)
    }

    /// Damaged checkpoints stay as they are.
    fn mark(&self, chosen: impl Fn(u64, Standing) -> bool, standing: Standing) -> Result<()> {
        for (step, dir) in self.by_step()? {
            if let Ok(manifest) = Manifest::read(&dir)
                && chosen(step, manifest.standing)
            {
                write_atomic(&dir.join(MANIFEST), &Manifest { standing, ..manifest }.to_json())?;
            }
        }
        Ok(())
    }

    /// Moves the checkpoints after `step` into `folder`, which exists. Returns their number.
    ///
    /// # Errors
    /// One can't be moved.
    pub fn move_later(&self, step: u64, folder: &Path) -> Result<usize> {
        let later: Vec<_> = self.by_step()?.into_iter().filter(|(other, _)| *other > step).collect();
        for (step, dir) in &later {
            fs::rename(dir, folder.join(directory_name(*step))).map_err(CheckpointError::io(dir))?;
        }
        Ok(later.len())
    }

    /// Of the checkpoints up to `step`, removes all but those that [`kept`] chooses.
    fn prune(&self, step: u64) -> Result<()> {
        let mut all = self.by_step()?;
        all.retain(|(other, _)| *other <= step);
        let candidate = |(step, dir): &(u64, PathBuf)| {
            let Manifest { score, standing, .. } = Manifest::read(dir).ok()?;
            Some(Candidate { step: *step, score, standing })
        };
        let candidates: Vec<Candidate> = all.iter().filter_map(candidate).collect();
        let kept = kept(&candidates, self.keep_last);
        for (_, dir) in all.into_iter().filter(|(step, _)| !kept.contains(step)) {
            // Rename first, so that a kill during the removal leaves no incomplete checkpoint.
            let doomed = self.dir.join(format!("{TEMPORARY}{}", dir.file_name().unwrap_or_default().display()));
            fs::rename(&dir, &doomed).map_err(CheckpointError::io(&dir))?;
            fs::remove_dir_all(&doomed).map_err(CheckpointError::io(&doomed))?;
        }
        Ok(())
    }

    /// Every checkpoint directory, intact or not, oldest first.
    fn by_step(&self) -> Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(CheckpointError::io(&self.dir))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(CheckpointError::io(&self.dir))?.path();
            if let Some(step) = step_of(&path) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    fn remove_temporaries(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir).map_err(CheckpointError::io(&self.dir))? {
            let entry = entry.map_err(CheckpointError::io(&self.dir))?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                fs::remove_dir_all(entry.path()).map_err(CheckpointError::io(&entry.path()))?;
            }
        }
        Ok(())
    }
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
        assert_eq!(checkpoint.step, 100);
        assert_eq!(Manifest::read(&checkpoint.dir).unwrap().score, Some(21.5));
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
        for saved in [1, 2].map(|step| store.save(step, files(step), None).unwrap()) {
            fs::remove_file(saved.join(MANIFEST)).unwrap();
        }
        let message = store.latest().unwrap_err().to_string();
        assert!(message.contains("step-00000001") && message.contains("step-00000002"), "{message}");
    }

    /// Saves a checkpoint and marks it as good.
    fn save_good(store: &CheckpointStore, step: u64, score: Option<f64>) {
        store.save(step, files(step), score).unwrap();
        store.mark_good(step).unwrap();
    }

    #[test]
    fn the_newest_and_the_best_are_kept() {
        let (_guard, store) = store(2);
        for (step, score) in [(1, Some(1.0)), (2, Some(9.0)), (3, None), (4, Some(f64::NAN)), (5, Some(8.0)), (6, None)]
        {
            save_good(&store, step, score);
        }
        assert_eq!(steps(&store), [2, 5, 6]);
        assert_eq!(store.best().unwrap().unwrap().step, 2);
        save_good(&store, 7, Some(10.0));
        save_good(&store, 8, None);
        assert_eq!(steps(&store), [7, 8]);
    }

    #[test]
    fn a_bad_one_is_left_out_and_displaces_no_other() {
        let (_guard, store) = store(1);
        save_good(&store, 1, Some(1.0));
        store.save(2, files(2), Some(2.0)).unwrap();
        store.mark_bad(&[2]).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 1);
        assert_eq!(store.best().unwrap().unwrap().step, 1);
        // Marking changes no file but the manifest.
        assert_eq!(store.of_step(2).unwrap().read("control.safetensors").unwrap(), vec![2; 1000]);
        store.mark_good(9).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 1);
        // Written again by a run that continued from the first, it counts as new.
        store.save(2, files(2), None).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 2);
        store.mark_bad(&[2]).unwrap();
        save_good(&store, 3, None);
        assert_eq!(steps(&store), [1, 3], "the best, the newest, and no bad one");
    }

    #[test]
    fn later_ones_are_moved_and_a_missing_step_lists_the_others() {
        let (guard, store) = store(9);
        for step in [1, 2, 3] {
            store.save(step, files(step), None).unwrap();
        }
        let folder = guard.path().join("abandoned");
        fs::create_dir(&folder).unwrap();
        assert_eq!(store.move_later(1, &folder).unwrap(), 2);
        assert_eq!(steps(&store), [1]);
        assert_eq!(Checkpoint::open(folder.join("step-00000003")).unwrap().step, 3);
        let error = store.of_step(7).unwrap_err().to_string();
        assert!(error.contains("no checkpoint of step 7") && error.ends_with("there are 1"), "{error}");
    }

    #[test]
    fn a_checkpoint_of_an_earlier_version_counts_as_new() {
        let (_guard, store) = store(1);
        let path = store.save(1, files(1), None).unwrap().join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("  \"standing\": \"new\",\n"), "{text}");
        fs::write(&path, text.replace("  \"standing\": \"new\",\n", "")).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 1);
        store.mark_good(1).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("\"good\""));
    }

    #[test]
    fn a_damaged_later_checkpoint_does_not_displace_the_one_just_saved() {
        let (_guard, store) = store(1);
        store.save(1, files(1), None).unwrap();
        let later = store.dir.join("step-00000009");
        fs::create_dir(&later).unwrap();
        store.save(2, files(2), None).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 2);
        store.mark_good(2).unwrap();
        store.save(9, files(9), None).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 9);
        assert_eq!(steps(&store), [2, 9], "the newest and the newest good one");
    }

    #[test]
    fn one_that_can_not_be_written_leaves_the_earlier_ones_and_nothing_else() {
        let (_guard, store) = store(2);
        store.save(1, files(1), None).unwrap();
        let [first, _] = files(2);
        let no_room = CheckpointError::io(&store.dir)(io::Error::from(io::ErrorKind::StorageFull));
        let error = store.save(2, [first, Err(no_room)], None).unwrap_err().to_string();
        assert!(error.contains("no storage space"), "{error}");
        assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 1, "the room is free again");
        assert_eq!(store.latest().unwrap().unwrap().step, 1);
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
