//! A part of a network as training sees it.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::announce::announced;
use crate::recompute::recomputed;

/// A part of a network: `x` `[batch, channels, height, width]` and what stands beside it, to the part's output.
pub type Forward<M, const D: usize> = fn(&M, Tensor<4>, Tensor<D>) -> Tensor<4>;

/// `forward(module, x, beside)`; with gradient checkpointing it is computed a second time in the backward pass, instead of
/// keeping intermediate results, and who [listens](crate::listening) hears of its weights' gradients when that has come
/// back to `x`.
pub fn block<M: Module + 'static, const D: usize>(
    module: &M,
    x: Tensor<4>,
    beside: Tensor<D>,
    forward: Forward<M, D>,
) -> Tensor<4> {
    recomputed(module, &x, &beside, forward).unwrap_or_else(|| forward(&announced(module, &x), x, beside))
}
