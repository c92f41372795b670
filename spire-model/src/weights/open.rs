//! Opening weights files by format.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
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

fn open_shards(file: &Path) -> Result<Vec<Tensor>> {
    let index: ShardIndex = serde_json::from_slice(&std::fs::read(file)?).context("not an index of shards")?;
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
    let keyed = STATE_DICTS.iter().find_map(|key| PytorchReader::with_top_level_key(file, key).ok());
    let reader = keyed.map_or_else(|| PytorchReader::new(file), Ok);
    let tensors = reader.map_err(|error| anyhow::anyhow!("{error}"))?.into_tensors();
    Ok(tensors.into_values().map(bridge::from_pytorch).collect())
}
