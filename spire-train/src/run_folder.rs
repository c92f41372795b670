//! The files of a run folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use spire_core::atomic_write::write_atomic;
use spire_core::folder_lock::FolderLock;
use spire_core::settings;
use spire_model::model_file;

use crate::checkpoint::CheckpointStore;
use crate::config::RunConfig;

/// How long a folder that one machine created may take to appear on another.
const APPEARS_WITHIN: Duration = Duration::from_secs(60);

/// The folder of a run that this process has created and alone writes into.
#[derive(Debug)]
pub struct NewRun {
    folder: RunFolder,
    _lock: FolderLock,
    /// Whether there was no such folder before.
    fresh: bool,
}

impl NewRun {
    /// Creates and locks the folder of a new run and writes the resolved configuration into it.
    ///
    /// # Errors
    /// There is a run already, another process uses the folder, or it can't be written.
    pub fn create(config: &RunConfig) -> Result<Self> {
        let folder = RunFolder::at(&config.run.dir);
        let fresh = !folder.dir.exists();
        let lock = folder.lock()?;
        RunFolder::check_free(config)?;
        let new = Self { folder, _lock: lock, fresh };
        if let Err(error) = new.write(config) {
            new.discard();
            return Err(error);
        }
        Ok(new)
    }

    fn write(&self, config: &RunConfig) -> Result<()> {
        let samples = self.folder.samples();
        fs::create_dir_all(&samples).with_context(|| format!("can't create {}", samples.display()))?;
        write_atomic(&self.folder.config_file(), settings::resolved(config)?.as_bytes())?;
        Ok(())
    }

    /// The folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Removes the folder of a run that failed before its first step, so that the corrected command can start. Of a folder
    /// that was there before, it removes only the configuration, which marks it as a run's.
    pub fn discard(self) {
        let removed = match self.fresh {
            true => fs::remove_dir_all(&self.folder.dir),
            false => fs::remove_file(self.folder.config_file()),
        };
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("can't remove {}, whose run did not start: {error}", self.folder.dir.display());
        }
    }
}

/// A run folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// Waits for the folder that the first rank creates.
    ///
    /// # Errors
    /// It does not appear on this machine.
    pub fn wait_until_created(&self) -> Result<()> {
        let start = Instant::now();
        while !self.config_file().is_file() {
            ensure!(
                start.elapsed() < APPEARS_WITHIN,
                "the first rank created {}, but it does not appear on this machine: run.dir must be on a file system that all \
                 machines share",
                self.dir.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The folder of a run that may not exist yet.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Checks that no run exists in the folder of a new run.
    ///
    /// # Errors
    /// There is a run already.
    pub fn check_free(config: &RunConfig) -> Result<()> {
        let dir = config.run.dir.display();
        if Self::at(&config.run.dir).config_file().exists() {
            bail!(
                "there is a run in {dir} already: continue it (spire train --resume {dir}), remove it, or choose another \
                 folder (--set run.dir=…)"
            );
        }
        Ok(())
    }

    /// Opens the folder of a run and reads its configuration. `run.dir` becomes `dir`, because the folder may have
    /// moved.
    ///
    /// # Errors
    /// It is no run folder, or its configuration does not read.
    pub fn open(dir: &Path, overrides: &[String]) -> Result<(Self, RunConfig)> {
        let folder = Self { dir: dir.to_owned() };
        let file = folder.config_file();
        if !file.is_file() {
            bail!("{} is no run folder: it has no config.toml", dir.display());
        }
        let mut config: RunConfig = settings::load(&file, overrides)?;
        config.run.dir = dir.to_owned();
        Ok((folder, config))
    }

    /// The full configuration, `config.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// Locks the folder: only one process at a time may write into it.
    ///
    /// # Errors
    /// Another process holds the lock, or the folder can't be written.
    pub fn lock(&self) -> Result<FolderLock> {
        Ok(FolderLock::take(&self.dir)?)
    }

    /// Replaces the configuration. The one before stays, as `config.1.toml`, `config.2.toml`, …; returns its file name.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn replace_config(&self, config: &RunConfig) -> Result<String> {
        let path = self.config_file();
        let before = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let names = (1_u32..).map(|number| format!("config.{number}.toml"));
        let name = names.into_iter().find(|name| !self.dir.join(name).exists()).context("no name is free")?;
        write_atomic(&self.dir.join(&name), &before)?;
        write_atomic(&path, settings::resolved(config)?.as_bytes())?;
        Ok(name)
    }

    /// Moves what a run did after `step` into a new folder in `abandoned/`: later checkpoints, the summary and the finished
    /// branch, and a copy of the metrics. Returns the folder.
    ///
    /// # Errors
    /// A file can't be moved.
    pub fn abandon_after(&self, step: u64) -> Result<PathBuf> {
        let folders = (1_u32..).map(|number| self.dir.join("abandoned").join(number.to_string()));
        let folder = folders.into_iter().find(|folder| !folder.exists()).context("no name is free")?;
        fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
        self.checkpoints(1).move_later(step, &folder)?;
        if let Ok(metrics) = fs::read(self.metrics()) {
            write_atomic(&folder.join("metrics.jsonl"), &metrics)?;
        }
        for path in [self.summary(), self.control()].into_iter().filter(|path| path.exists()) {
            let to = folder.join(path.file_name().unwrap_or_default());
            fs::rename(&path, to).with_context(|| format!("can't move {}", path.display()))?;
        }
        Ok(folder)
    }

    /// The starts of the run, `starts.jsonl`.
    pub fn starts(&self) -> PathBuf {
        self.dir.join("starts.jsonl")
    }

    /// The checkpoints, in `checkpoints/`.
    pub fn checkpoints(&self, keep_last: usize) -> CheckpointStore {
        CheckpointStore::new(self.dir.join("checkpoints"), keep_last)
    }

    /// The metrics of every step, `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// Event files for TensorBoard, in `tensorboard/`.
    pub fn tensorboard(&self) -> PathBuf {
        self.dir.join("tensorboard")
    }

    /// Sheets of held-out samples, in `samples/`.
    pub fn samples(&self) -> PathBuf {
        self.dir.join("samples")
    }

    /// Sheets of the fixed pictures of `[[validate.pictures]]`, in `validation/`.
    pub fn validation(&self) -> PathBuf {
        self.dir.join("validation")
    }

    /// The figures at the end, `summary.json`.
    pub fn summary(&self) -> PathBuf {
        self.dir.join("summary.json")
    }

    /// The trained control branch in diffusers' layout, in `control/`.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// What restoring needs to know about the branch, `model.toml`.
    pub fn model_file(&self) -> PathBuf {
        self.dir.join(model_file::FILE_NAME)
    }

    /// The control branch to restore with: the finished one, or that of the newest intact checkpoint.
    ///
    /// # Errors
    /// There is neither.
    pub fn trained_control(&self) -> Result<PathBuf> {
        if spire_model::weights::weights_file(&self.control()).is_ok() {
            return Ok(self.control());
        }
        match self.checkpoints(1).latest()? {
            Some(checkpoint) => Ok(checkpoint.dir),
            None => bail!("the run in {} has no checkpoint yet", self.dir.display()),
        }
    }
}
