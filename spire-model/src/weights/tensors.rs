//! Named tensors on disk, whatever the file's format.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Bytes, DType, Device, Element, Shape, Tensor as ComputeTensor, TensorData};
use burn_store::burn_pack::{Error, Tensor};

use super::finite::checked;

/// Tensors by their names in PyTorch's state dict. Only names, types and shapes are held in memory.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    origin: String,
    tensors: BTreeMap<String, Tensor>,
}

impl Tensors {
    /// `origin` names them in errors.
    pub fn new(origin: impl Into<String>, tensors: impl IntoIterator<Item = Tensor>) -> Self {
        let tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Self { origin: origin.into(), tensors }
    }

    /// Their name in errors: the file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Whether any name starts with `prefix`.
    pub fn has(&self, prefix: &str) -> bool {
        self.tensors.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// The tensor does not exist, or does not have `N` dimensions.
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

    /// Reads a tensor as f32.
    ///
    /// # Errors
    /// The tensor does not exist, does not have `N` dimensions, is not a float tensor, or can't be read.
    pub fn tensor<const N: usize>(&self, name: &str, device: &Device) -> Result<ComputeTensor<N>> {
        let shape = self.shape::<N>(name)?;
        let tensor = self.get(name).with_context(|| format!("there is no tensor {name} in {}", self.origin))?;
        ensure!(tensor.dtype.is_float(), "{}: {name} holds {:?}, expected are floats", self.origin, tensor.dtype);
        let values: Vec<f32> = values(&checked(tensor)).with_context(|| format!("can't read {}", self.origin))?;
        Ok(ComputeTensor::from_data(TensorData::new(values, shape), device))
    }

    /// The tensors for which `rename` returns a name, under that name.
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = self.iter().filter_map(|tensor| {
            let mut renamed = tensor.clone();
            renamed.name = rename(&tensor.name)?;
            Some(renamed)
        });
        Self::new(self.origin.clone(), tensors)
    }

    /// Changes the shape of a tensor, if it exists, to one with as many elements.
    ///
    /// # Errors
    /// The number of elements differs.
    pub fn reshape(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        let Some(tensor) = self.tensors.get_mut(name) else { return Ok(()) };
        ensure!(
            tensor.shape.iter().product::<usize>() == shape.iter().product::<usize>(),
            "{}: {name} has the shape {:?}, expected {shape:?}",
            self.origin,
            tensor.shape.to_vec()
        );
        *tensor = reshaped(tensor, shape.to_vec());
        Ok(())
    }

    /// Adds a tensor, or replaces the one of that name.
    pub fn insert(&mut self, tensor: Tensor) {
        self.tensors.insert(tensor.name.clone(), tensor);
    }
}

/// The values of a tensor of any type.
pub(super) fn values<E: Element>(tensor: &Tensor) -> Result<Vec<E>, Error> {
    let data = TensorData::from_bytes(tensor.to_bytes()?, tensor.shape.clone(), tensor.dtype);
    Ok(data.iter::<E>().collect())
}

/// The same values in another shape with as many elements.
pub(super) fn reshaped(tensor: &Tensor, shape: Vec<usize>) -> Tensor {
    let source = tensor.clone();
    Tensor::deferred(tensor.name.clone(), tensor.dtype, shape, None, tensor.byte_len(), move || source.to_bytes())
}

/// A range of the first dimension as a tensor called `name`. The range must exist.
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

/// A tensor whose values `read` provides on demand; rejects sizes beyond the address space.
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
