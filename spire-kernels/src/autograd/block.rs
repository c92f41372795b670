//! One block of a network as training runs it.

use burn::module::Module;
use burn::tensor::Tensor;

use super::hooks::hooked;
use super::recompute::{Forward, recomputed};

/// `forward(module, x, condition)`, with gradient hooks and gradient checkpointing.
///
/// Under gradient checkpointing the backward pass runs `forward` a second time instead of keeping intermediate results. An
/// [installed](crate::with_gradient_hook) gradient hook fires for the block's weights when the backward pass reaches `x`.
pub fn block<M: Module + 'static, const D: usize>(
    module: &M,
    x: Tensor<4>,
    condition: Tensor<D>,
    forward: Forward<M, D>,
) -> Tensor<4> {
    recomputed(module, &x, &condition, forward).unwrap_or_else(|| forward(&hooked(module, &x), x, condition))
}
