//! Folds batch normalisation into the preceding convolution: at inference it is a scale and an offset per channel.

use anyhow::{Context, Result, ensure};
use burn::tensor::DType;
use burn_store::burn_pack::Tensor;

use super::Tensors;
use super::tensors::{deferred, values};

impl Tensors {
    /// Replaces each pair of `NAME.conv` and `NAME.bn` by a convolution `NAME` with a bias; other tensors are
    /// unchanged.
    ///
    /// # Errors
    /// A normalisation lacks a tensor or has not as many channels as its convolution; the message names it.
    pub fn with_folded_norms(&self, epsilon: f64) -> Result<Self> {
        let mut folded = self.renamed(|name| (!name.contains(".conv.") && !name.contains(".bn.")).then(|| name.into()));
        for kernel in self.iter() {
            let Some(name) = kernel.name.strip_suffix(".conv.weight") else { continue };
            let part = |part: &str| -> Result<Tensor> {
                let [channels] = self.shape::<1>(&format!("{name}.bn.{part}"))?;
                let expected = kernel.shape.first().copied().unwrap_or(0);
                ensure!(channels == expected, "{name}.bn.{part} has {channels} channels, {name}.conv {expected}");
                Ok(self.get(&format!("{name}.bn.{part}")).context("has a shape")?.clone())
            };
            let (weight, bias, mean, variance) =
                (part("weight")?, part("bias")?, part("running_mean")?, part("running_var")?);
            let scales = move || -> Result<Vec<f64>> {
                let (weight, variance) = (values::<f64>(&weight)?, values::<f64>(&variance)?);
                Ok(weight.iter().zip(variance).map(|(weight, variance)| weight / (variance + epsilon).sqrt()).collect())
            };
            let (shape, scales_of_bias, source) = (kernel.shape.to_vec(), scales.clone(), kernel.clone());
            folded.insert(deferred(&format!("{name}.weight"), DType::F32, &shape, move || {
                let (kernel, scales) = (values::<f64>(&source)?, scales()?);
                let per_channel = (kernel.len() / scales.len().max(1)).max(1);
                let scaled = kernel.chunks(per_channel).zip(scales);
                Ok(bytes(scaled.flat_map(|(kernel, scale)| kernel.iter().map(move |value| value * scale))))
            })?);
            folded.insert(deferred(&format!("{name}.bias"), DType::F32, &shape[..1], move || {
                let offsets = values::<f64>(&bias)?.into_iter().zip(values::<f64>(&mean)?).zip(scales_of_bias()?);
                Ok(bytes(offsets.map(|((bias, mean), scale)| bias - mean * scale)))
            })?);
        }
        Ok(folded)
    }
}

fn bytes(values: impl Iterator<Item = f64>) -> Vec<u8> {
    values.flat_map(|value| (value as f32).to_le_bytes()).collect()
}
