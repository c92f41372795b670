//! Gradients of a batch whose parts are computed on threads of their own.
//!
//! On a CPU the operators of a small model are too short to be spread over the cores; whole parts of a batch are not.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{Scope, ScopedJoinHandle};

use anyhow::{Result, anyhow};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{GradientCheckpointingStrategy, Tensor};
use spire_kernels::{Listener, listening};
use spire_model::device::on_one_thread;
use spire_model::weights::Precision;

use crate::optimizer::{accumulate, scale};
use crate::ranks::{Buckets, Ranks, Teller, arriving};

/// How gradients are computed.
#[derive(Clone, Copy, Debug)]
pub struct Computation {
    /// Parts that are computed at a time.
    pub threads: usize,
    /// That of the forward and the backward pass. Weights, and gradients once a part is done, have 32 bits.
    pub precision: Precision,
    /// Whether the backward pass computes again what is quick to compute (Burn's balanced strategy), and the UNet's blocks.
    pub checkpointing: bool,
}

impl Computation {
    /// In 32 bits, `threads` parts at a time.
    pub fn on_threads(threads: usize) -> Self {
        Self { threads, precision: Precision::F32, checkpointing: false }
    }

    fn at_a_time(self) -> usize {
        self.threads.max(1)
    }

    /// `compute`, for a thread that has others beside it: their operators are not spread over the cores.
    fn on_its_own<T: Send>(self, compute: impl FnOnce() -> Result<T> + Send) -> impl FnOnce() -> Result<T> + Send {
        move || if self.at_a_time() == 1 { compute() } else { on_one_thread(compute) }
    }
}

/// Mean loss and mean gradients over `parts`. The result depends on the parts and their order, not on the threads.
///
/// # Errors
/// `loss` fails for a part, or panics.
pub fn gradients<M: Module, P: Send>(
    module: &M,
    parts: Vec<P>,
    how: Computation,
    loss: impl Fn(&M, P) -> Result<Tensor<1>> + Sync,
) -> Result<(f64, GradientsParams)> {
    let count = parts.len() as f64;
    let (total, mut sum) = sums(module, parts, how, &loss)?;
    if count > 1.0 {
        scale(module, &mut sum, 1.0 / count);
    }
    Ok((total / count, sum))
}

/// The weights in the order in which a backward pass is done with them, which depends on the network alone; without those
/// that it tells of only at its end.
///
/// # Errors
/// `loss` fails.
pub fn order_of_gradients<M: Module, P>(
    module: &M,
    part: P,
    how: Computation,
    loss: impl Fn(&M, P) -> Result<Tensor<1>>,
) -> Result<Vec<ParamId>> {
    let (sender, order) = channel();
    let listener: Listener = Arc::new(move |id, _| sender.send(id).expect("it is read below"));
    listening(listener, || loss(&replica(module, how), part))?.backward();
    Ok(order.try_iter().collect())
}

/// Mean loss over the `parts` of this rank, and mean gradients over those of all ranks, of which each has as many. They travel
/// in `buckets`, most of them while the last parts are gone back through.
///
/// # Errors
/// As [`gradients`]; the other ranks then get gradients that are not finite, or wait until they are ended.
pub fn gradients_of_all<M: Module, P: Send>(
    ranks: &Ranks,
    buckets: &Buckets,
    module: &M,
    mut parts: Vec<P>,
    how: Computation,
    loss: impl Fn(&M, P) -> Result<Tensor<1>> + Sync,
) -> Result<(f64, GradientsParams)> {
    let count = parts.len();
    let last = parts.split_off(count.saturating_sub(1) / how.at_a_time() * how.at_a_time());
    let (mut tellers, mut arriving) = arriving(1 + last.len(), buckets.device());
    let round = tellers.split_off(1);
    let before = {
        let (loss, gradients) = sums(module, parts, how, &loss)?;
        tellers.into_iter().for_each(|teller| teller.rest(module, &gradients));
        loss
    };
    let compute = |replica: M, (part, teller): (P, Teller)| {
        let value = listening(teller.listener(), || loss(&replica, part))?;
        let gradients = GradientsParams::from_grads(value.backward(), &replica);
        teller.rest(&replica, &gradients);
        Ok(f64::from(value.into_scalar::<f32>()))
    };
    let (rows, losses) = std::thread::scope(|scope| {
        let running = start(scope, module, last.into_iter().zip(round), how, &compute);
        (ranks.sums(buckets, &mut arriving), running.into_iter().map(joined).collect::<Result<Vec<_>>>())
    });
    let total = losses?.into_iter().fold(before, |total, loss| total + loss);
    let share = 1.0 / (ranks.count() * count) as f64;
    Ok((total / count as f64, buckets.gradients(module, rows, share)))
}

