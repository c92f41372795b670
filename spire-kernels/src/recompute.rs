//! Parts of a network of which the backward pass is left the inputs alone, and computes the rest again (Chen et al. 2016,
//! <https://arxiv.org/abs/1604.06174>): gradient checkpointing block by block, as diffusers has it.

use std::fmt::{self, Debug, Formatter};
use std::marker::PhantomData;

#[cfg(feature = "gpu")]
use burn::backend::Cube;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, DispatchAutodiffContext, DispatchKindConversion, Flex};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DispatchTensor, GradientCheckpointingStrategy, Tensor};

use crate::announce::Ear;
use crate::block::Forward;

/// The backend of tensors under gradient checkpointing.
type Checkpointed<B> = Autodiff<B, BalancedCheckpointing>;

/// `forward(module, x, beside)` as one operation of the graph: no intermediate result is kept, and the backward pass computes
/// `forward` a second time. `None` where `x` does not depend on what is trained, or gradient checkpointing is not asked for
/// ([`GradientCheckpointingStrategy::Balanced`]).
pub fn recomputed<M: Module + 'static, const D: usize>(
    module: &M,
    x: &Tensor<4>,
    beside: &Tensor<D>,
    forward: Forward<M, D>,
) -> Option<Tensor<4>> {
    let asked = DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced);
    if !x.is_tracked() || x.clone().into_dispatch().autodiff != asked {
        return None;
    }
    let part = Part { module: module.clone(), x: x.clone(), beside: beside.clone(), forward, ear: Ear::here() };
    let recorded = part.record::<Flex>();
    #[cfg(feature = "gpu")]
    let recorded = recorded.or_else(|| part.record::<Cube>());
    recorded
}

#[derive(Clone)]
struct Part<M: Module, const D: usize> {
    module: M,
    x: Tensor<4>,
    beside: Tensor<D>,
    forward: Forward<M, D>,
    ear: Option<Ear>,
}

impl<M: Module + 'static, const D: usize> Part<M, D> {
    /// The output, with the whole part as one operation of the graph; `None` where its tensors are not `B`'s.
    fn record<B: Backend>(&self) -> Option<Tensor<4>>
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Checkpointed<B>>,
    {
        let x = self.x.clone().try_into_primitive::<Checkpointed<B>>().ok()?;
        let beside = checkpointed(self.beside.clone()).try_into_primitive::<Checkpointed<B>>().ok()?;
        let prepared = Again(PhantomData).prepare::<BalancedCheckpointing>([x.node(), beside.node()]).compute_bound();
        let OpsKind::Tracked(prepared) = prepared.stateful() else { return None };
        if let Some(ear) = &self.ear {
            self.module.visit(&mut Expect(ear));
        }
        let part = Self { x: self.x.clone().inner(), beside: self.beside.clone().inner(), ..self.clone() };
        let y = (part.forward)(&part.module.valid(), part.x.clone(), part.beside.clone());
        let y = y.try_into_primitive::<B>().expect("computed from this backend's tensors");
        Some(Tensor::from_primitive::<Checkpointed<B>>(prepared.finish(part, y)))
    }
}

impl<M: Module, const D: usize> Debug for Part<M, D> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("x", &self.x).field("beside", &self.beside).finish_non_exhaustive()
    }
}

/// The backward pass of a [`Part`].
struct Again<M, const D: usize>(PhantomData<fn(M)>);

impl<M, const D: usize> Debug for Again<M, D> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Again")
    }
}

impl<B: Backend, M: Module + 'static, const D: usize> Backward<B, 2> for Again<M, D>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Checkpointed<B>>,
{
    type State = Part<M, D>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Part { module, x, beside, forward, ear } = ops.state;
        let [x_node, beside_node] = ops.parents;
        let gradient = Tensor::<4>::from_primitive::<B>(grads.consume::<B>(&ops.node));
        // A graph of its own: the one that is gone back through is locked meanwhile.
        let fresh = module.clone().map(&mut Leaves);
        let x = if x_node.is_some() { x.autodiff().require_grad() } else { x };
        let beside = if beside_node.is_some() { beside.autodiff().require_grad() } else { beside };
        let y = forward(&fresh, x.clone(), beside.clone());
        let mut again = (y * gradient).sum().backward();
        let of_x = x.grad_remove(&mut again);
        let of_beside = beside.grad_remove(&mut again);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, primitive::<B, _>(of_x.unwrap_or_else(|| x.inner().zeros_like())));
        }
        if let Some(node) = beside_node {
            grads.register::<B>(node.id, primitive::<B, _>(of_beside.unwrap_or_else(|| beside.inner().zeros_like())));
        }
        let found = GradientsParams::from_grads(again, &fresh);
        module.visit(&mut Register::<B> { found, grads, ear, backend: PhantomData });
    }
}

/// The weights as leaves of a graph of their own, as far as they are trained.
struct Leaves;

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let trained = value.is_require_grad();
        let value = value.inner();
        Param::from_mapped_value(id, if trained { value.autodiff().require_grad() } else { value }, mapper)
    }
}

/// Says which gradients are to come.
struct Expect<'a>(&'a Ear);

impl ModuleVisitor for Expect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.val().is_require_grad() {
            self.0.expect(param.id);
        }
    }
}

/// Hands the gradients that were found to the weights that they are of, and to who listens.
struct Register<'a, B: Backend> {
    found: GradientsParams,
    grads: &'a mut Gradients,
    ear: Option<Ear>,
    backend: PhantomData<B>,
}

impl<B: Backend> ModuleVisitor for Register<'_, B>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Checkpointed<B>>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.found.remove::<D>(param.id) {
            if let Some(ear) = &self.ear {
                ear.hear(param.id, gradient.clone().reshape([-1]));
            }
            let weight = param.val().try_into_primitive::<Checkpointed<B>>();
            let weight = weight.expect("what is trained is under the same checkpointing as the features");
            self.grads.register::<B>(weight.id(), primitive::<B, _>(gradient));
        }
    }
}

fn checkpointed<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() {
        x
    } else {
        x.autodiff().with_gradient_checkpointing_strategy(GradientCheckpointingStrategy::Balanced)
    }
}

fn primitive<B: Backend, const D: usize>(x: Tensor<D>) -> B::FloatTensorPrimitive
where
    DispatchTensor: DispatchKindConversion<B>,
{
    x.try_into_primitive::<B>().expect("a gradient is on the backend of its tensor")
}
