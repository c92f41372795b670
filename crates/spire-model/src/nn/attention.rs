//! Multi-head scaled dot-product attention.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor, TensorData, activation::softmax};

/// Scores of an image's head from which on training computes them twice rather than keep them: those of a 512×512 picture
/// take half a gigabyte for each attention layer at full resolution.
pub(crate) const TOO_MANY_SCORES: usize = 1 << 20;

/// `softmax(q·kᵀ/√d + bias)·v` over `heads` heads; `query` `[batch, queries, width]`, `key` and `value`
/// `[batch, keys, width]`, `bias` broadcast over `[batch, heads, queries, keys]`.
pub fn attend(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [batch, queries, width] = query.dims();
    let [_, keys, _] = key.dims();
    let depth = width / heads;
    let split = |x: Tensor<3>| {
        let [_, length, _] = x.dims();
        x.reshape([batch, length, heads, depth]).swap_dims(1, 2)
    };
    let tracked = [&query, &key, &value].iter().any(|x| x.is_autodiff());
    let (query, key, value) = (split(query), split(key), split(value));
    let attended = match bias {
        None if !tracked || queries * keys >= TOO_MANY_SCORES => spire_kernels::attention(query, key, value),
        bias if tracked => {
            // Scaling the queries, not the scores: the smaller of the two.
            let scores = query.mul_scalar((depth as f64).powf(-0.5)).matmul(key.swap_dims(2, 3));
            let scores = match bias {
                Some(bias) => scores + bias,
                None => scores,
            };
            softmax(scores, 3).matmul(value)
        }
        bias => attention(query, key, value, None, bias, AttentionModuleOptions::default()),
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
