//! The operations as a Burn backend extension, and their implementation for the CPU.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::TensorData;

use crate::kernels::convolution::{self, Convolution};
use crate::kernels::elementwise::Activation;
use crate::kernels::group_norm::{self, Settings};
use crate::kernels::pool::{self, Pooling, Window};

#[backend_extension(Flex, Autodiff)]
pub trait Kernels: Backend {
    /// `x` `[batch, from, height, width]`, `weight` `[to, from, rows, columns]`, `bias` `[to]`.
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self>;

    /// The gradient of an input of `height` × `width` pixels, given the output's.
    fn convolve_input_gradient(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        convolution: Convolution,
        height: usize,
        width: usize,
    ) -> FloatTensor<Self>;

    /// The gradient of a weight of `rows` × `columns`, given the output's.
    fn convolve_weight_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        convolution: Convolution,
        rows: usize,
        columns: usize,
    ) -> FloatTensor<Self>;

    /// `x` `[batch, channels, height, width]`, `gamma` and `beta` `[channels]`.
    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self>;

    /// The gradients of `x`, `gamma` and `beta`.
    fn group_norm_gradients(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// `x` `[batch, channels, height, width]`.
    fn pool(x: FloatTensor<Self>, pooling: Pooling, window: Window) -> FloatTensor<Self>;

    /// Elementwise.
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

    /// The gradient of `x`, given the output's.
    fn activate_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

impl Kernels for Flex {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self> {
        convolve_onto(None, x, weight, bias, convolution)
    }

    fn convolve_input_gradient(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        convolution: Convolution,
        height: usize,
        width: usize,
    ) -> FloatTensor<Self> {
        let (weight_shape, [batch, ..]) = (dims(&weight), dims(&gradient));
        let x_shape = [batch, weight_shape[1], height, width];
        let (weight, gradient) = (weight.to_contiguous(), gradient.to_contiguous());
        let x = convolution::input_gradient(weight.storage(), weight_shape, gradient.storage(), x_shape, convolution);
        tensor(x, &x_shape)
    }

    fn convolve_weight_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        convolution: Convolution,
        rows: usize,
        columns: usize,
    ) -> FloatTensor<Self> {
        let (x_shape, [_, to, ..]) = (dims(&x), dims(&gradient));
        let weight_shape = [to, x_shape[1], rows, columns];
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let weight = convolution::weight_gradient(x.storage(), x_shape, gradient.storage(), weight_shape, convolution);
        tensor(weight, &weight_shape)
    }

    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        let shape = dims(&x);
        let (x, gamma, beta) = (x.to_contiguous(), gamma.to_contiguous(), beta.to_contiguous());
        tensor(group_norm::forward(x.storage(), shape, gamma.storage(), beta.storage(), settings), &shape)
    }

    fn group_norm_gradients(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let shape = dims(&x);
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
        let gradients =
            group_norm::gradients(x.storage(), shape, gamma.storage(), beta.storage(), gradient.storage(), settings);
        (tensor(gradients.x, &shape), tensor(gradients.gamma, &[shape[1]]), tensor(gradients.beta, &[shape[1]]))
    }

    fn pool(x: FloatTensor<Self>, pooling: Pooling, window: Window) -> FloatTensor<Self> {
        let (y, shape) = pool::forward(x.to_contiguous().storage(), dims(&x), pooling, window);
        tensor(y, &shape)
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let shape = x.shape();
        tensor(activation.forward(x.to_contiguous().storage()), &shape)
    }

    fn activate_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let shape = x.shape();
        tensor(activation.gradient(x.to_contiguous().storage(), gradient.to_contiguous().storage()), &shape)
    }
}

/// [`Kernels::convolve`], added to `onto` of the output's shape.
pub fn convolve_onto(
    onto: Option<FloatTensor<Flex>>,
    x: FloatTensor<Flex>,
    weight: FloatTensor<Flex>,
    bias: FloatTensor<Flex>,
    convolution: Convolution,
) -> FloatTensor<Flex> {
    let (x_shape, weight_shape) = (dims(&x), dims(&weight));
    let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
    let onto = onto.map(|onto| onto.to_contiguous());
    let (x, weight, bias, onto) =
        (x.storage(), weight.storage(), bias.storage(), onto.as_ref().map(|onto| onto.storage()));
    let (y, shape) = convolution::forward(x, x_shape, weight, weight_shape, bias, onto, convolution);
    tensor(y, &shape)
}

pub fn tensor(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Flex> {
    Flex::float_from_data(TensorData::new(values, shape.to_vec()), &Default::default())
}

pub fn dims(tensor: &FloatTensor<Flex>) -> [usize; 4] {
    tensor.shape().dims()
}
