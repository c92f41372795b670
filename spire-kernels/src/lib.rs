//! The operations that dominate a diffusion network's time and memory, faster than Burn's own.
//!
//! For Burn's CPU backend (`flex`), with derivatives: convolution as shifted matrix products, group normalisation fused with
//! its activation, SiLU and GELU, attention over blocks of queries. For every backend: attention that does not keep the
//! matrix of scores, blocks that the backward pass recomputes, and gradient hooks. For the CPU, too: AdamW and moving averages
//! in one pass over memory.
//!
//! Every function takes Burn's own modules and tensors and computes what Burn computes. For other devices, float types and
//! shapes without a kernel it calls Burn.

mod autograd;
mod kernels;
mod windows;

use burn::backend::Dispatch;
use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear, PaddingConfig2d};
use burn::tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use burn::tensor::{DType, Device, Tensor, activation};

use kernels::attention::Attention;
use kernels::convolution::Convolution;
use kernels::elementwise::Activation;
use kernels::group_norm;
use kernels::inference::Inference;
use kernels::ops::Kernels;
use kernels::pool::Pooling;
use kernels::update::Updates;

pub use autograd::{Forward, GradientHook, block, hooked, with_gradient_hook};
pub use kernels::pool::Window;
pub use windows::Windows;

/// `conv.forward(x)`: `x` `[batch, channels, height, width]` to `[batch, out_channels, out_height, out_width]`.
pub fn conv2d(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let Some(options) = options_of(conv) else { return conv.forward(x) };
    let conv = hooked(conv, &x);
    convolve(x, conv.weight.val(), conv.bias.as_ref().map(Param::val), options)
}

/// `onto + conv.forward(x)`; `onto` has the output's shape. Without derivatives the convolution adds where it writes.
pub fn add_conv2d(onto: Tensor<4>, conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    match options_of(conv) {
        Some(options) => {
            let conv = hooked(conv, &x);
            add_convolved(onto, x, conv.weight.val(), conv.bias.as_ref().map(Param::val), options)
        }
        None => onto + conv.forward(x),
    }
}

/// `None` if Burn computes the padding from the size.
fn options_of(conv: &Conv2d) -> Option<ConvOptions<2>> {
    let padding = match conv.padding {
        PaddingConfig2d::Valid => [(0, 0), (0, 0)],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
        PaddingConfig2d::Same => return None,
    };
    Some(ConvOptions::new_with_padding(conv.stride, padding, conv.dilation, conv.groups))
}

/// [`burn::tensor::module::conv2d`]: `x` `[batch, channels, height, width]`, `weight`
/// `[out_channels, channels / groups, rows, columns]`, `bias` `[out_channels]`, to
/// `[batch, out_channels, out_height, out_width]`.
pub fn convolve(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, options: ConvOptions<2>) -> Tensor<4> {
    let [out_channels, _, rows, columns] = weight.dims();
    match Convolution::of(&options, [rows, columns]) {
        Some(convolution) if has_kernels(&x) => {
            let bias = bias.unwrap_or_else(|| Tensor::zeros([out_channels], &x.device()));
            let [x, weight, bias] = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
            Tensor::from_dispatch(<Dispatch as Kernels>::convolve(x, weight, bias, convolution))
        }
        _ => burn::tensor::module::conv2d(x, weight, bias, options),
    }
}

/// `onto +` [`convolve`]; `onto` has the output's shape.
pub fn add_convolved(
    onto: Tensor<4>,
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let [out_channels, _, rows, columns] = weight.dims();
    match Convolution::of(&options, [rows, columns]) {
        Some(convolution) if [&onto, &x, &weight].into_iter().all(is_computed_alone) => {
            let bias = bias.unwrap_or_else(|| Tensor::zeros([out_channels], &x.device()));
            let [onto, x, weight] = [onto, x, weight].map(Tensor::into_dispatch);
            let added = <Dispatch as Inference>::add_convolved(onto, x, weight, bias.into_dispatch(), convolution);
            Tensor::from_dispatch(added)
        }
        _ => onto + convolve(x, weight, bias, options),
    }
}

/// `norm.forward(x)`: `x` `[batch, channels, height, width]`, the same shape out.
pub fn group_norm(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    normalize(norm, x, false)
}

/// `silu(norm.forward(x))`: `x` `[batch, channels, height, width]`, the same shape out.
pub fn group_norm_silu(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    normalize(norm, x, true)
}