/// The sums of the losses and of the gradients of `parts`.
fn sums<M: Module, P: Send>(
    module: &M,
    parts: Vec<P>,
    how: Computation,
    loss: &(impl Fn(&M, P) -> Result<Tensor<1>> + Sync),
) -> Result<(f64, GradientsParams)> {
    let compute = |replica: M, part: P| {
        let value = loss(&replica, part)?;
        let gradients = GradientsParams::from_grads(value.backward(), &replica);
        Ok((f64::from(value.into_scalar::<f32>()), gradients))
    };
    let mut sum = GradientsParams::new();
    let mut total = 0.0;
    let mut parts = parts.into_iter().peekable();
    while parts.peek().is_some() {
        let done: Vec<Result<(f64, GradientsParams)>> = std::thread::scope(|scope| {
            let running = start(scope, module, parts.by_ref().take(how.at_a_time()), how, &compute);
            running.into_iter().map(joined).collect()
        });
        for part in done {
            let (value, gradients) = part?;
            total += value;
            accumulate(module, &mut sum, gradients);
        }
    }
    Ok((total, sum))
}

/// Does `compute` for each of `parts` on a thread of its own, with a replica of the module.
fn start<'scope, M: Module + 'scope, P: Send + 'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    module: &M,
    parts: impl Iterator<Item = P>,
    how: Computation,
    compute: &'scope (impl Fn(M, P) -> Result<T> + Sync),
) -> Vec<ScopedJoinHandle<'scope, Result<T>>> {
    let one = |part| {
        let replica = replica(module, how);
        scope.spawn(how.on_its_own(move || compute(replica, part)))
    };
    parts.map(one).collect()
}

fn joined<T>(thread: ScopedJoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a training thread stopped unexpectedly")))
}

