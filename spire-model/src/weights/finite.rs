//! Weights that are NaN or infinite: left behind by a training that diverged, or by a damaged file. Everything computed with
//! them is black or noise.

use anyhow::{Result, bail};
use burn::tensor::DType;
use burn_store::burn_pack::{Error, Tensor};

use super::Tensors;
use super::fit::UNREAD_BUFFERS;

/// Number of tensor names that an error message shows.
const NAMES_SHOWN: usize = 5;

impl Tensors {
    /// The tensors with values that are NaN or infinite, each with their number. Reads all values.
    ///
    /// # Errors
    /// A tensor can't be read.
    pub fn not_finite(&self) -> Result<Vec<String>> {
        let mut found = vec![];
        let is_unread = |tensor: &&Tensor| UNREAD_BUFFERS.iter().any(|buffer| tensor.name.ends_with(buffer));
        // Masks are infinite for good reason.
        for tensor in self.iter().filter(|tensor| !is_unread(tensor)) {
            if let Some(error) = not_finite(tensor, &tensor.to_bytes()?) {
                found.push(error);
            }
        }
        Ok(found)
    }

    /// Checks that no value is NaN or infinite. Reads all values.
    ///
    /// # Errors
    /// One error that names the first such tensors; or a tensor can't be read.
    pub fn check_finite(&self) -> Result<()> {
        let found = self.not_finite()?;
        if found.is_empty() {
            return Ok(());
        }
        let shown = found[..found.len().min(NAMES_SHOWN)].join("; ");
        let more = found.len().saturating_sub(NAMES_SHOWN);
        let more = if more > 0 { format!(" and {more} tensors more") } else { String::new() };
        bail!("the weights in {} are of no use: {shown}{more}", self.origin())
    }
}

/// The same tensor; reading it fails if a value is NaN or infinite.
pub(super) fn checked(tensor: &Tensor) -> Tensor {
    let source = tensor.clone();
    Tensor::deferred(tensor.name.clone(), tensor.dtype, tensor.shape.clone(), None, tensor.byte_len(), move || {
        let bytes = source.to_bytes()?;
        match not_finite(&source, &bytes) {
            None => Ok(bytes),
            Some(error) => Err(Error::ValidationError(error)),
        }
    })
}

/// Says how many values of a tensor are NaN or infinite; `None` if all are finite, as integers are.
fn not_finite(tensor: &Tensor, bytes: &[u8]) -> Option<String> {
    // All bits of the exponent are set in NaN and infinity, and in nothing else.
    let count = match tensor.dtype {
        DType::F64 => count::<8>(bytes, |bytes| u64::from_le_bytes(bytes) & 0x7FF0 << 48 == 0x7FF0 << 48),
        DType::F32 => count::<4>(bytes, |bytes| u32::from_le_bytes(bytes) & 0x7F80_0000 == 0x7F80_0000),
        DType::BF16 => count::<2>(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7F80 == 0x7F80),
        DType::F16 => count::<2>(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7C00 == 0x7C00),
        _ => 0,
    };
    let values = bytes.len() / tensor.dtype.size().max(1);
    (count > 0).then(|| format!("{}: {count} of {values} values are NaN or infinite", tensor.name))
}

/// Counts values of `N` bytes. A sum without branches, which the compiler vectorises: it takes a small part of the time of
/// reading the values.
fn count<const N: usize>(bytes: &[u8], is_not_finite: impl Fn([u8; N]) -> bool) -> usize {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().map(|&bytes| usize::from(is_not_finite(bytes))).sum()
}

#[cfg(test)]
mod tests {
    use super::super::tensors::deferred;
    use super::*;

    fn tensor(name: &str, dtype: DType, values: &'static [&'static [u8]]) -> Tensor {
        deferred(name, dtype, &[values.len()], move || Ok(values.concat())).unwrap()
    }

    #[test]
    fn nan_and_infinity_are_found_in_every_float_type() {
        let good = [
            tensor("f16", DType::F16, &[&[0xFF, 0x7B], &[0, 0x80]]),
            tensor("bf16", DType::BF16, &[&[0x7F, 0x7F]]),
            tensor("f32", DType::F32, &[&[0xFF, 0xFF, 0x7F, 0x7F], &[1, 0, 0, 0x80]]),
            tensor("i32", DType::I32, &[&[0xFF, 0xFF, 0xFF, 0x7F]]),
        ];
        assert_eq!(Tensors::new("a", good).not_finite().unwrap(), Vec::<String>::new());
        let bad = [
            tensor("a", DType::F16, &[&[0, 0x7C], &[0, 0], &[1, 0xFC]]),
            tensor("b", DType::BF16, &[&[0x80, 0xFF]]),
            tensor("c", DType::F32, &[&[0, 0, 0x80, 0x7F]]),
            tensor("d", DType::F64, &[&[0, 0, 0, 0, 0, 0, 0xF8, 0x7F]]),
        ];
        let bad = Tensors::new("model.safetensors", bad);
        let found = bad.not_finite().unwrap();
        assert_eq!(found[0], "a: 2 of 3 values are NaN or infinite");
        assert_eq!(found.len(), 4);
        let error = bad.check_finite().unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("d: 1 of 1"), "{error}");
        for tensor in bad.iter() {
            assert!(checked(tensor).to_bytes().unwrap_err().to_string().contains(&tensor.name));
        }
    }
}
