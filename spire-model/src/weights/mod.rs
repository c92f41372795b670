//! Reading and writing weights with the names and in the layouts of diffusers and transformers.
//!
//! Weights on disk are opened as [`Tensors`]: names, types and shapes at once, the values of each tensor when a module
//! takes it. [`fill`] moves them into a module one at a time, so that loading needs little more memory than the module
//! itself.

mod batch_norm;
pub mod checksum;
mod finite;
mod fit;
mod folder;
mod formula;
pub mod inspect;
mod open;
mod safetensors_file;
pub mod single_file;
mod tensors;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor};
use burn_store::{BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, SafetensorsStore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spire_core::bounded_read;

pub use fit::{Misfits, Parameter, check_weights, fill, parameters};
pub(crate) use folder::{has_variant, missing_in_part};
pub use folder::{published_file, weights_file};
pub use formula::{Formula, splitmix64};
pub use tensors::Tensors;

/// The float type of weights and computation.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of `f32` and 8 bits of mantissa.
    Bf16,
    /// 16 bits with 11 bits of mantissa, up to 65504.
    F16,
}

impl Precision {
    /// Burn's name for it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

/// The name in a configuration.
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

/// The most bytes of a `config.json`.
const MOST_CONFIG_BYTES: u64 = 1 << 24;

/// Reads `config.json` of a model folder.
///
/// # Errors
/// The file is missing or does not have the expected form; the message names the file.
pub fn read_config<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    let path = folder.join(name);
    let text =
        bounded_read::read(&path, MOST_CONFIG_BYTES).with_context(|| format!("can't read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not as expected", path.display()))
}

/// Loads the weights in `folder` into `module`, in f32; see [`fill`].
///
/// # Errors
/// There are no weights in the folder, they can't be read, or they do not fit the module.
pub fn load<M: Module>(module: M, folder: &Path) -> Result<M> {
    fill(module, Tensors::in_folder(folder)?, Precision::F32)
}

/// Converts the parameters of `module` to `precision`.
pub fn cast<M: Module>(module: M, precision: Precision) -> M {
    struct Cast(DType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, value, mapper) = param.consume();
            Param::from_mapped_value(id, value.cast(self.0), mapper)
        }
    }
    module.map(&mut Cast(precision.dtype()))
}

/// Serialises the module's parameters as a safetensors file with diffusers' names, in `f32` or `f16`.
///
/// # Errors
/// A tensor can't be read back from its device.
pub fn to_bytes<M: Module>(module: &M, dtype: DType) -> Result<Vec<u8>> {
    let mut store = SafetensorsStore::from_bytes(None)
        .with_to_adapter(BurnToPyTorchAdapter.chain(FloatCastAdapter::to(dtype)))
        .skip_enum_variants(true)
        .clear_metadata()
        // diffusers and transformers require this entry.
        .metadata("format", "pt");
    if let Err(error) = module.save_into(&mut store) {
        bail!("can't collect the weights: {error}");
    }
    match store.get_bytes() {
        Ok(bytes) => Ok(bytes),
        Err(error) => bail!("can't collect the weights: {error}"),
    }
}
