//! Multi-head scaled dot-product attention.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};

/// `softmax(q·kᵀ/√d + bias)·v` over `heads` heads; `query` `[batch, queries, width]`, `key` and `value`
/// `[batch, keys, width]`, `bias` broadcast over `[batch, heads, queries, keys]`.
pub fn attend(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    let Some(bias) = bias else { return spire_kernels::attention(query, key, value, heads) };
    if [&query, &key, &value].iter().any(|x| x.is_autodiff()) {
        return spire_kernels::attention_in_products(query, key, value, heads, Some(bias));
    }
    let [batch, queries, width] = query.dims();
    let split = |x: Tensor<3>| {
        let [_, length, _] = x.dims();
        x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
    };
    let (query, key, value) = (split(query), split(key), split(value));
    let attended = attention(query, key, value, None, Some(bias), AttentionModuleOptions::default());
    attended.swap_dims(1, 2).reshape([batch, queries, width])
}

/// The causal mask as a bias, `[1, 1, length, length]`: 0 on and below the diagonal, minus infinity above.
pub fn causal_mask(length: usize, device: &Device) -> Tensor<4> {
    let values: Vec<f32> =
        (0..length * length).map(|i| if i % length > i / length { f32::NEG_INFINITY } else { 0.0 }).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, length, length]), device)
}

/// diffusers' `Attention`: self-attention, or cross-attention to a context of another width.
#[derive(Module, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    heads: usize,
    upcast: bool,
}

impl Attention {
    /// `width` channels in and out, keys and values from `context_width` channels.
    pub fn new(width: usize, context_width: usize, heads: usize, qkv_bias: bool, device: &Device) -> Self {
        let projection = |from| LinearConfig::new(from, width).with_bias(qkv_bias).init(device);
        Self {
            to_q: projection(width),
            to_k: projection(context_width),
            to_v: projection(context_width),
            to_out: vec![LinearConfig::new(width, width).init(device)],
            heads,
            upcast: false,
        }
    }

    /// The same layer with scores in f32 where its weights are f16, if `upcast`: diffusers' `upcast_attention`. Stable
    /// Diffusion 2.1 has scores beyond the largest number of f16, 65504; bf16 has the range of f32.
    pub fn with_upcast(self, upcast: bool) -> Self {
        Self { upcast, ..self }
    }

    /// `x` `[batch, length, width]`, `context` `[batch, tokens, context_width]`, to the shape of `x`.
    pub fn forward(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let query = self.to_q.forward(x);
        let key = self.to_k.forward(context.clone());
        let value = self.to_v.forward(context);
        let dtype = query.dtype();
        let attended = if self.upcast && dtype == DType::F16 {
            let [query, key, value] = [query, key, value].map(|x| x.cast(DType::F32));
            attend(query, key, value, self.heads, None).cast(dtype)
        } else {
            attend(query, key, value, self.heads, None)
        };
        self.to_out[0].forward(attended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Precision, cast};
    use burn::module::{Module, ModuleMapper, Param};
    use burn::tensor::Distribution;

    #[test]
    fn upcast_scores_beyond_the_range_of_f16_are_those_of_f32() {
        struct Enlarge;
        impl ModuleMapper for Enlarge {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|value| value.mul_scalar(30.0))
            }
        }
        let device = Device::flex();
        device.seed(1);
        let layer = cast(Attention::new(32, 32, 1, false, &device).map(&mut Enlarge), Precision::F16);
        let x = Tensor::<3>::random([1, 12, 32], Distribution::Normal(0.0, 20.0), &device).cast(DType::F16);
        let score = layer
            .to_q
            .forward(x.clone())
            .cast(DType::F32)
            .matmul(layer.to_k.forward(x.clone()).cast(DType::F32).swap_dims(1, 2));
        assert!(score.abs().max().into_scalar::<f32>() > 65504.0);

        let found = layer.clone().with_upcast(true).forward(x.clone(), x.clone());
        assert_eq!(found.dtype(), DType::F16);
        // The same products from the same rounded queries, keys and values.
        let [query, key, value] =
            [&layer.to_q, &layer.to_k, &layer.to_v].map(|linear| linear.forward(x.clone()).cast(DType::F32));
        let expected = layer.to_out[0].forward(attend(query, key, value, 1, None).cast(DType::F16));
        assert!(found.clone().is_finite().all().into_scalar::<bool>());
        assert!(found.into_data() == expected.into_data());
    }
}
