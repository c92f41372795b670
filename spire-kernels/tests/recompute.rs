//! A recomputed block has the gradients of one that keeps its intermediate results.

use std::cell::Cell;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor, TensorData, Tolerance};
use spire_kernels::{block, conv2d, group_norm_silu};

thread_local! {
    static COMPUTED: Cell<usize> = const { Cell::new(0) };
}

#[derive(Module, Debug)]
struct Block {
    norm: GroupNorm,
    conv: Conv2d,
    projection: Linear,
}

impl Block {
    fn new(device: &Device) -> Self {
        let same = PaddingConfig2d::Explicit(1, 1, 1, 1);
        Self {
            norm: GroupNormConfig::new(2, 4).init(device),
            conv: Conv2dConfig::new([4, 4], [3, 3]).with_padding(same).init(device),
            projection: LinearConfig::new(3, 4).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        COMPUTED.set(COMPUTED.get() + 1);
        let y = conv2d(&self.conv, group_norm_silu(&self.norm, x.clone()));
        x + y + self.projection.forward(time).unsqueeze_dims::<4>(&[2, 3])
    }

    fn recomputed(&self, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        block(self, x, time, Self::forward)
    }
}

/// The gradients of `x`, of `time` and of the trained weights of `block`, which is applied twice, and the number of its
/// evaluations.
fn gradients(
    block: &Block,
    x: &Tensor<4>,
    time: &Tensor<2>,
    through: fn(&Block, Tensor<4>, Tensor<2>) -> Tensor<4>,
) -> (Vec<TensorData>, usize) {
    COMPUTED.set(0);
    let y = through(block, through(block, x.clone(), time.clone()), time.clone());
    let mut found = y.square().sum().backward();
    let mut all: Vec<_> = x.grad_remove(&mut found).map(|gradient| gradient.into_data()).into_iter().collect();
    all.extend(time.grad_remove(&mut found).map(|gradient| gradient.into_data()));
    let found = GradientsParams::from_grads(found, block);
    all.extend(found.get::<4>(block.conv.weight.id).map(|gradient| gradient.into_data()));
    all.extend(found.get::<2>(block.projection.weight.id).map(|gradient| gradient.into_data()));
    all.extend(found.get::<1>(block.norm.gamma.as_ref().unwrap().id).map(|gradient| gradient.into_data()));
    (all, COMPUTED.get())
}

/// Compares with the block that keeps its results; there are `count` gradients.
#[track_caller]
fn check(block: &Block, x: &Tensor<4>, time: &Tensor<2>, count: usize, computed: usize) {
    let (kept, once) = gradients(block, x, time, Block::forward);
    let (again, twice) = gradients(block, x, time, Block::recomputed);
    assert_eq!((kept.len(), again.len()), (count, count));
    assert_eq!((once, twice), (2, computed));
    for (again, kept) in again.into_iter().zip(kept) {
        again.assert_approx_eq::<f32>(&kept, Tolerance::rel_abs(1e-5, 1e-5));
    }
}

fn inputs(device: &Device) -> (Tensor<4>, Tensor<2>) {
    let normal = Distribution::Normal(0.0, 1.0);
    (Tensor::random([2, 4, 5, 6], normal, device), Tensor::random([2, 3], normal, device))
}

fn checkpointing() -> Device {
    Device::flex().autodiff().gradient_checkpointing()
}

#[test]
fn of_inputs_and_weights() {
    let (x, time) = inputs(&checkpointing());
    check(&Block::new(&checkpointing()), &x.require_grad(), &time.require_grad(), 5, 4);
}

#[test]
fn through_a_frozen_block() {
    let (x, _) = inputs(&checkpointing());
    let (_, time) = inputs(&Device::flex());
    check(&Block::new(&Device::flex()), &x.require_grad(), &time, 1, 4);
}

#[test]
fn only_under_gradient_checkpointing() {
    let (x, time) = inputs(&Device::flex().autodiff());
    check(&Block::new(&Device::flex().autodiff()), &x.require_grad(), &time, 4, 2);
    // Even if the input has no gradient, the weights have.
    let (x, time) = inputs(&checkpointing());
    check(&Block::new(&checkpointing()), &x, &time, 3, 3);
}
