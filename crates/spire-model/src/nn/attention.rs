//! Multi-head scaled dot-product attention.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor, TensorData, activation::softmax};

/// `softmax(q·kᵀ/√d + bias)·v` over `heads` heads; `query` `[batch, queries, width]`, `key` and `value`
/// `[batch, keys, width]`, `bias` broadcast over `[batch, heads, queries, keys]`.
pub fn attend(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [batch, queries, width] = query.dims();
    let depth = width / heads;
    let split = |x: Tensor<3>| {
        let [_, length, _] = x.dims();
        x.reshape([batch, length, heads, depth]).swap_dims(1, 2)
    };
    let scale = (depth as f64).powf(-0.5);
    let tracked = [&query, &key, &value].iter().any(|x| x.is_autodiff());
    let (query, key, value) = (split(query), split(key), split(value));
    let attended = if tracked {
        // Scaling the queries, not the scores: the smaller of the two.
        let scores = query.mul_scalar(scale).matmul(key.swap_dims(2, 3));
        let scores = match bias {
            Some(bias) => scores + bias,
            None => scores,
        };
        softmax(scores, 3).matmul(value)
    } else {
        // Tile by tile where there are many keys: the scores of a 512×512 picture alone would take half a gigabyte.
        let options = AttentionModuleOptions { scale: Some(scale), ..Default::default() };
        attention(query, key, value, None, bias, options)
    };
    attended.swap_dims(1, 2).reshape([batch, queries, width])
}

/// The bias with which a token attends to itself and to those before it, `[1, 1, length, length]`: 0 on and below the
/// diagonal, minus infinity above.
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
        }
    }

    /// `x` `[batch, length, width]`, `context` `[batch, tokens, context_width]`, to the shape of `x`.
    pub fn forward(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let query = self.to_q.forward(x);
        let key = self.to_k.forward(context.clone());
        let value = self.to_v.forward(context);
        self.to_out[0].forward(attend(query, key, value, self.heads, None))
    }
}
