//! Opening weights files by format.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use burn_store::bridge;
use burn_store::burn_pack::Tensor;
use burn_store::pytorch_reader::PytorchReader;
use serde::Deserialize;

use super::{Tensors, folder, formula, safetensors_file};

impl Tensors {
    /// Opens a weights file: `.safetensors`; `.index.json`, the shards of a large model; `.bin`, `.ckpt`, `.pt` or
    /// `.pth`, PyTorch's pickles, whose code is not executed; `.formula.json` ([`super::Formula`]).
    ///
    /// # Errors
    /// The file is unreadable or inconsistent; the message names it.
    pub fn open(file: &Path) -> Result<Self> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let ends = |ending: &str| name.ends_with(ending);
        let tensors = if ends(".safetensors") {
            safetensors_file::open(file)
        } else if ends(".formula.json") {
            formula::open(file)
        } else if ends(".json") {
            open_shards(file)
        } else if [".bin", ".ckpt", ".pt", ".pth"].into_iter().any(ends) {
            open_pickle(file)
        } else {
            bail!(
                "{}: weights are read from .safetensors, .bin, .ckpt, .pt and .pth files and from the .index.json of \
                 shards",
                file.display()
            )
        };
        let tensors = tensors.with_context(|| format!("can't read the weights in {}", file.display()))?;
        ensure!(!tensors.is_empty(), "there are no tensors in {}", file.display());
        Ok(Self::new(file.display().to_string(), tensors))
    }

    /// Opens the weights of a model folder: see [`super::weights_file`].
    ///
    /// # Errors
    /// There are none, or as [`Self::open`].
    pub fn in_folder(folder: &Path) -> Result<Self> {
        Self::open(&folder::weights_file(folder)?)
    }

    /// As [`Self::in_folder`]; the weights of `variant`, such as `fp16`, if the folder has them.
    ///
    /// # Errors
    /// As [`Self::in_folder`].
    pub(crate) fn of_variant(folder: &Path, variant: Option<&str>) -> Result<Self> {
        Self::open(&folder::weights_file_of(folder, variant)?)
    }

    /// Opens a weights file, or the weights of a folder. The prefix `module.` of PyTorch's data parallel training is
    /// removed.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::in_folder`].
    pub fn at(path: &Path) -> Result<Self> {
        let tensors = if path.is_dir() { Self::in_folder(path) } else { Self::open(path) }?;
        Ok(tensors.renamed(|name| Some(name.strip_prefix("module.").unwrap_or(name).to_owned())))
    }

    /// Opens a safetensors file in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// The bytes are inconsistent.
    pub fn from_bytes(bytes: Vec<u8>, origin: &str) -> Result<Self> {
        let tensors = safetensors_file::parse(bytes).with_context(|| format!("can't read the weights in {origin}"))?;
        Ok(Self::new(origin, tensors))
    }
}

/// `*.index.json`: maps tensors to the files beside it.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    fn read(file: &Path) -> Result<Self> {
        serde_json::from_slice(&std::fs::read(file)?).context("not an index of shards")
    }
}

/// The files that a weights file refers to: the shards of an `.index.json`, or none.
///
/// # Errors
/// The index can't be read.
pub(super) fn shards(file: &Path) -> Result<BTreeSet<PathBuf>> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if !name.ends_with(".json") || name.ends_with(".formula.json") {
        return Ok(BTreeSet::new());
    }
    let index = ShardIndex::read(file).with_context(|| file.display().to_string())?;
    Ok(index.weight_map.into_values().map(|shard| file.with_file_name(shard)).collect())
}

fn open_shards(file: &Path) -> Result<Vec<Tensor>> {
    let index = ShardIndex::read(file)?;
    let mut shards: BTreeMap<&str, Tensors> = BTreeMap::new();
    let mut tensors = Vec::with_capacity(index.weight_map.len());
    for (name, shard) in &index.weight_map {
        ensure!(
            !shard.contains(['/', '\\']) && !shard.ends_with(".json"),
            "the shard {shard:?} is not a file beside the index"
        );
        if !shards.contains_key(shard.as_str()) {
            shards.insert(shard, Tensors::open(&file.with_file_name(shard))?);
        }
        let tensor = shards[shard.as_str()].get(name);
        tensors.push(
            tensor.with_context(|| format!("{shard} has no tensor {name}, which the index says it has"))?.clone(),
        );
    }
    Ok(tensors)
}

/// Training frameworks store the weights under one of these keys, beside their own state; BasicSR has averaged weights
/// under `params_ema`, which its authors use where they are there.
const STATE_DICTS: [&str; 3] = ["state_dict", "params_ema", "params"];

fn open_pickle(file: &Path) -> Result<Vec<Tensor>> {
    let read = || {
        let keyed = STATE_DICTS.iter().find_map(|key| PytorchReader::with_top_level_key(file, key).ok());
        keyed.map_or_else(|| PytorchReader::new(file), Ok)
    };
    // The reader is not made for hostile files: a panic in it is an error of the file.
    let reader = catch_unwind(read).map_err(|_| anyhow!("it is damaged"))?;
    let tensors = reader.map_err(|error| anyhow!("{error}"))?.into_tensors();
    Ok(tensors.into_values().map(bridge::from_pytorch).collect())
}
