//! Gradients of a batch whose parts are computed on threads of their own.
//!
//! On a CPU the operators of a small model are too short to be spread over the cores; whole parts of a batch are not.

use anyhow::{Result, anyhow};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{GradientCheckpointingStrategy, Tensor};
use spire_model::device::on_one_thread;
use spire_model::weights::Precision;

use crate::optimizer::{accumulate, scale};

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
}

/// Mean loss and mean gradients over `parts`. The result depends on the parts and their order, not on the threads.
///
/// # Errors
/// `loss` fails for a part, or panics.
pub fn gradients<M, P>(
    module: &M,
    parts: Vec<P>,
    how: Computation,
    loss: impl Fn(&M, P) -> Result<Tensor<1>> + Sync,
) -> Result<(f64, GradientsParams)>
where
    M: Module,
    P: Send,
{
    let count = parts.len() as f64;
    let alone = how.threads <= 1;
    let mut sum = GradientsParams::new();
    let mut total = 0.0;
    let mut parts = parts.into_iter().peekable();
    while parts.peek().is_some() {
        let round: Vec<(M, P)> =
            parts.by_ref().take(how.threads.max(1)).map(|part| (replica(module, how), part)).collect();
        let done: Vec<Result<(f64, GradientsParams)>> = std::thread::scope(|scope| {
            let running: Vec<_> = round
                .into_iter()
                .map(|(replica, part)| {
                    let loss = &loss;
                    let compute = move || {
                        let value = loss(&replica, part)?;
                        let gradients = GradientsParams::from_grads(value.backward(), &replica);
                        Ok((f64::from(value.into_scalar::<f32>()), gradients))
                    };
                    scope.spawn(move || if alone { compute() } else { on_one_thread(compute) })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a training thread stopped unexpectedly"))))
                .collect()
        });
        for part in done {
            let (value, gradients) = part?;
            total += value;
            accumulate(module, &mut sum, gradients);
        }
    }
    if count > 1.0 {
        scale(module, &mut sum, 1.0 / count);
    }
    Ok((total / count, sum))
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
    use burn::nn::{Initializer, LinearConfig};
    use burn::optim::SgdConfig;
    use burn::tensor::{DType, Device, Distribution};

    #[test]
    fn parts_on_threads_give_the_gradients_of_the_whole() {
        let device = Device::flex();
        let module = number_parameters(LinearConfig::new(4, 3).init(&device.clone().autodiff()));
        let x = Tensor::<2>::random([8, 4], Distribution::Default, &device);
        let loss = |module: &burn::nn::Linear, x: Tensor<2>| Ok(module.forward(x).square().mean());
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
        let loss = |module: &burn::nn::Linear, x: Tensor<2>| Ok((module.forward(x).exp() + 1.0).sqrt().tanh().mean());
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
        let loss = |module: &burn::nn::Linear, x: Tensor<2>| {
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
