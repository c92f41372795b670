//! Between tensors and the arrays in files.

use anyhow::{Result, bail};
use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::Dtype;
use spire_data::encoded::Array;

/// The numbers of a tensor in the type `dtype`, which must hold them without loss.
pub(super) fn array<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Result<Array> {
    let shape = tensor.dims().to_vec();
    let bytes = tensor.into_data().convert_dtype(dtype).into_bytes().to_vec();
    let dtype = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        other => bail!("numbers of type {other:?} are not written"),
    };
    Ok(Array { dtype, shape, bytes })
}

/// The array as a tensor in f32.
///
/// # Errors
/// Its shape has not `D` dimensions, or its numbers are no floats of 16 or 32 bits.
pub(crate) fn tensor<const D: usize>(array: &Array, device: &Device) -> Result<Tensor<D>> {
    let dtype = match array.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => bail!("encoded numbers of type {other:?} can't be read"),
    };
    let Ok(shape) = <[usize; D]>::try_from(array.shape.as_slice()) else {
        bail!("an encoded array has the shape {:?}, where {D} dimensions are expected", array.shape);
    };
    let data = TensorData::from_bytes_vec(array.bytes.clone(), shape, dtype);
    Ok(Tensor::from_data(data.convert::<f32>(), device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_fit_come_back_as_they_were() {
        let device = Device::flex();
        let numbers = Tensor::<2>::from_floats([[0.5, -1.25, 3.0], [0.0, 1.0e-3, -7.75]], &device);
        let exact = tensor::<2>(&array(numbers.clone(), DType::F32).unwrap(), &device).unwrap();
        exact.into_data().assert_eq(&numbers.clone().into_data(), true);
        for dtype in [DType::BF16, DType::F16] {
            let half = numbers.clone().cast(dtype).cast(DType::F32);
            let stored = array(half.clone(), dtype).unwrap();
            assert_eq!((stored.shape.as_slice(), stored.bytes.len()), (&[2, 3][..], 12));
            tensor::<2>(&stored, &device).unwrap().into_data().assert_eq(&half.into_data(), true);
        }
        assert!(tensor::<3>(&array(numbers, DType::F32).unwrap(), &device).is_err());
    }
}
