//! Checks of what the networks compute.

use anyhow::{Result, ensure};
use burn::tensor::{DType, Tensor};

/// Checks that no value of `tensor`, which `part` computed in the float type `dtype`, is NaN or infinite. It waits for the
/// device and reads one number back.
///
/// # Errors
/// The message names the part and says what to do.
pub fn ensure_finite<const D: usize>(tensor: &Tensor<D>, part: &str, dtype: DType) -> Result<()> {
    ensure!(is_finite(tensor), not_finite(part, dtype));
    Ok(())
}

/// The message for a part that computed NaN or infinity in the float type `dtype`.
pub fn not_finite(part: &str, dtype: DType) -> String {
    let advice = match dtype {
        DType::F16 => "f16 ends at 65504: compute in bf16 or f32 (--precision, model.precision)",
        _ => "lower the guidance scale if it is high, or else use another model",
    };
    format!("{part} has values that are NaN or infinite; {advice}")
}

/// Whether no value is NaN or infinite.
pub fn is_finite<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.clone().is_finite().all().into_scalar::<bool>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_part_is_named() {
        let of = |value: f32| Tensor::<2>::from_floats([[0.0, 1.0], [value, -3.0]], &Device::flex());
        assert!(ensure_finite(&of(f32::MAX), "the VAE", DType::F32).is_ok());
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let message = ensure_finite(&of(value), "the VAE", DType::F16).unwrap_err().to_string();
            assert!(message.contains("the VAE") && message.contains("bf16"), "{message}");
        }
    }
}
