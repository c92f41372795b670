//! Weights by formula: this program and the reference compute the same values from a tensor's name, so that models of
//! full size can be compared without exchanging gigabytes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::DType;
use burn_store::burn_pack::Tensor;
use serde::{Deserialize, Serialize};
use spire_core::rng::fnv1a;

use super::tensors::deferred;

/// A `.formula.json` file, which replaces `.safetensors` in a model folder.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Formula {
    /// `splitmix64`
    pub formula: String,
    /// The seed of all values.
    pub seed: u64,
    /// Gain of matrices and kernels: √2 preserves the activations' scale through rectified linear units.
    #[serde(default = "one")]
    pub gain: f64,
    /// The shape of each tensor, by its name in PyTorch's state dict.
    pub tensors: BTreeMap<String, Vec<usize>>,
}

fn one() -> f64 {
    1.0
}

pub fn open(file: &Path) -> Result<Vec<Tensor>> {
    let formula: Formula = serde_json::from_slice(&std::fs::read(file)?).context("not a weights formula")?;
    ensure!(formula.formula == "splitmix64", "the formula \"{}\" is unknown", formula.formula);
    let tensor = |(name, shape): (&String, &Vec<usize>)| {
        let (key, sides, seed, gain) = (name.clone(), shape.clone(), formula.seed, formula.gain);
        deferred(name, DType::F32, shape, move || {
            Ok(splitmix64(&key, &sides, seed, gain).flat_map(f32::to_le_bytes).collect())
        })
    };
    formula.tensors.iter().map(tensor).collect()
}

/// The values of the tensor `name`, in row-major order. With u uniform in \[-1, 1) from a splitmix64 sequence that
/// starts at FNV-1a of the name, xor `seed`: a matrix or kernel has `gain`·u·√(3 / fan-in), a normalisation's weight
/// and running variance 1 + 0.1·u, a bias 0.02·u, a scalar ln 100 + 0.1·u. Activations keep their scale through
/// networks of any depth.
pub fn splitmix64(name: &str, shape: &[usize], seed: u64, gain: f64) -> impl Iterator<Item = f32> {
    let state = fnv1a(name) ^ seed;
    let (offset, scale) = match shape {
        [_] if name.ends_with(".weight") || name.ends_with(".running_var") => (1.0, 0.1),
        [_] => (0.0, 0.02),
        // CLIP's temperature: ln 100, its value after training.
        [] => (100_f64.ln(), 0.1),
        [_, inputs @ ..] => (0.0, gain * (3.0 / inputs.iter().product::<usize>() as f64).sqrt()),
    };
    (0..shape.iter().product::<usize>() as u64).map(move |i| {
        let z = state.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let u = ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0;
        (offset + scale * u) as f32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_centred_and_scaled_by_fan_in() {
        let weights: Vec<f32> = splitmix64("conv.weight", &[64, 32, 3, 3], 7, 1.0).collect();
        let variance = weights.iter().map(|w| f64::from(w * w)).sum::<f64>() / weights.len() as f64;
        assert!((variance * 288.0 - 1.0).abs() < 0.05, "{variance}");
        assert!(splitmix64("norm.weight", &[100], 7, 1.0).all(|w| (0.9..1.1).contains(&w)));
        assert!(splitmix64("norm.bias", &[100], 7, 1.0).all(|w| w.abs() <= 0.02));
        assert!(splitmix64("logit_scale", &[], 7, 1.0).all(|w| (4.5..4.71).contains(&w)));
        assert_ne!(splitmix64("a.bias", &[1], 7, 1.0).next(), splitmix64("a.bias", &[1], 8, 1.0).next());
    }

    /// scripts/reference/formula.py: `uniform(fnv1a("conv_in.weight") ^ 7, 0, 36)`.
    #[test]
    fn values_agree_with_the_reference() {
        let u: Vec<f32> = splitmix64("conv_in.weight", &[36], 7, 1.0).map(|w| (w - 1.0) * 10.0).collect();
        for (i, want) in [(0, -0.883_308_77), (1, -0.647_293_57), (35, 0.313_355_57)] {
            assert!((u[i] - want).abs() < 2e-6, "{i}: {} {want}", u[i]);
        }
    }

    #[test]
    fn hash_agrees_with_the_published_one() {
        // From the FNV reference's test vectors.
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }
}
