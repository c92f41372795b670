//! Who listens hears of every announced weight's gradient once, whole, and in the order of the backward pass.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use spire_kernels::{Listener, block, conv2d, listening};

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

    /// The last block, where `again`, is gone through twice.
    fn loss(&self, x: Tensor<4>, beside: Tensor<2>, again: bool) -> Tensor<1> {
        let forward = |x, part: &Block| {
            block(part, x, beside.clone(), |part, x, beside| {
                let beside = part.projection.forward(beside).unsqueeze_dims::<4>(&[2, 3]);
                (conv2d(&part.conv, x) + beside).tanh()
            })
        };
        let y = self.blocks.iter().fold(conv2d(&self.entry, x), forward);
        let y = if again { forward(y, &self.blocks[2]) } else { y };
        y.square().sum()
    }
}

/// The numbers of every weight's gradient, in the order of the module's fields.
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

/// What is heard, in its order, and what the backward pass gives.
fn heard(device: &Device, again: bool) -> (Network, Vec<(ParamId, TensorData)>, GradientsParams) {
    let network = Network::new(device);
    let x = Tensor::random([2, 2, 3, 3], Distribution::Default, device).require_grad();
    let beside = Tensor::random([2, 3], Distribution::Default, device);
    let all = Arc::new(Mutex::new(Vec::new()));
    let listener: Listener = {
        let all = all.clone();
        Arc::new(move |id, row: Tensor<1>| all.lock().unwrap().push((id, row.into_data())))
    };
    let loss = listening(listener, || network.loss(x, beside, again));
    let found = GradientsParams::from_grads(loss.backward(), &network);
    let all = all.lock().unwrap().clone();
    (network, all, found)
}

fn devices() -> [Device; 2] {
    [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()]
}

#[test]
fn every_gradient_once_and_whole() {
    for device in devices() {
        for again in [false, true] {
            let (network, all, found) = heard(&device, again);
            let expected: HashMap<_, _> = gradients(&network, &found).into_iter().collect();
            assert_eq!((all.len(), expected.len()), (14, 14));
            for (id, row) in all {
                row.assert_eq(&expected[&id], true);
            }
        }
    }
}

#[test]
fn a_part_is_heard_of_before_the_parts_before_it() {
    for device in devices() {
        for again in [false, true] {
            let (network, all, _) = heard(&device, again);
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
fn what_is_frozen_or_not_listened_to_says_nothing() {
    let device = Device::flex().autodiff();
    let network = Network::new(&device).no_grad();
    let x = Tensor::random([2, 2, 3, 3], Distribution::Default, &device).require_grad();
    let beside = Tensor::random([2, 3], Distribution::Default, &device);
    let listener: Listener = Arc::new(|id, _| panic!("{id} is frozen"));
    let loss = listening(listener.clone(), || network.loss(x.clone(), beside.clone(), false));
    loss.backward();

    let trained = Network::new(&device);
    listening(listener, || ());
    trained.loss(x, beside, false).backward();
}
