//! Loss and gradients of a batch whose parts are computed in parallel, one thread each.
//!
//! On a CPU the operators of a small model are too short to use all cores. Parts of a batch are long enough.

use std::thread::{Scope, ScopedJoinHandle};

use anyhow::{Result, anyhow};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{GradientCheckpointingStrategy, Tensor};
use spire_model::device::on_cores;
use spire_model::weights::Precision;

use super::gradients::{accumulate, scale};

/// How gradients are computed.
#[derive(Clone, Copy, Debug)]
pub struct Computation {
    /// Parts that are computed in parallel.
    pub threads: usize,
    /// Devices of this process that compute at the same time, each such parts.
    pub devices: usize,
    /// Float type of the forward and backward pass. Weights and summed gradients are float32.
    pub precision: Precision,
    /// Gradient checkpointing: the backward pass recomputes cheap operations (Burn's balanced strategy) and the UNet's
    /// blocks.
    pub checkpointing: bool,
}

impl Computation {
    /// In float32 on one device, with `threads` parts in parallel.
    pub fn on_threads(threads: usize) -> Self {
        Self { threads, devices: 1, precision: Precision::F32, checkpointing: false }
    }

    pub(crate) fn parallel(self) -> usize {
        self.threads.max(1)
    }
}

/// Mean loss and mean gradients over `parts`. The result depends on the parts and their order, not on the number of
/// threads.
///
/// # Errors
/// `loss` fails or panics for a part.
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

/// Sums of the losses and of the gradients over `parts`.
///
/// # Errors
/// As [`gradients`].
pub(crate) fn sums<M: Module, P: Send>(
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
            let running = start(scope, module, parts.by_ref().take(how.parallel()), how, &compute);
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

/// Starts a thread for each of `parts`. Each calls `compute` with its own replica of the module.
pub(crate) fn start<'scope, M: Module + 'scope, P: Send + 'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    module: &M,
    parts: impl Iterator<Item = P>,
    how: Computation,
    compute: &'scope (impl Fn(M, P) -> Result<T> + Sync),
) -> Vec<ScopedJoinHandle<'scope, Result<T>>> {
    let parts: Vec<P> = parts.collect();
    let parallel = parts.len() * how.devices;
    let one = |part| {
        let replica = replica(module, how);
        scope.spawn(move || on_cores(parallel, move || compute(replica, part)))
    };
    parts.into_iter().map(one).collect()
}

/// The result of a thread; a panic becomes an error.
pub(crate) fn joined<T>(thread: ScopedJoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a training thread stopped unexpectedly")))
}

/// A copy of `module` whose weights are leaves of a new autodiff graph, so that threads share no graph.
pub(crate) fn replica<M: Module>(module: &M, how: Computation) -> M {
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
    use crate::optim::gradients::{grad_norm, number_parameters};
    use burn::nn::{Initializer, Linear, LinearConfig};
    use burn::optim::SgdConfig;
    use burn::tensor::{DType, Device, Distribution};

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
