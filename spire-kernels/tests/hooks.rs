//! A gradient hook fires once for every weight, with the complete gradient, in the order of the backward pass.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use spire_kernels::{GradientHook, block, conv2d, with_gradient_hook};

#[derive(Module, Debug)]
struct Block {
    conv: Conv2d,
    projection: Linear,
}

#[derive(Module, Debug)]
struct Network {
    entry: Conv2d,
    blocks: Vec<Block>,
}

impl Network {
    fn new(device: &Device) -> Self {
        let block = || Block {
            conv: Conv2dConfig::new([4, 4], [1, 1]).init(device),
            projection: LinearConfig::new(3, 4).init(device),
        };
        Self { entry: Conv2dConfig::new([2, 4], [1, 1]).init(device), blocks: vec![block(), block(), block()] }
    }

    /// With `twice`, the last block is used twice.
    fn loss(&self, x: Tensor<4>, condition: Tensor<2>, twice: bool) -> Tensor<1> {
        let forward = |x, part: &Block| {
            block(part, x, condition.clone(), |part, x, condition| {
                let condition = part.projection.forward(condition).unsqueeze_dims::<4>(&[2, 3]);
                (conv2d(&part.conv, x) + condition).tanh()
            })
        };
        let y = self.blocks.iter().fold(conv2d(&self.entry, x), forward);
        let y = if twice { forward(y, &self.blocks[2]) } else { y };
        y.square().sum()
    }
}

/// Every weight's gradient, flattened, in the order of the module's fields.
fn gradients<M: Module>(module: &M, gradients: &GradientsParams) -> Vec<(ParamId, TensorData)> {
    struct Collect<'a>(&'a GradientsParams, Vec<(ParamId, TensorData)>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id);
            self.1.extend(gradient.map(|gradient| (param.id, gradient.reshape([-1]).into_data())));
        }
    }
    let mut collect = Collect(gradients, Vec::new());
    module.visit(&mut collect);
    collect.1
}

/// The hook's calls in order, and the gradients that the backward pass returns.
fn hook_calls(device: &Device, twice: bool) -> (Network, Vec<(ParamId, TensorData)>, GradientsParams) {
    let network = Network::new(device);
    let x = Tensor::random([2, 2, 3, 3], Distribution::Default, device).require_grad();
    let condition = Tensor::random([2, 3], Distribution::Default, device);
    let all = Arc::new(Mutex::new(Vec::new()));
    let hook: GradientHook = {
        let all = all.clone();
        Arc::new(move |id, row: Tensor<1>| all.lock().unwrap().push((id, row.into_data())))
    };
    let loss = with_gradient_hook(hook, || network.loss(x, condition, twice));
    let found = GradientsParams::from_grads(loss.backward(), &network);
    let all = all.lock().unwrap().clone();
    (network, all, found)
}

fn devices() -> [Device; 2] {
    [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()]
}

#[test]
fn the_hook_fires_once_per_weight_with_the_complete_gradient() {
    for device in devices() {
        for twice in [false, true] {
            let (network, all, found) = hook_calls(&device, twice);
            let expected: HashMap<_, _> = gradients(&network, &found).into_iter().collect();
            assert_eq!((all.len(), expected.len()), (14, 14));
            for (id, row) in all {
                row.assert_eq(&expected[&id], true);
            }
        }
    }
}

#[test]
fn the_hook_fires_for_later_blocks_first() {
    for device in devices() {
        for twice in [false, true] {
            let (network, all, _) = hook_calls(&device, twice);
            let part = |id: &ParamId| {
                let has = |part: &Block| {
                    [part.conv.weight.id, part.projection.weight.id].contains(id)
                        || [&part.conv.bias, &part.projection.bias].iter().any(|bias| bias.as_ref().unwrap().id == *id)
                };
                network.blocks.iter().position(has)
            };
            let order: Vec<_> = all.iter().map(|(id, _)| part(id)).collect();
            let of = |part| [Some(part); 4];
            let expected = [of(2), of(1), of(0)].concat().into_iter().chain([None; 2]).collect::<Vec<_>>();
            assert_eq!(order, expected);
        }
    }
}

#[test]
fn the_hook_does_not_fire_for_frozen_weights_or_outside_its_scope() {
    let device = Device::flex().autodiff();
    let network = Network::new(&device).no_grad();
    let x = Tensor::random([2, 2, 3, 3], Distribution::Default, &device).require_grad();
    let condition = Tensor::random([2, 3], Distribution::Default, &device);
    let hook: GradientHook = Arc::new(|id, _| panic!("{id} is frozen"));
    let loss = with_gradient_hook(hook.clone(), || network.loss(x.clone(), condition.clone(), false));
    loss.backward();

    let trained = Network::new(&device);
    with_gradient_hook(hook, || ());
    trained.loss(x, condition, false).backward();
}