fn normalize(norm: &GroupNorm, x: Tensor<4>, silu: bool) -> Tensor<4> {
    match (&norm.gamma, &norm.beta) {
        (Some(gamma), Some(beta)) if has_kernels(&x) => {
            let [x, gamma, beta] = [x.into_dispatch(), gamma.val().into_dispatch(), beta.val().into_dispatch()];
            let settings = group_norm::Settings { groups: norm.num_groups, epsilon: norm.epsilon, silu };
            Tensor::from_dispatch(<Dispatch as Kernels>::group_norm(x, gamma, beta, settings))
        }
        _ if silu => activation::silu(norm.forward(x)),
        _ => norm.forward(x),
    }
}

/// `x · sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::Silu, activation::silu)
}

/// `x · Φ(x)`, Φ the standard normal distribution function, with an absolute error below 1e-6.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::Gelu, activation::gelu)
}

fn activate<const D: usize>(x: Tensor<D>, kind: Activation, fallback: fn(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    if has_kernels(&x) {
        Tensor::from_dispatch(<Dispatch as Kernels>::activate(x.into_dispatch(), kind))
    } else {
        fallback(x)
    }
}

/// Attention scores per image and head above which training recomputes them in the backward pass instead of keeping them.
/// For a 512×512 picture they take half a gigabyte per attention layer at full resolution.
pub const TOO_MANY_SCORES: usize = 1 << 20;

/// `softmax(q · kᵀ / √depth) · v` for each of `heads`: `query` `[batch, queries, heads · depth]`, `key` and `value`
/// `[batch, keys, heads · depth]`, to the shape of `query`. The backward pass recomputes the scores
/// where that is faster (on the CPU) or where there are [`TOO_MANY_SCORES`].
pub fn attention(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, heads: usize) -> Tensor<3> {
    let tracked = [&query, &key, &value].iter().any(|x| x.is_autodiff());
    if tracked && !has_kernels(&query) && query.dims()[1] * key.dims()[1] < TOO_MANY_SCORES {
        return attention_in_products(query, key, value, heads, None);
    }
    let [query, key, value] = [query, key, value].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Attention>::attend(query, key, value, heads))
}

/// [`attention`] as two matrix products, whose scores autodiff keeps. `bias`, broadcast over `[batch, heads, queries, keys]`,
/// is added to the scores.
pub fn attention_in_products(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    bias: Option<Tensor<4>>,
) -> Tensor<3> {
    let [batch, queries, width] = query.dims();
    let split = |x: Tensor<3>| {
        let [_, length, _] = x.dims();
        x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
    };
    // Scale the queries, not the scores: they are fewer.
    let query = split(query).mul_scalar(((width / heads) as f64).powf(-0.5));
    let scores = query.matmul(split(key).swap_dims(2, 3));
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    activation::softmax(scores, 3).matmul(split(value)).swap_dims(1, 2).reshape([batch, queries, width])
}

/// Self-attention within the windows of a map: `qkv` `[batch, height, width, 3 · channels]`, queries, keys and values one
/// after the other, to `[batch, height, width, channels]`. The scores' bias is in `table` `[(2 · side − 1)², heads]`, one
/// row for each relative position of query and key, row by row from the smallest.
///
/// # Panics
/// Height or width is no multiple of the windows' side, or the shapes contradict `windows`.
pub fn window_attention(qkv: Tensor<4>, table: Tensor<2>, windows: Windows) -> Tensor<4> {
    let ([_, height, width, triple], Windows { side, shift, heads, .. }) = (qkv.dims(), windows);
    assert!(height % side == 0 && width % side == 0, "{height} by {width} positions in windows of {side} by {side}");
    assert!(shift < side && triple % (3 * heads) == 0, "{triple} values a position, {windows:?}");
    assert_eq!(table.dims(), [(2 * side - 1).pow(2), heads], "the table of relative positions");
    if !is_computed_alone(&qkv) {
        return windows.attend(qkv, table);
    }
    let [qkv, table] = [qkv.into_dispatch(), table.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as Inference>::attend_windows(qkv, table, windows))
}

/// `linear.forward(x)`: `x` `[…, from]` to `[…, to]`.
pub fn linear<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    match &linear.bias {
        Some(bias) if is_computed_alone(&x) => {
            let [weight, bias] = [linear.weight.val().into_dispatch(), bias.val().into_dispatch()];
            Tensor::from_dispatch(<Dispatch as Inference>::linear(x.into_dispatch(), weight, bias))
        }
        _ => linear.forward(x),
    }
}

