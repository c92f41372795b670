//! Attention that recomputes its scores in the backward pass instead of keeping them (Dao et al. 2022,
//! <https://arxiv.org/abs/2205.14135>, section 3): from Burn's operators, and with a kernel for the CPU.

#[cfg(feature = "gpu")]
use burn::backend::Cube;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Shape, Slice};

use crate::kernels::attention_rows;
use crate::kernels::ops::tensor;

/// Maximum number of scores that the backward pass computes at a time; at least those of one image.
const SCORES: usize = 1 << 27;

#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff, Fusion: cfg(feature = "gpu"))]
pub trait Attention: Backend {
    /// `softmax(q · kᵀ / √depth) · v` for each of `heads`: `query` `[batch, queries, heads · depth]`, `key` and `value`
    /// `[batch, keys, heads · depth]`, to the shape of `query`.
    #[fusion(default)]
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        attend_by_operator::<Self>(query, key, value, heads)
    }

    /// The gradients of `query`, `key` and `value`, given the output of [`Self::attend`] and its gradient.
    #[fusion(default)]
    fn attend_gradients(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        attended: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        heads: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        gradients_by_operators::<Self>([query, key, value, attended, gradient], heads)
    }
}

fn attend_by_operator<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    heads: usize,
) -> FloatTensor<B> {
    let [query, key, value] = [query, key, value].map(|x| split::<B>(x, heads));
    // The default scale: with an explicit one, even of this value, Burn does not use its tiled kernels.
    join::<B>(B::attention(query, key, value, None, None, AttentionModuleOptions::default()))
}

fn gradients_by_operators<B: Backend>(
    tensors: [FloatTensor<B>; 5],
    heads: usize,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [batch, queries, _] = tensors[0].shape().dims();
    let [_, keys, _] = tensors[1].shape().dims();
    let images = (SCORES / (heads * queries * keys)).clamp(1, batch);
    let (query, key, value) = in_parts::<B>(images, tensors.map(|x| split::<B>(x, heads)));
    (join::<B>(query), join::<B>(key), join::<B>(value))
}

/// `[batch, length, heads · depth]` to `[batch, heads, length, depth]`.
fn split<B: Backend>(x: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
    let [batch, length, width] = x.shape().dims();
    B::float_swap_dims(B::float_reshape(x, Shape::new([batch, length, heads, width / heads])), 1, 2)
}

/// `[batch, heads, length, depth]` to `[batch, length, heads · depth]`.
fn join<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, heads, length, depth] = x.shape().dims();
    B::float_reshape(B::float_swap_dims(x, 1, 2), Shape::new([batch, length, heads * depth]))
}

/// The gradients, for `images` images at a time.
fn in_parts<B: Backend>(
    images: usize,
    tensors: [FloatTensor<B>; 5],
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [batch, ..] = tensors[0].shape().dims::<4>();
    if images >= batch {
        return gradients::<B>(tensors);
    }
    let (mut of_query, mut of_key, mut of_value) = (vec![], vec![], vec![]);
    for first in (0..batch).step_by(images) {
        let place = Slice::from(first..batch.min(first + images));
        let parts = gradients::<B>(tensors.each_ref().map(|x| B::float_slice(x.clone(), &[place])));
        of_query.push(parts.0);
        of_key.push(parts.1);
        of_value.push(parts.2);
    }
    (B::float_cat(of_query, 0), B::float_cat(of_key, 0), B::float_cat(of_value, 0))
}

fn gradients<B: Backend>(
    [query, key, value, attended, gradient]: [FloatTensor<B>; 5],
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [.., depth] = query.shape().dims::<4>();
    let scale = (depth as f64).powf(-0.5);
    let transposed = |x: FloatTensor<B>| B::float_swap_dims(x, 2, 3);
    let query = B::float_mul_scalar(query, scale.into());
    let shares = B::softmax(B::float_matmul(query.clone(), transposed(key.clone())), 3);
    let of_value = B::float_matmul(transposed(shares.clone()), gradient.clone());
    // The derivative of softmax: subtract the mean of the gradients weighted by the attention probabilities.
    let common = B::float_sum_dim(B::float_mul(attended, gradient.clone()), 3);
    let of_shares = B::float_matmul(gradient, transposed(value));
    let of_scores = B::float_mul(shares, B::float_sub(of_shares, common));
    let of_key = B::float_matmul(transposed(of_scores.clone()), query);
    let of_query = B::float_mul_scalar(B::float_matmul(of_scores, key), scale.into());
    (of_query, of_key, of_value)
}

