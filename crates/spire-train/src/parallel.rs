//! Gradients of a batch whose parts are computed on threads of their own.
//!
//! On a CPU the operators of a small model are too short to be spread over the cores; whole parts of a batch are not.

use anyhow::{Result, anyhow};
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use spire_model::device::on_one_thread;

use crate::optimizer::{accumulate, scale};

/// Mean loss and mean gradients over `parts`, of which `threads` are computed at a time. The result depends on the parts
/// and their order, not on the threads.
///
/// # Errors
/// `loss` fails for a part, or panics.
pub fn gradients<M, P>(
    module: &M,
    parts: Vec<P>,
    threads: usize,
    loss: impl Fn(&M, P) -> Result<Tensor<1>> + Sync,
) -> Result<(f64, GradientsParams)>
where
    M: Module,
    P: Send,
{
    let count = parts.len() as f64;
    let alone = threads <= 1;
    let mut sum = GradientsParams::new();
    let mut total = 0.0;
    let mut parts = parts.into_iter().peekable();
    while parts.peek().is_some() {
        let round: Vec<(M, P)> = parts.by_ref().take(threads.max(1)).map(|part| (replica(module), part)).collect();
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
fn replica<M: Module>(module: &M) -> M {
    struct Detach;
    impl ModuleMapper for Detach {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, value, mapper) = param.consume();
            let required = value.is_require_grad();
            let value = value.inner().autodiff().set_require_grad(required);
            Param::from_mapped_value(id, value, mapper)
        }
    }
    module.clone().map(&mut Detach)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{grad_norm, number_parameters};
    use burn::nn::LinearConfig;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn parts_on_threads_give_the_gradients_of_the_whole() {
        let device = Device::flex();
        let module = number_parameters(LinearConfig::new(4, 3).init(&device.clone().autodiff()));
        let x = Tensor::<2>::random([8, 4], Distribution::Default, &device);
        let loss = |module: &burn::nn::Linear, x: Tensor<2>| Ok(module.forward(x).square().mean());
        let (whole, expected) = gradients(&module, vec![x.clone()], 1, loss).unwrap();
        for threads in [1, 2, 4] {
            let (mean, found) = gradients(&module, x.clone().chunk(4, 0), threads, loss).unwrap();
            assert!((mean - whole).abs() < 1e-6);
            let difference = {
                let mut negative = found;
                scale(&module, &mut negative, -1.0);
                accumulate(&module, &mut negative, gradients(&module, vec![x.clone()], 1, loss).unwrap().1);
                grad_norm(&module, &negative)
            };
            assert!(difference < 1e-6 * grad_norm(&module, &expected).max(1.0), "{difference}");
        }
    }

    #[test]
    fn a_part_that_fails_is_an_error() {
        let module = LinearConfig::new(1, 1).init(&Device::flex().autodiff());
        let error = gradients(&module, vec![1, 2, 3], 2, |_, part| {
            if part == 2 {
                Err(anyhow!("part 2"))
            } else {
                Ok(module.forward(Tensor::<2>::ones([1, 1], &Device::flex())).sum())
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "part 2");
    }
}
