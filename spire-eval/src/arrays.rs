//! Named arrays of a safetensors file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// A row-major array. Every element type is widened to `f64` without loss; integers beyond 2⁵³ are rejected.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Length of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// The values; their number is the product of the shape.
    pub values: Vec<f64>,
}

impl Array {
    /// One value, shape `[1]`.
    pub fn scalar(value: f64) -> Self {
        Self { shape: vec![1], values: vec![value] }
    }
}

impl<const D: usize> From<Tensor<D>> for Array {
    fn from(tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        Self { shape, values: tensor.into_data().iter::<f64>().collect() }
    }
}

/// The arrays of one file.
#[derive(Debug)]
pub struct Arrays {
    path: PathBuf,
    arrays: BTreeMap<String, Array>,
}

impl Arrays {
    /// Reads every array of a safetensors file.
    ///
    /// # Errors
    /// The file can't be read, is truncated or damaged, or has an element type other than 8- to 64-bit integers, half,
    /// bfloat16, single and double floats.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let bytes = std::fs::read(&path).with_context(|| format!("{}: can't be read", path.display()))?;
        let file = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("{}: not a whole safetensors file", path.display()))?;
        let mut arrays = BTreeMap::new();
        for (name, view) in file.iter() {
            let values = widen(&view).with_context(|| format!("{}: {name}", path.display()))?;
            arrays.insert(name.to_owned(), Array { shape: view.shape().to_vec(), values });
        }
        Ok(Self { path, arrays })
    }

    /// Names of all arrays, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.keys().map(String::as_str)
    }

    /// The array called `name`.
    ///
    /// # Errors
    /// There is no such array, or it is empty.
    pub fn get(&self, name: &str) -> Result<&Array> {
        let array = self.arrays.get(name).with_context(|| format!("{}: no tensor {name}", self.path.display()))?;
        ensure!(!array.values.is_empty(), "{name} is empty, of shape {:?}", array.shape);
        Ok(array)
    }

    /// The array called `name`, which must have `D` dimensions.
    ///
    /// # Errors
    /// There is no such array, it is empty, or it has another number of dimensions.
    pub fn shaped<const D: usize>(&self, name: &str) -> Result<([usize; D], &[f64])> {
        let array = self.get(name)?;
        let Ok(shape) = array.shape.as_slice().try_into() else {
            bail!("{name} has shape {:?}, expected {D} dimension(s)", array.shape);
        };
        Ok((shape, &array.values))
    }

    /// The array called `name` as a tensor of single precision.
    ///
    /// # Errors
    /// As [`Arrays::shaped`].
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Result<Tensor<D>> {
        let (shape, values) = self.shaped::<D>(name)?;
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }

    /// The array called `name` as a tensor of integers.
    ///
    /// # Errors
    /// As [`Arrays::shaped`], or a value is not an integer.
    pub fn integers<const D: usize>(&self, name: &str, device: &Device) -> Result<Tensor<D, Int>> {
        let (shape, values) = self.shaped::<D>(name)?;
        ensure!(values.iter().all(|value| value.fract() == 0.0), "{name} holds values that are no integers");
        let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }
}

fn widen(view: &TensorView) -> Result<Vec<f64>> {
    let bytes = view.data();
    Ok(match view.dtype() {
        Dtype::BOOL | Dtype::U8 => bytes.iter().map(|&byte| f64::from(byte)).collect(),
        Dtype::I8 => each(bytes, |bytes| i8::from_le_bytes(bytes).into()),
        Dtype::I16 => each(bytes, |bytes| i16::from_le_bytes(bytes).into()),
        Dtype::U16 => each(bytes, |bytes| u16::from_le_bytes(bytes).into()),
        Dtype::I32 => each(bytes, |bytes| i32::from_le_bytes(bytes).into()),
        Dtype::U32 => each(bytes, |bytes| u32::from_le_bytes(bytes).into()),
        Dtype::I64 => exact(each(bytes, |bytes| i64::from_le_bytes(bytes) as f64))?,
        Dtype::U64 => exact(each(bytes, |bytes| u64::from_le_bytes(bytes) as f64))?,
        Dtype::F16 => each(bytes, |bytes| f16::from_le_bytes(bytes).into()),
        Dtype::BF16 => each(bytes, |bytes| bf16::from_le_bytes(bytes).into()),
        Dtype::F32 => each(bytes, |bytes| f32::from_le_bytes(bytes).into()),
        Dtype::F64 => each(bytes, f64::from_le_bytes),
        other => bail!("element type {other:?} is not supported"),
    })
}

fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&element| value(element)).collect()
}

fn exact(values: Vec<f64>) -> Result<Vec<f64>> {
    const LIMIT: f64 = (1_u64 << 53) as f64;
    ensure!(values.iter().all(|value| value.abs() < LIMIT), "holds an integer beyond 2^53");
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let views: Vec<_> = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tensors.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        (folder, path)
    }

    #[test]
    fn every_element_type_is_widened() {
        let (_folder, path) = file(&[
            ("f16", Dtype::F16, &[1], &f16::from_f32(0.5).to_le_bytes()),
            ("bf16", Dtype::BF16, &[1], &bf16::from_f32(-2.0).to_le_bytes()),
            ("f32", Dtype::F32, &[1], &0.25_f32.to_le_bytes()),
            ("f64", Dtype::F64, &[1], &0.1_f64.to_le_bytes()),
            ("i64", Dtype::I64, &[1], &(-7_i64).to_le_bytes()),
            ("u8", Dtype::U8, &[2], &[0, 255]),
        ]);
        let arrays = Arrays::open(&path).unwrap();
        let values = |name| arrays.get(name).unwrap().values.clone();
        assert_eq!(values("f16"), [0.5]);
        assert_eq!(values("bf16"), [-2.0]);
        assert_eq!(values("f32"), [0.25]);
        assert_eq!(values("f64"), [0.1]);
        assert_eq!(values("i64"), [-7.0]);
        assert_eq!(values("u8"), [0.0, 255.0]);
    }

    #[test]
    fn the_error_names_an_unusable_array() {
        let (_folder, path) = file(&[("a", Dtype::F32, &[1], &0.5_f32.to_le_bytes()), ("none", Dtype::F32, &[0], &[])]);
        let arrays = Arrays::open(&path).unwrap();
        let device = Device::default();
        assert!(arrays.get("b").unwrap_err().to_string().contains("no tensor b"));
        assert!(arrays.get("none").unwrap_err().to_string().contains("none is empty"));
        assert!(arrays.tensor::<4>("a", &device).unwrap_err().to_string().contains("expected 4 dimension"));
        assert!(arrays.integers::<1>("a", &device).unwrap_err().to_string().contains("no integers"));

        let (_folder, path) = file(&[("big", Dtype::I64, &[1], &i64::MAX.to_le_bytes())]);
        assert!(format!("{:#}", Arrays::open(path).unwrap_err()).contains("big: holds an integer beyond"));
    }

    #[test]
    fn a_truncated_file_is_an_error_at_every_length() {
        let (folder, path) = file(&[("a", Dtype::F32, &[1], &0.5_f32.to_le_bytes())]);
        let bytes = std::fs::read(path).unwrap();
        let cut = folder.path().join("cut.safetensors");
        for length in 0..bytes.len() {
            std::fs::write(&cut, &bytes[..length]).unwrap();
            let error = Arrays::open(&cut).unwrap_err().to_string();
            assert!(error.contains("cut.safetensors"), "{error}");
        }
    }
}
