//! Gradient hooks that fire during the backward pass, so that communication overlaps it (Li et al. 2020,
//! <https://arxiv.org/abs/2006.15704>, section 3.2.3).
//!
//! Burn returns all gradients at the end of a backward pass. It visits the operations of the graph by depth, and a weight
//! has depth zero: the transposed weight of a linear layer, for example, is visited after everything else. So
//! [`hooked`] passes each weight through an identity operation whose depth is that of the features it is applied to; the
//! backward pass of that operation fires the hook.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "gpu")]
use burn::backend::Cube;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, DispatchKindConversion, Flex, TensorMetadata};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{DispatchTensor, Tensor};

/// Called with a weight's id and its complete gradient, flattened to `[elements]`, on the thread of the backward pass.
pub type GradientHook = Arc<dyn Fn(ParamId, Tensor<1>) + Send + Sync>;

thread_local! {
    static INSTALLED: RefCell<Option<InstalledHook>> = const { RefCell::new(None) };
}

/// Runs `forward` with `hook` installed on this thread. The backward pass from its result then calls `hook` for every weight
/// that `forward` used through [`hooked`].
pub fn with_gradient_hook<T>(hook: GradientHook, forward: impl FnOnce() -> T) -> T {
    let before = INSTALLED.replace(Some(InstalledHook { hook, pending: Arc::default() }));
    let output = forward();
    INSTALLED.set(before);
    output
}

/// `module` for one use on features computed from `x`: the installed hook fires for its weights when the backward pass
/// reaches `x`. Returns the module itself if no hook is installed or `x` depends on no trained weight.
///
/// A loss must use a weight either only through this function or never: the hook gets the sum over the hooked uses.
pub fn hooked<'a, M: Module, const D: usize>(module: &'a M, x: &Tensor<D>) -> Cow<'a, M> {
    match InstalledHook::current().filter(|_| x.is_tracked()) {
        Some(hook) => Cow::Owned(module.clone().map(&mut AttachHook { hook, x: x.clone() })),
        None => Cow::Borrowed(module),
    }
}

/// A hook and the gradients that are not complete yet.
#[derive(Clone)]
pub(crate) struct InstalledHook {
    hook: GradientHook,
    pending: Arc<Mutex<HashMap<ParamId, PartialGradient>>>,
}

/// The gradient of a weight summed over the uses that the backward pass has visited.
#[derive(Default)]
struct PartialGradient {
    remaining_uses: usize,
    sum: Option<Tensor<1>>,
}

impl InstalledHook {
    /// The hook installed on this thread, if any.
    pub(crate) fn current() -> Option<Self> {
        INSTALLED.with_borrow(Clone::clone)
    }

    /// Counts one more use of a weight.
    pub(crate) fn expect(&self, id: ParamId) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().remaining_uses += 1;
    }

    /// Adds the gradient of one expected use; calls the hook after the last.
    pub(crate) fn add(&self, id: ParamId, gradient: Tensor<1>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(partial) = pending.get_mut(&id) else { return };
        let sum = match partial.sum.take() {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        partial.remaining_uses -= 1;
        if partial.remaining_uses > 0 {
            partial.sum = Some(sum);
            return;
        }
        pending.remove(&id);
        // The hook may take long: release the lock first.
        drop(pending);
        (self.hook)(id, sum);
    }
}

impl Debug for InstalledHook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("InstalledHook")
    }
}

/// Passes the trained weights of a module through [`FireHook`].
struct AttachHook<const D: usize> {
    hook: InstalledHook,
    x: Tensor<D>,
}

impl<const X: usize> ModuleMapper for AttachHook<X> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, weight, mapper) = param.consume();
        let hooked = self.attach::<Flex, D>(id, &weight);
        #[cfg(feature = "gpu")]
        let hooked = hooked.or_else(|| self.attach::<Cube, D>(id, &weight));
        Param::from_mapped_value(id, hooked.unwrap_or(weight), mapper)
    }
}

impl<const X: usize> AttachHook<X> {
    /// The output of the identity operation; `None` if the weight is frozen or not on backend `B`.
    fn attach<B: Backend, const D: usize>(&self, id: ParamId, weight: &Tensor<D>) -> Option<Tensor<D>>
    where
        DispatchTensor: DispatchKindConversion<B>
            + DispatchKindConversion<Autodiff<B, NoCheckpointing>>
            + DispatchKindConversion<Autodiff<B, BalancedCheckpointing>>,
    {
        if !weight.is_require_grad() {
            return None;
        }
        self.attach_under::<B, NoCheckpointing, D>(id, weight)
            .or_else(|| self.attach_under::<B, BalancedCheckpointing, D>(id, weight))
    }

    fn attach_under<B: Backend, C: CheckpointStrategy, const D: usize>(
        &self,
        id: ParamId,
        weight: &Tensor<D>,
    ) -> Option<Tensor<D>>
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
    {
        let x = self.x.clone().try_into_primitive::<Autodiff<B, C>>().ok()?;
        let weight = weight.clone().try_into_primitive::<Autodiff<B, C>>().ok()?;
        let prepared = FireHook.prepare::<C>([weight.node(), x.node()]).compute_bound();
        let OpsKind::Tracked(prepared) = prepared.stateful() else { return None };
        self.hook.expect(id);
        let hooked = prepared.finish(HookState { hook: self.hook.clone(), id }, weight.into_primitive());
        Some(Tensor::from_primitive::<Autodiff<B, C>>(hooked))
    }
}

#[derive(Clone, Debug)]
struct HookState {
    hook: InstalledHook,
    id: ParamId,
}

/// The identity operation. Its backward pass reports the gradient to the hook and passes it on.
#[derive(Debug)]
struct FireHook;

impl<B: Backend> Backward<B, 2> for FireHook
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = HookState;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let HookState { hook, id } = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        hook.add(id, flatten::<B>(gradient.clone()));
        if let [Some(weight), _] = ops.parents {
            grads.register::<B>(weight.id, gradient);
        }
    }
}

/// A gradient as `[elements]`.
fn flatten<B: Backend>(gradient: B::FloatTensorPrimitive) -> Tensor<1>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let elements = gradient.shape().num_elements();
    Tensor::from_primitive::<B>(B::float_reshape(gradient, [elements].into()))
}
