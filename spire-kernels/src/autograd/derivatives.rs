//! The kernels under autodiff: what each keeps for the backward pass, and its gradients.

use std::marker::PhantomData;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::ModuleOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};

use crate::kernels::convolution::Convolution;
use crate::kernels::elementwise::Activation;
use crate::kernels::group_norm::Settings;
use crate::kernels::ops::Kernels;
use crate::kernels::pool::{Pooling, Window};

type NodeId = burn::backend::autodiff::NodeId;

#[derive(Debug)]
struct Convolve;

impl<B: Kernels> Backward<B, 3> for Convolve {
    type State = (NodeId, NodeId, Convolution);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, weight, convolution) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let weight = checkpointer.retrieve_node_output::<FloatTensor<B>>(weight);
        let gradient = grads.consume::<B>(&ops.node);
        let [of_x, of_weight, of_bias] = ops.parents;
        let ([_, _, height, width], [to, _, rows, columns]) = (x.shape().dims(), weight.shape().dims());
        if let Some(node) = of_bias {
            let sum = (2..4).rev().chain([0]).fold(gradient.clone(), B::float_sum_dim);
            grads.register::<B>(node.id, B::float_reshape(sum, [to].into()));
        }
        if let Some(node) = of_weight {
            let weight = B::convolve_weight_gradient(x, gradient.clone(), convolution, rows, columns);
            grads.register::<B>(node.id, weight);
        }
        if let Some(node) = of_x {
            grads.register::<B>(node.id, B::convolve_input_gradient(weight, gradient, convolution, height, width));
        }
    }
}

#[derive(Debug)]
struct GroupNorm;

impl<B: Kernels> Backward<B, 3> for GroupNorm {
    type State = (NodeId, NodeId, NodeId, Settings);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, gamma, beta, settings) = ops.state;
        let [x, gamma, beta] = [x, gamma, beta].map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node));
        let gradient = grads.consume::<B>(&ops.node);
        let (x, gamma, beta) = B::group_norm_gradients(x, gamma, beta, gradient, settings);
        for (node, gradient) in ops.parents.into_iter().zip([x, gamma, beta]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// Recomputes the output in the backward pass, under gradient checkpointing.
#[derive(Debug)]
struct GroupNormAgain<B> {
    inputs: [NodeId; 3],
    settings: Settings,
    backend: PhantomData<B>,
}

impl<B: Kernels> RetroForward for GroupNormAgain<B> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [x, gamma, beta] = self.inputs.each_ref().map(|node| states.get_state::<FloatTensor<B>>(node));
        states.save(out_node, B::group_norm(x, gamma, beta, self.settings));
    }
}

#[derive(Debug)]
struct Activate;

impl<B: Kernels> Backward<B, 1> for Activate {
    type State = (NodeId, Activation);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, activation) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let gradient = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::activate_gradient(x, gradient, activation));
        }
    }
}

/// Recomputes the output in the backward pass, under gradient checkpointing.
#[derive(Debug)]
struct ActivateAgain<B> {
    x: NodeId,
    activation: Activation,
    backend: PhantomData<B>,
}

impl<B: Kernels> RetroForward for ActivateAgain<B> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let x = states.get_state::<FloatTensor<B>>(&self.x);
        states.save(out_node, B::activate(x, self.activation));
    }
}

impl<B: Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        convolution: Convolution,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let [x_values, weight_values] = [&x, &weight].map(|tensor| tensor.clone().into_primitive());
        let y = B::convolve(x_values, weight_values, bias.into_primitive(), convolution);
        match Convolve.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&weight), convolution);
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn convolve_input_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Convolution,
        _: usize,
        _: usize,
    ) -> FloatTensor<Self> {
        first_order()
    }

    fn convolve_weight_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Convolution,
        _: usize,
        _: usize,
    ) -> FloatTensor<Self> {
        first_order()
    }

    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node()];
        let inputs = [x.node().id(), gamma.node().id(), beta.node().id()];
        let again = GroupNormAgain::<B> { inputs, settings, backend: PhantomData };
        let prepared = GroupNorm.prepare::<C>(nodes).memory_bound().retro_forward(again);
        let [values, factors, shifts] = [&x, &gamma, &beta].map(|tensor| tensor.clone().into_primitive());
        let y = B::group_norm(values, factors, shifts, settings);
        match prepared.parents([&x, &gamma, &beta]).stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&gamma), prep.checkpoint(&beta), settings);
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn group_norm_gradients(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        first_order()
    }

    fn pool(x: FloatTensor<Self>, pooling: Pooling, window: Window) -> FloatTensor<Self> {
        let Window { side, stride, padding } = window;
        match pooling {
            Pooling::Maximum => Self::max_pool2d(x, [side; 2], [stride; 2], [padding; 2], [1; 2], false),
            Pooling::Average => Self::avg_pool2d(x, [side; 2], [stride; 2], [padding; 2], false, false),
        }
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let again = ActivateAgain::<B> { x: x.node().id(), activation, backend: PhantomData };
        match Activate.prepare::<C>([x.node()]).memory_bound().retro_forward(again).parents([&x]).stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), activation);
                prep.finish(state, B::activate(x.into_primitive(), activation))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::activate(x.into_primitive(), activation)),
        }
    }

    fn activate_gradient(_: FloatTensor<Self>, _: FloatTensor<Self>, _: Activation) -> FloatTensor<Self> {
        first_order()
    }
}

/// The backward pass calls the inner backend; second derivatives are not supported.
fn first_order<T>() -> T {
    unreachable!("the kernels have no second derivative")
}
