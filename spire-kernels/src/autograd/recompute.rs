//! Gradient checkpointing block by block, as diffusers does it (Chen et al. 2016, <https://arxiv.org/abs/1604.06174>): the
//! graph keeps only a block's inputs, and the backward pass computes the block again.

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

use super::hooks::InstalledHook;

/// A block's forward pass: `x` `[batch, channels, height, width]` and a second input (the time embedding, say) to the
/// block's output.
pub type Forward<M, const D: usize> = fn(&M, Tensor<4>, Tensor<D>) -> Tensor<4>;

/// The backend of tensors under gradient checkpointing.
type Checkpointed<B> = Autodiff<B, BalancedCheckpointing>;

/// `forward(module, x, condition)` as one operation of the graph: it keeps no intermediate result, and the backward pass runs
/// `forward` a second time. `None` if `x` depends on no trained weight, or the device does not checkpoint gradients
/// ([`GradientCheckpointingStrategy::Balanced`]).
pub fn recomputed<M: Module + 'static, const D: usize>(
    module: &M,
    x: &Tensor<4>,
    condition: &Tensor<D>,
    forward: Forward<M, D>,
) -> Option<Tensor<4>> {
    let asked = DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced);
    if !x.is_tracked() || x.clone().into_dispatch().autodiff != asked {
        return None;
    }
    let block = Block {
        module: module.clone(),
        x: x.clone(),
        condition: condition.clone(),
        forward,
        hook: InstalledHook::current(),
    };
    let recorded = block.record::<Flex>();
    #[cfg(feature = "gpu")]
    let recorded = recorded.or_else(|| block.record::<Cube>());
    recorded
}

#[derive(Clone)]
struct Block<M: Module, const D: usize> {
    module: M,
    x: Tensor<4>,
    condition: Tensor<D>,
    forward: Forward<M, D>,
    hook: Option<InstalledHook>,
}

impl<M: Module + 'static, const D: usize> Block<M, D> {
    /// The output, with the whole block as one operation of the graph; `None` if the tensors are not on backend `B`.
    fn record<B: Backend>(&self) -> Option<Tensor<4>>
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Checkpointed<B>>,
    {
        let x = self.x.clone().try_into_primitive::<Checkpointed<B>>().ok()?;
        let condition = checkpointed(self.condition.clone()).try_into_primitive::<Checkpointed<B>>().ok()?;
        let prepared =
            Recompute(PhantomData).prepare::<BalancedCheckpointing>([x.node(), condition.node()]).compute_bound();
        let OpsKind::Tracked(prepared) = prepared.stateful() else { return None };
        if let Some(hook) = &self.hook {
            self.module.visit(&mut Expect(hook));
        }
        let block = Self { x: self.x.clone().inner(), condition: self.condition.clone().inner(), ..self.clone() };
        let y = (block.forward)(&block.module.valid(), block.x.clone(), block.condition.clone());
        let y = y.try_into_primitive::<B>().expect("computed from this backend's tensors");
        Some(Tensor::from_primitive::<Checkpointed<B>>(prepared.finish(block, y)))
    }
}

impl<M: Module, const D: usize> Debug for Block<M, D> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("x", &self.x).field("condition", &self.condition).finish_non_exhaustive()
    }
}

/// The backward pass of a [`Block`].
struct Recompute<M, const D: usize>(PhantomData<fn(M)>);

impl<M, const D: usize> Debug for Recompute<M, D> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Recompute")
    }
}

impl<B: Backend, M: Module + 'static, const D: usize> Backward<B, 2> for Recompute<M, D>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Checkpointed<B>>,
{
    type State = Block<M, D>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Block { module, x, condition, forward, hook } = ops.state;
        let [x_node, condition_node] = ops.parents;
        let gradient = Tensor::<4>::from_primitive::<B>(grads.consume::<B>(&ops.node));
        // In a graph of its own: the graph of the running backward pass is locked.
        let fresh = module.clone().map(&mut Leaves);
        let x = if x_node.is_some() { x.autodiff().require_grad() } else { x };
        let condition = if condition_node.is_some() { condition.autodiff().require_grad() } else { condition };
        let y = forward(&fresh, x.clone(), condition.clone());
        let mut gradients = (y * gradient).sum().backward();
        let of_x = x.grad_remove(&mut gradients);
        let of_condition = condition.grad_remove(&mut gradients);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, primitive::<B, _>(of_x.unwrap_or_else(|| x.inner().zeros_like())));
        }
        if let Some(node) = condition_node {
            grads.register::<B>(
                node.id,
                primitive::<B, _>(of_condition.unwrap_or_else(|| condition.inner().zeros_like())),
            );
        }
        let found = GradientsParams::from_grads(gradients, &fresh);
        module.visit(&mut Register::<B> { found, grads, hook, backend: PhantomData });
    }
}

/// Makes the trained weights leaves of a new graph.
struct Leaves;

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let trained = value.is_require_grad();
        let value = value.inner();
        Param::from_mapped_value(id, if trained { value.autodiff().require_grad() } else { value }, mapper)
    }
}

/// Counts one use of each trained weight.
struct Expect<'a>(&'a InstalledHook);

impl ModuleVisitor for Expect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.val().is_require_grad() {
            self.0.expect(param.id);
        }
    }
}

/// Registers the weights' gradients in the outer graph and reports them to the hook.
struct Register<'a, B: Backend> {
    found: GradientsParams,
    grads: &'a mut Gradients,
    hook: Option<InstalledHook>,
    backend: PhantomData<B>,
}

impl<B: Backend> ModuleVisitor for Register<'_, B>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Checkpointed<B>>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.found.remove::<D>(param.id) {
            if let Some(hook) = &self.hook {
                hook.add(param.id, gradient.clone().reshape([-1]));
            }
            let weight = param.val().try_into_primitive::<Checkpointed<B>>();
            let weight = weight.expect("trained weights and features share one checkpointing strategy");
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