/// `onto + linear.forward(x)`: `x` `[…, from]`, `onto` `[…, to]`.
pub fn add_linear<const D: usize>(onto: Tensor<D>, linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    match &linear.bias {
        Some(bias) if is_computed_alone(&x) && is_computed_alone(&onto) => {
            let [weight, bias] = [linear.weight.val().into_dispatch(), bias.val().into_dispatch()];
            let [onto, x] = [onto, x].map(Tensor::into_dispatch);
            Tensor::from_dispatch(<Dispatch as Inference>::add_linear(onto, x, weight, bias))
        }
        _ => onto + linear.forward(x),
    }
}

/// The largest pixel of each window: `x` `[batch, channels, height, width]` to `[batch, channels, out_height, out_width]`.
///
/// # Panics
/// The padding is as wide as the window, or the window is larger than the padded picture.
pub fn max_pool2d(x: Tensor<4>, window: Window) -> Tensor<4> {
    pool(x, Pooling::Maximum, window)
}

/// The mean of each window's pixels, not counting the padding. Shapes and panics as [`max_pool2d`].
pub fn avg_pool2d(x: Tensor<4>, window: Window) -> Tensor<4> {
    pool(x, Pooling::Average, window)
}

fn pool(x: Tensor<4>, pooling: Pooling, window: Window) -> Tensor<4> {
    let Window { side, stride, padding } = window;
    assert!(padding < side, "a padding of {padding} needs a window larger than {side} pixels");
    if has_kernels(&x) {
        return Tensor::from_dispatch(<Dispatch as Kernels>::pool(x.into_dispatch(), pooling, window));
    }
    let (sides, strides, paddings) = ([side; 2], [stride; 2], [padding; 2]);
    match pooling {
        Pooling::Maximum => {
            let options = MaxPoolOptions::new(sides).with_stride(strides).with_padding(paddings);
            burn::tensor::module::max_pool2d(x, options)
        }
        Pooling::Average => {
            let options = AvgPoolOptions::new(sides).with_stride(strides).with_padding(paddings);
            burn::tensor::module::avg_pool2d(x, options.with_count_include_pad(false))
        }
    }
}

/// A step of AdamW (Loshchilov & Hutter, 2019, <https://arxiv.org/abs/1711.05101>) after the first.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// The learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the divisor.
    pub epsilon: f32,
    /// The number of this step, from 1.
    pub number: i32,
}

/// Whether [`adamw`] can update `weight`.
pub fn has_adamw<const D: usize>(weight: &Tensor<D>) -> bool {
    is_computed_alone(weight)
}

/// A weight and its moments after a step, in one pass over memory, to the last bit as Burn's optimiser computes them. All
/// have the same shape, and none is tracked by autodiff.
///
/// # Panics
/// [`has_adamw`] is false for one of them.
pub fn adamw<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    moments: [Tensor<D>; 2],
    step: AdamWStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let [first, second] = moments.map(Tensor::into_dispatch);
    let (weight, first, second) =
        <Dispatch as Updates>::adamw(weight.into_dispatch(), gradient.into_dispatch(), first, second, step);
    (Tensor::from_dispatch(weight), [first, second].map(Tensor::from_dispatch))
}

/// `average · decay + current · (1 − decay)`; both have the same shape.
pub fn blend<const D: usize>(average: Tensor<D>, current: Tensor<D>, decay: f64) -> Tensor<D> {
    let rest = 1.0 - decay;
    if !(is_computed_alone(&average) && is_computed_alone(&current)) {
        return average.mul_scalar(decay) + current.mul_scalar(rest);
    }
    let [average, current] = [average.into_dispatch(), current.into_dispatch()];
    Tensor::from_dispatch(<Dispatch as Updates>::blend(average, current, decay as f32, rest as f32))
}

/// Whether there are kernels, and no derivative is wanted.
fn is_computed_alone<const D: usize>(x: &Tensor<D>) -> bool {
    has_kernels(x) && !x.device().is_autodiff()
}

fn has_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device().without_autodiff() == Device::flex()
}

impl Convolution {
    /// `None` if there is no kernel: groups, dilation, or outputs that cover only padding.
    fn of(options: &ConvOptions<2>, kernel: [usize; 2]) -> Option<Self> {
        let sees_input = options.padding.iter().zip(kernel).all(|(&(before, after), side)| before.min(after) < side);
        let convolution = Self { stride: options.stride, padding: options.padding };
        (options.groups == 1 && options.dilation == [1, 1] && sees_input).then_some(convolution)
    }
}