impl Attention for Flex {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let Some(shape) = shape(&query, &key, heads) else {
            return attend_by_operator::<Self>(query, key, value, heads);
        };
        let dims = query.shape();
        let [query, key, value] = [query, key, value].map(|x| x.to_contiguous());
        tensor(attention_rows::forward([query.storage(), key.storage(), value.storage()], shape), &dims)
    }

    fn attend_gradients(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        attended: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        heads: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let Some(shape) = shape(&query, &key, heads) else {
            return gradients_by_operators::<Self>([query, key, value, attended, gradient], heads);
        };
        let dims = [query.shape(), key.shape(), value.shape()];
        let [query, key, value, gradient] = [query, key, value, gradient].map(|x| x.to_contiguous());
        let inputs = [query.storage(), key.storage(), value.storage()];
        let gradients = attention_rows::gradients(inputs, gradient.storage(), shape);
        let [of_query, of_key, of_value] = dims;
        (tensor(gradients.query, &of_query), tensor(gradients.key, &of_key), tensor(gradients.value, &of_value))
    }
}

/// The sizes for the CPU kernel; `None` if it does not apply.
fn shape(query: &FloatTensor<Flex>, key: &FloatTensor<Flex>, heads: usize) -> Option<attention_rows::Shape> {
    let [batch, queries, width] = query.shape().dims();
    let [_, keys, _] = key.shape().dims();
    let shape = attention_rows::Shape { queries, keys, heads, depth: width / heads };
    (query.dtype() == DType::F32 && batch * queries * keys * width > 0).then_some(shape)
}

#[cfg(feature = "gpu")]
impl Attention for Cube {}

type NodeId = burn::backend::autodiff::NodeId;

#[derive(Debug)]
struct Attend;

impl<B: Attention> Backward<B, 3> for Attend {
    type State = ([NodeId; 3], FloatTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (inputs, attended, heads) = ops.state;
        let [query, key, value] = inputs.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let gradient = grads.consume::<B>(&ops.node);
        let (query, key, value) = B::attend_gradients(query, key, value, attended, gradient, heads);
        for (node, gradient) in ops.parents.into_iter().zip([query, key, value]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: Attention, C: CheckpointStrategy> Attention for Autodiff<B, C> {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let nodes = [query.node(), key.node(), value.node()];
        let [q, k, v] = [&query, &key, &value].map(|tensor| tensor.clone().into_primitive());
        let attended = B::attend(q, k, v, heads);
        match Attend.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [&query, &key, &value].map(|tensor| prep.checkpoint(tensor));
                prep.finish((inputs, attended.clone(), heads), attended)
            }
            OpsKind::UnTracked(prep) => prep.finish(attended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, Tensor, Tolerance};

    #[test]
    fn gradients_in_parts_are_those_of_the_whole() {
        let device = Device::flex();
        let normal = |length| Tensor::<4>::random([3, 2, length, 4], Distribution::Normal(0.0, 1.0), &device);
        let tensors = [normal(5), normal(7), normal(7), normal(5), normal(5)];
        let of = |images| {
            let tensors = tensors.each_ref().map(|x| flex(x.clone()));
            let parts = in_parts::<Flex>(images, tensors);
            [parts.0, parts.1, parts.2].map(|part| part.to_contiguous().storage::<f32>().to_vec())
        };
        for images in [1, 2] {
            for (part, whole) in of(images).into_iter().zip(of(3)) {
                let data = |values: Vec<f32>| burn::tensor::TensorData::new(values.clone(), [values.len()]);
                data(part).assert_approx_eq::<f32>(&data(whole), Tolerance::absolute(1e-5));
            }
        }
    }

    fn flex(x: Tensor<4>) -> FloatTensor<Flex> {
        use burn::backend::ops::FloatTensorOps;
        Flex::float_from_data(x.into_data(), &Default::default())
    }
}