/// The same weights as leaves of a graph of its own, so that threads share no graph.
fn replica<M: Module>(module: &M, how: Computation) -> M {
    struct Detach(Computation);
    impl ModuleMapper for Detach {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, value, mapper) = param.consume();
            let required = value.is_require_grad();
            let value = value.inner().cast(self.0.precision.dtype()).autodiff();
            let value = match self.0.checkpointing {
                true => value.with_gradient_checkpointing_strategy(GradientCheckpointingStrategy::Balanced),
                false => value,
            };
            Param::from_mapped_value(id, value.set_require_grad(required), mapper)
        }
    }
    module.clone().map(&mut Detach(how))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{grad_norm, number_parameters};
    use burn::nn::{Initializer, Linear, LinearConfig};
    use burn::optim::SgdConfig;
    use burn::tensor::{DType, Device, Distribution, TensorData, Tolerance};
    use spire_kernels::announced;

    #[test]
    fn parts_on_threads_give_the_gradients_of_the_whole() {
        let device = Device::flex();
        let module = number_parameters(LinearConfig::new(4, 3).init(&device.clone().autodiff()));
        let x = Tensor::<2>::random([8, 4], Distribution::Default, &device);
        let loss = |module: &Linear, x: Tensor<2>| Ok(module.forward(x).square().mean());
        let alone = Computation::on_threads(1);
        let (whole, expected) = gradients(&module, vec![x.clone()], alone, loss).unwrap();
        for threads in [1, 2, 4] {
            let (mean, found) =
                gradients(&module, x.clone().chunk(4, 0), Computation::on_threads(threads), loss).unwrap();
            assert!((mean - whole).abs() < 1e-6);
            let difference = {
                let mut negative = found;
                scale(&module, &mut negative, -1.0);
                accumulate(&module, &mut negative, gradients(&module, vec![x.clone()], alone, loss).unwrap().1);
                grad_norm(&module, &negative)
            };
            assert!(difference < 1e-6 * grad_norm(&module, &expected).max(1.0), "{difference}");
        }
    }

    /// Two layers, of which the gradients of the second are told of early.
    fn two_layers() -> (Vec<Linear>, impl Fn(&Vec<Linear>, Tensor<2>) -> Result<Tensor<1>> + Sync) {
        let layer = || LinearConfig::new(4, 4).init(&Device::flex().autodiff());
        let loss = |layers: &Vec<Linear>, x: Tensor<2>| {
            let x = layers[0].forward(x).tanh();
            Ok(announced(&layers[1], &x).forward(x).square().mean())
        };
        (number_parameters(vec![layer(), layer()]), loss)
    }

    /// Each layer's weight and bias.
    fn numbers(layers: &[Linear], gradients: &GradientsParams) -> Vec<TensorData> {
        let of = |layer: &Linear| {
            let bias = layer.bias.as_ref().expect("it has one").id;
            [
                gradients.get::<2>(layer.weight.id).map(Tensor::into_data),
                gradients.get::<1>(bias).map(Tensor::into_data),
            ]
        };
        layers.iter().flat_map(of).flatten().collect()
    }

    #[test]
    fn ranks_have_the_mean_gradients_of_all_their_parts() {
        let (layers, loss) = two_layers();
        for (threads, parts) in [(1, 1), (1, 3), (2, 3), (4, 2)] {
            let x = Tensor::<2>::random([12, 4], Distribution::Default, &Device::flex());
            let (whole, expected) = gradients(&layers, vec![x.clone()], Computation::on_threads(1), &loss).unwrap();
            let expected = numbers(&layers, &expected);
            let check = |ranks: &Ranks| {
                let own = x.clone().chunk(2, 0).swap_remove(usize::from(!ranks.is_first())).chunk(parts, 0);
                let how = Computation::on_threads(threads);
                let mut order = order_of_gradients(&layers, own[0].clone(), how, &loss)?;
                order.sort_unstable_by_key(|id| id.val());
                assert_eq!(order, [layers[1].weight.id, layers[1].bias.as_ref().unwrap().id]);
                let buckets = ranks.buckets(&layers, &order, 70);
                let (mean, found) = gradients_of_all(ranks, &buckets, &layers, own, how, &loss)?;
                assert!((ranks.mean(mean) - whole).abs() < 1e-6);
                let found = numbers(&layers, &found);
                assert_eq!((found.len(), expected.len()), (4, 4));
                for (found, expected) in found.iter().zip(&expected) {
                    found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-6));
                }
                Ok(())
            };
            Ranks::alone().on_each("first, second", check).unwrap();
        }
    }

    #[test]
    fn a_rank_that_fails_leaves_the_others_no_finite_gradient() {
        let (layers, loss) = two_layers();
        let buckets = Buckets::of(&layers, &[], 70);
        let error = Ranks::alone().on_each("first, second", |ranks| {
            let x = Tensor::<2>::ones([1, 4], &Device::flex());
            let fails = !ranks.is_first();
            let loss = |layers: &Vec<Linear>, x| if fails { Err(anyhow!("no memory")) } else { loss(layers, x) };
            let (_, found) = gradients_of_all(ranks, &buckets, &layers, vec![x], Computation::on_threads(1), loss)?;
            assert!(grad_norm(&layers, &found).is_nan());
            Ok(())
        });
        assert_eq!(format!("{:#}", error.unwrap_err()), "rank 1 of 2, on second: no memory");
    }

    #[test]
    fn checkpointing_changes_no_gradient() {
        let device = Device::flex();
        let module = number_parameters(LinearConfig::new(4, 3).init(&device.clone().autodiff()));
        let x = Tensor::<2>::random([8, 4], Distribution::Default, &device);
        let loss = |module: &Linear, x: Tensor<2>| Ok((module.forward(x).exp() + 1.0).sqrt().tanh().mean());
        let [kept, again] = [false, true].map(|checkpointing| {
            let how = Computation { checkpointing, ..Computation::on_threads(1) };
            let (_, gradients) = gradients(&module, vec![x.clone()], how, loss).unwrap();
            gradients.get::<2>(module.weight.id).unwrap().into_data()
        });
        again.assert_eq(&kept, true);
    }

    #[test]
    fn in_bf16_the_weights_take_steps_that_bf16_could_not() {
        let device = Device::flex();
        let module = LinearConfig::new(4, 3).with_initializer(Initializer::Ones).init(&device.clone().autodiff());
        let module = number_parameters(module);
        let x = Tensor::<2>::random([8, 4], Distribution::Default, &device);
        let loss = |module: &Linear, x: Tensor<2>| {
            let y = module.forward(x.cast(module.weight.dtype()));
            Ok(y.cast(DType::F32).square().mean())
        };
        let found = |precision| {
            let how = Computation { precision, ..Computation::on_threads(1) };
            let (loss, gradients) = gradients(&module, vec![x.clone()], how, loss).unwrap();
            (loss, gradients.get::<2>(module.weight.id).unwrap(), gradients)
        };
        let (exact_loss, exact, _) = found(Precision::F32);
        let (rounded_loss, rounded, gradients) = found(Precision::Bf16);
        assert_eq!(rounded.dtype(), DType::F32);
        assert!(rounded_loss != exact_loss && (rounded_loss - exact_loss).abs() < 0.01 * exact_loss);
        let error = (rounded - exact.clone()).abs().max().into_scalar::<f32>();
        assert!(error > 0.0 && error < 0.02 * exact.abs().max().into_scalar::<f32>(), "{error}");

        let after = SgdConfig::new().init().step(1e-4, module.clone(), gradients);
        let [before, after] = [&module, &after].map(|module| module.weight.val().inner());
        assert_eq!(after.dtype(), DType::F32);
        assert!((after.clone() - before.clone()).abs().min().into_scalar::<f32>() > 0.0);
        let [before, after] = [before, after].map(|weight| weight.cast(DType::BF16).into_data());
        after.assert_eq(&before, true);
    }

    #[test]
    fn a_part_that_fails_is_an_error() {
        let module = LinearConfig::new(1, 1).init(&Device::flex().autodiff());
        let error = gradients(&module, vec![1, 2, 3], Computation::on_threads(2), |_, part| {
            if part == 2 {
                Err(anyhow!("part 2"))
            } else {
                Ok(module.forward(Tensor::<2>::ones([1, 1], &Device::flex())).sum())
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "part 2");
    }
}
