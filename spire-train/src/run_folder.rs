//! The files of a run folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use spire_core::atomic_write::write_atomic;
use spire_core::settings;
use spire_model::model_file;

use crate::checkpoint::CheckpointStore;
use crate::config::RunConfig;

/// How long a folder that one machine created may take to appear on another.
const APPEARS_WITHIN: Duration = Duration::from_secs(60);

/// A run folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// Creates the folder of a new run and writes the resolved configuration into it.
    ///
    /// # Errors
    /// There is a run already, or the folder can't be written.
    pub fn create(config: &RunConfig) -> Result<Self> {
        Self::check_free(config)?;
        let folder = Self { dir: config.run.dir.clone() };
        fs::create_dir_all(folder.samples()).with_context(|| format!("can't create {}", folder.dir.display()))?;
        write_atomic(&folder.config_file(), settings::resolved(config)?.as_bytes())?;
        Ok(folder)
    }

    /// Waits for the folder that the first rank creates.
    ///
    /// # Errors
    /// It does not appear on this machine.
    pub fn created_elsewhere(config: &RunConfig) -> Result<Self> {
        let folder = Self::at(&config.run.dir);
        let start = Instant::now();
        while !folder.config_file().is_file() {
            ensure!(
                start.elapsed() < APPEARS_WITHIN,
                "the first rank created {}, but it does not appear on this machine: run.dir must be on a file system that all \
                 machines share",
                folder.dir.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(folder)
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
