//! A batch in parts that the cores of a CPU compute at the same time. Between the products of matrices, Burn's operators on the CPU
//! use one core; parts use all.

use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::device::is_cpu;

/// The ranges of rows of the batch of `x` that are computed in parallel: one range on a GPU, in a thread pool of one thread, and where
/// autodiff records `x`, because gradients are then summed in an order of their own.
pub(crate) fn parts(x: &Tensor<4>) -> Vec<Range<usize>> {
    let batch = x.dims()[0];
    let cores = if x.is_autodiff() || !is_cpu(&x.device()) { 1 } else { rayon::current_num_threads() };
    let count = cores.clamp(1, batch.max(1));
    (0..count).map(|part| part * batch / count..(part + 1) * batch / count).collect()
}

/// `compute` of each part, in order.
pub(crate) fn in_parallel<T: Send>(
    parts: &[Range<usize>],
    compute: impl Fn(&Range<usize>) -> T + Sync + Send,
) -> Vec<T> {
    parts.par_iter().map(compute).collect()
}

/// Two computations: at the same time if `x`, which both read, is on a CPU. The first stays on this thread, which may have a
/// gradient hook.
pub(crate) fn both<A, B: Send>(x: &Tensor<4>, first: impl FnOnce() -> A, second: impl FnOnce() -> B + Send) -> (A, B) {
    if !is_cpu(&x.device()) {
        return (first(), second());
    }
    let mut of_second = None;
    let of_first = rayon::in_place_scope(|scope| {
        scope.spawn(|_| of_second = Some(second()));
        first()
    });
    (of_first, of_second.expect("the scope waits for it"))
}

/// Some rows of a batch; what has a single row is the same for all.
pub(crate) fn rows<const D: usize>(x: &Tensor<D>, rows: &Range<usize>) -> Tensor<D> {
    if x.dims()[0] == 1 { x.clone() } else { x.clone().slice_dim(0, rows.clone()) }
}
