//! Weights in and out: safetensors in the layout and under the names that diffusers and transformers use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::tensor::DType;
use burn_store::{
    BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore,
};
use serde::de::DeserializeOwned;

/// Buffers that checkpoints carry and that no model reads: positions are counted, not loaded.
const UNREAD_BUFFERS: [&str; 1] = ["embeddings.position_ids"];

/// How many names of missing, extra or mis-shaped tensors an error shows.
const NAMES_SHOWN: usize = 5;

/// Reads `config.json` of a model folder.
///
/// # Errors
/// The file is missing or does not have the expected form; the message names the file.
pub fn read_config<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    let path = folder.join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))
}

/// The safetensors file of a model folder: diffusers' name for its models, transformers' for the encoders.
///
/// # Errors
/// Neither file is there.
pub fn weights_file(folder: &Path) -> Result<PathBuf> {
    ["diffusion_pytorch_model.safetensors", "model.safetensors"]
        .map(|name| folder.join(name))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no diffusion_pytorch_model.safetensors or model.safetensors in {}", folder.display()))
}

/// Fills every parameter of `module` from a safetensors file of any float type, converted to `f32`.
///
/// # Errors
/// One error for everything that does not fit: missing, extra and mis-shaped tensors, by name.
pub fn load<M: Module>(module: &mut M, file: &Path) -> Result<()> {
    apply(module, SafetensorsStore::from_file(file), &file.display().to_string())
}

/// As [`load`], from bytes in memory; `origin` is what an error calls them.
///
/// # Errors
/// As [`load`].
pub fn load_bytes<M: Module>(module: &mut M, bytes: Vec<u8>, origin: &str) -> Result<()> {
    apply(module, SafetensorsStore::from_bytes(Some(bytes)), origin)
}

fn apply<M: Module>(module: &mut M, store: SafetensorsStore, origin: &str) -> Result<()> {
    let mut store = store
        .with_from_adapter(PyTorchToBurnAdapter.chain(FloatCastAdapter::to(DType::F32)))
        .skip_enum_variants(true)
        .allow_partial(true)
        .validate(false);
    let result = match module.load_from(&mut store) {
        Ok(result) => result,
        Err(error) => bail!("can't read the weights in {origin}: {error}"),
    };
    let unused: Vec<_> =
        result.unused.iter().filter(|name| !UNREAD_BUFFERS.iter().any(|buffer| name.ends_with(buffer))).collect();
    let missing: Vec<_> = result.missing.iter().map(|(name, _)| name).collect();
    let mut faults = Vec::new();
    let mut fault = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            let shown = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(NAMES_SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            faults.push(format!("{} {what}: {shown}{more}", names.len()));
        }
    };
    fault("wrong", result.errors.iter().map(ToString::to_string).collect());
    fault("missing", missing.iter().map(ToString::to_string).collect());
    fault("not part of the model", unused.iter().map(ToString::to_string).collect());
    if !faults.is_empty() {
        bail!("the weights in {origin} do not fit the model that config.json describes: {}", faults.join("; "));
    }
    Ok(())
}

/// The module's parameters as the bytes of a safetensors file under diffusers' names, `f32` or `f16`.
///
/// # Errors
/// A tensor can't be read back from its device.
pub fn to_bytes<M: Module>(module: &M, dtype: DType) -> Result<Vec<u8>> {
    let mut store = SafetensorsStore::from_bytes(None)
        .with_to_adapter(BurnToPyTorchAdapter.chain(FloatCastAdapter::to(dtype)))
        .skip_enum_variants(true)
        .clear_metadata()
        // What diffusers and transformers look for before they open a file.
        .metadata("format", "pt");
    if let Err(error) = module.save_into(&mut store) {
        bail!("can't collect the weights: {error}");
    }
    match store.get_bytes() {
        Ok(bytes) => Ok(bytes),
        Err(error) => bail!("can't collect the weights: {error}"),
    }
}
