//! Weights whose gradients are heard of while the backward pass goes on, so that they can travel to other machines meanwhile
//! (Li et al. 2020, <https://arxiv.org/abs/2006.15704>, section 3.2.3).
//!
//! Burn hands out all gradients at the end of a backward pass. It goes back by depth, and a weight's depth is none: a linear
//! layer's transposed weight, for one, waits until everything else is done. So a weight is led through an operation that
//! computes nothing and stands as deep as the features that the weight is applied to.

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

/// Is told of a weight's gradient, as a row `[numbers]`, when nothing will be added to it any more.
pub type Listener = Arc<dyn Fn(ParamId, Tensor<1>) + Send + Sync>;

thread_local! {
    static EAR: RefCell<Option<Ear>> = const { RefCell::new(None) };
}

/// Does `forward`; when its result is gone back from, `listener` hears of the gradients of weights that were [`announced`]
/// meanwhile, on the thread of the backward pass.
pub fn listening<T>(listener: Listener, forward: impl FnOnce() -> T) -> T {
    let before = EAR.replace(Some(Ear { listener, due: Arc::default() }));
    let done = forward();
    EAR.set(before);
    done
}

/// `module` for one use, on features that come from `x`: its gradients are announced when the backward pass has come back
/// to `x`. The module itself where nobody listens, or `x` does not depend on what is trained. No weight may be used in both ways
/// in one loss: what is announced is the sum over its announced uses.
pub fn announced<'a, M: Module, const D: usize>(module: &'a M, x: &Tensor<D>) -> Cow<'a, M> {
    match Ear::here().filter(|_| x.is_tracked()) {
        Some(ear) => Cow::Owned(module.clone().map(&mut Announce { ear, x: x.clone() })),
        None => Cow::Borrowed(module),
    }
}

/// The listener, and what it has yet to be told.
#[derive(Clone)]
pub(crate) struct Ear {
    listener: Listener,
    due: Arc<Mutex<HashMap<ParamId, Due>>>,
}

/// The gradient of a weight of which some uses have not been gone back through.
#[derive(Default)]
struct Due {
    uses: usize,
    so_far: Option<Tensor<1>>,
}

impl Ear {
    /// That of this thread.
    pub(crate) fn here() -> Option<Self> {
        EAR.with_borrow(Clone::clone)
    }

    /// Says that one more gradient is to come.
    pub(crate) fn expect(&self, id: ParamId) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().uses += 1;
    }

    /// One of those that were expected.
    pub(crate) fn hear(&self, id: ParamId, gradient: Tensor<1>) {
        let mut all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(due) = all.get_mut(&id) else { return };
        let sum = match due.so_far.take() {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        due.uses -= 1;
        if due.uses > 0 {
            due.so_far = Some(sum);
            return;
        }
        all.remove(&id);
        drop(all);
        (self.listener)(id, sum);
    }
}

impl Debug for Ear {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Ear")
    }
}

struct Announce<const D: usize> {
    ear: Ear,
    x: Tensor<D>,
}

impl<const X: usize> ModuleMapper for Announce<X> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, weight, mapper) = param.consume();
        let led = self.lead::<Flex, D>(id, &weight);
        #[cfg(feature = "gpu")]
        let led = led.or_else(|| self.lead::<Cube, D>(id, &weight));
        Param::from_mapped_value(id, led.unwrap_or(weight), mapper)
    }
}

impl<const X: usize> Announce<X> {
    /// The weight behind the operation; `None` where it is not trained, or not `B`'s.
    fn lead<B: Backend, const D: usize>(&self, id: ParamId, weight: &Tensor<D>) -> Option<Tensor<D>>
    where
        DispatchTensor: DispatchKindConversion<B>
            + DispatchKindConversion<Autodiff<B, NoCheckpointing>>
            + DispatchKindConversion<Autodiff<B, BalancedCheckpointing>>,
    {
        if !weight.is_require_grad() {
            return None;
        }
        self.lead_under::<B, NoCheckpointing, D>(id, weight)
            .or_else(|| self.lead_under::<B, BalancedCheckpointing, D>(id, weight))
    }

    fn lead_under<B: Backend, C: CheckpointStrategy, const D: usize>(
        &self,
        id: ParamId,
        weight: &Tensor<D>,
    ) -> Option<Tensor<D>>
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
    {
        let x = self.x.clone().try_into_primitive::<Autodiff<B, C>>().ok()?;
        let weight = weight.clone().try_into_primitive::<Autodiff<B, C>>().ok()?;
        let prepared = Tell.prepare::<C>([weight.node(), x.node()]).compute_bound();
        let OpsKind::Tracked(prepared) = prepared.stateful() else { return None };
        self.ear.expect(id);
        let led = prepared.finish(Told { ear: self.ear.clone(), id }, weight.into_primitive());
        Some(Tensor::from_primitive::<Autodiff<B, C>>(led))
    }
}

#[derive(Clone, Debug)]
struct Told {
    ear: Ear,
    id: ParamId,
}

/// The operation's backward pass: the gradient goes on as it is.
#[derive(Debug)]
struct Tell;

impl<B: Backend> Backward<B, 2> for Tell
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Told;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Told { ear, id } = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        ear.hear(id, row::<B>(gradient.clone()));
        if let [Some(weight), _] = ops.parents {
            grads.register::<B>(weight.id, gradient);
        }
    }
}

/// A gradient's numbers, `[numbers]`.
fn row<B: Backend>(gradient: B::FloatTensorPrimitive) -> Tensor<1>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let numbers = gradient.shape().num_elements();
    Tensor::from_primitive::<B>(B::float_reshape(gradient, [numbers].into()))
}
