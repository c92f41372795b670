//! Named tensors on disk, whatever the file's format.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Bytes, DType, Shape};
use burn_store::bridge;
use burn_store::burn_pack::{Error, Tensor};
use burn_store::pytorch_reader::PytorchReader;
use serde::Deserialize;

use super::{folder, formula, safetensors_file};

/// Tensors by their names in PyTorch's state dict. Only names, types and shapes are in memory.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    origin: String,
    tensors: BTreeMap<String, Tensor>,
}

impl Tensors {
    /// `origin` is what errors call them.
    pub fn new(origin: impl Into<String>, tensors: impl IntoIterator<Item = Tensor>) -> Self {
        let tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Self { origin: origin.into(), tensors }
    }

    /// Opens a file of weights: `.safetensors`; `.index.json`, which lists the shards of a large model; `.bin`, `.ckpt`,
    /// `.pt` or `.pth`, the pickles of PyTorch, of which nothing is executed; `.formula.json` ([`super::Formula`]).
    ///
    /// # Errors
    /// The file can't be read or contradicts itself; the message names it.
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

    /// A safetensors file in memory; `origin` is what errors call it.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn from_bytes(bytes: Vec<u8>, origin: &str) -> Result<Self> {
        let tensors = safetensors_file::parse(bytes).with_context(|| format!("can't read the weights in {origin}"))?;
        Ok(Self::new(origin, tensors))
    }

    /// What errors call them: their file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Whether any name starts with `prefix`.
    pub fn has(&self, prefix: &str) -> bool {
        self.tensors.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// The shape of one of them.
    ///
    /// # Errors
    /// It is not there, or has not `N` dimensions.
    pub fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let tensor = self.get(name).with_context(|| format!("there is no tensor {name} in {}", self.origin))?;
        let shape: Result<[usize; N], _> = tensor.shape.to_vec().try_into();
        shape.ok().with_context(|| {
            format!(
                "{}: {name} has the shape {:?}, where {N} dimensions are expected",
                self.origin,
                tensor.shape.to_vec()
            )
        })
    }

    /// Those for which `rename` gives new names, under these.
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = self.iter().filter_map(|tensor| {
            let mut renamed = tensor.clone();
            renamed.name = rename(&tensor.name)?;
            Some(renamed)
        });
        Self::new(self.origin.clone(), tensors)
    }

    /// Adds one, or replaces the one of that name.
    pub fn insert(&mut self, tensor: Tensor) {
        self.tensors.insert(tensor.name.clone(), tensor);
    }

    pub(super) fn into_tensors(self) -> Vec<Tensor> {
        self.tensors.into_values().collect()
    }
}

/// The same numbers in another shape of as many elements.
pub(super) fn reshaped(tensor: &Tensor, shape: Vec<usize>) -> Tensor {
    let source = tensor.clone();
    Tensor::deferred(tensor.name.clone(), tensor.dtype, shape, None, tensor.byte_len(), move || source.to_bytes())
}

/// Some rows, that is, entries of the first dimension, as a tensor called `name`. They must be there.
pub(super) fn rows(tensor: &Tensor, rows: Range<usize>, name: String) -> Tensor {
    let mut shape = tensor.shape.to_vec();
    let stride = tensor.byte_len() / shape[0].max(1);
    shape[0] = rows.len();
    let bytes = rows.start * stride..rows.end * stride;
    let source = tensor.clone();
    Tensor::deferred(name, tensor.dtype, shape, None, bytes.len(), move || {
        Ok(Bytes::from_bytes_vec(source.to_bytes()?[bytes.clone()].to_vec()))
    })
}

/// A tensor whose numbers come from `read`; refuses sizes that do not fit in memory's address space.
pub(super) fn deferred(
    name: &str,
    dtype: DType,
    shape: &[usize],
    read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
) -> Result<Tensor> {
    let bytes = shape.iter().try_fold(dtype.size(), |bytes, &side| bytes.checked_mul(side));
    let bytes = bytes.with_context(|| format!("{name} has the shape {shape:?}: no memory holds that"))?;
    Ok(Tensor::deferred(name.to_owned(), dtype, Shape::from(shape.to_vec()), None, bytes, move || {
        read().map(Bytes::from_bytes_vec).map_err(|error| Error::IoError(format!("{error:#}")))
    }))
}

/// `*.index.json`: which file beside it holds which tensor.
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

/// Training frameworks put the weights under this key, beside their own state.
const STATE_DICT: &str = "state_dict";

fn open_pickle(file: &Path) -> Result<Vec<Tensor>> {
    let reader = PytorchReader::with_top_level_key(file, STATE_DICT).or_else(|_| PytorchReader::new(file));
    let tensors = reader.map_err(|error| anyhow::anyhow!("{error}"))?.into_tensors();
    Ok(tensors.into_values().map(bridge::from_pytorch).collect())
}
