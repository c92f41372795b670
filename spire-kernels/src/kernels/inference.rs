//! Operations for the CPU without derivatives, for networks that are not trained here.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension};
use faer::MatRef;

use crate::kernels::convolution::Convolution;
use crate::kernels::ops::{convolve_onto, dims, tensor};
use crate::kernels::{linear, window_attention};
use crate::windows::Windows;

#[backend_extension(Flex)]
pub trait Inference: Backend {
    /// `qkv` `[batch, height, width, 3 · channels]` and `table` `[(2 · side − 1)², heads]` to
    /// `[batch, height, width, channels]`.
    fn attend_windows(qkv: FloatTensor<Self>, table: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self>;

    /// `x` `[…, from]`, `weight` `[from, to]` and `bias` `[to]` to `[…, to]`.
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;

    /// [`Self::linear`], added to `onto` of the output's shape.
    fn add_linear(
        onto: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// [`Kernels::convolve`](crate::kernels::ops::Kernels::convolve), added to `onto` of the output's shape.
    fn add_convolved(
        onto: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self>;
}

impl Inference for Flex {
    fn attend_windows(qkv: FloatTensor<Self>, table: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self> {
        let shape @ [batch, height, width, triple] = dims(&qkv);
        let (qkv, table) = (qkv.to_contiguous(), table.to_contiguous());
        let attended = window_attention::forward(qkv.storage(), shape, table.storage(), windows);
        tensor(attended, &[batch, height, width, triple / 3])
    }

    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        linear_onto(None, x, weight, bias)
    }

    fn add_linear(
        onto: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear_onto(Some(onto), x, weight, bias)
    }

    fn add_convolved(
        onto: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self> {
        convolve_onto(Some(onto), x, weight, bias, convolution)
    }
}

fn linear_onto(
    onto: Option<FloatTensor<Flex>>,
    x: FloatTensor<Flex>,
    weight: FloatTensor<Flex>,
    bias: FloatTensor<Flex>,
) -> FloatTensor<Flex> {
    let [from, to] = weight.shape().dims();
    let mut shape = x.shape();
    let last = shape.len() - 1;
    shape[last] = to;
    let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    let weight = MatRef::from_row_major_slice(weight.storage(), from, to);
    let onto = onto.map(|onto| onto.to_contiguous());
    let onto = onto.as_ref().map(|onto| onto.storage());
    tensor(linear::forward(x.storage(), weight, bias.storage(), onto), &shape)
}
