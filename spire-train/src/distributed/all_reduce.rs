//! Mean gradients over all ranks, communicated while the backward pass still runs.

use std::sync::Arc;
use std::sync::mpsc::channel;

use anyhow::Result;
use burn::module::{Module, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use spire_kernels::{GradientHook, with_gradient_hook};

use super::buckets::Buckets;
use super::gradient_queue::{GradientReceiver, GradientSender, gradient_queue};
use super::ranks::Ranks;
use crate::optim::backward::{Computation, joined, replica, start, sums};

/// The parameters in the order in which the backward pass finishes their gradients. Parameters whose gradients are
/// known only at its end are left out. The order depends on the network alone.
///
/// # Errors
/// `loss` fails.
pub fn gradient_order<M: Module, P>(
    module: &M,
    part: P,
    how: Computation,
    loss: impl Fn(&M, P) -> Result<Tensor<1>>,
) -> Result<Vec<ParamId>> {
    let (sender, order) = channel();
    let hook: GradientHook = Arc::new(move |id, _| sender.send(id).expect("the receiver outlives the backward pass"));
    with_gradient_hook(hook, || loss(&replica(module, how), part))?.backward();
    Ok(order.try_iter().collect())
}

/// The buckets of `module`, each of about `bytes`, in the first rank's gradient `order`: the same on all ranks.
pub fn bucket_layout<M: Module>(ranks: &Ranks, module: &M, order: &[ParamId], bytes: usize) -> Buckets {
    let own: Vec<_> = order.iter().map(|id| id.val().to_string()).collect();
    let order = ranks.broadcast(&own.join(" "));
    let order: Vec<_> = order.split(' ').filter_map(|id| id.parse::<u64>().ok()).map(ParamId::from).collect();
    Buckets::of(module, &order, bytes)
}

/// The mean loss over this rank's `parts`, and the mean gradients over the parts of all ranks. Every rank has equally
/// many parts. Gradients travel in `buckets`, most of them during the backward pass of the last parts.
///
/// # Errors
/// `loss` fails or panics for a part. The other ranks then get gradients that are not finite, or wait until they are
/// ended.
pub fn mean_gradients<M: Module, P: Send>(
    ranks: &Ranks,
    buckets: &Buckets,
    module: &M,
    mut parts: Vec<P>,
    how: Computation,
    loss: impl Fn(&M, P) -> Result<Tensor<1>> + Sync,
) -> Result<(f64, GradientsParams)> {
    let count = parts.len();
    let last = parts.split_off(count.saturating_sub(1) / how.parallel() * how.parallel());
    let (mut senders, mut receiver) = gradient_queue(1 + last.len(), buckets.device());
    let senders_of_last = senders.split_off(1);
    // All parts before the last round travel as one: their sum.
    let loss_before = {
        let (loss, gradients) = sums(module, parts, how, &loss)?;
        senders.into_iter().for_each(|sender| sender.send_rest(module, &gradients));
        loss
    };
    let compute = |replica: M, (part, sender): (P, GradientSender)| {
        let value = with_gradient_hook(sender.hook(), || loss(&replica, part))?;
        let gradients = GradientsParams::from_grads(value.backward(), &replica);
        sender.send_rest(&replica, &gradients);
        Ok(f64::from(value.into_scalar::<f32>()))
    };
    let (rows, losses) = std::thread::scope(|scope| {
        let running = start(scope, module, last.into_iter().zip(senders_of_last), how, &compute);
        (all_reduce(ranks, buckets, &mut receiver), running.into_iter().map(joined).collect::<Result<Vec<_>>>())
    });
    let total = losses?.into_iter().fold(loss_before, |total, loss| total + loss);
    let share = 1.0 / (ranks.count() * count) as f64;
    Ok((total / count as f64, buckets.gradients(module, rows, share)))
}

/// Sums the gradients that arrive in `receiver` over all ranks, one row per bucket.
fn all_reduce(ranks: &Ranks, buckets: &Buckets, receiver: &mut GradientReceiver) -> Vec<Tensor<1>> {
    let mut own = |i, timeout| receiver.row(buckets.places(i), timeout);
    ranks.sum_rows(&buckets.lengths(), &buckets.device(), &mut own)
}

#[cfg(test)]
mod tests {
    use super::super::device_sum::choose;
    use super::super::stand_in::StandIn;
    use super::*;
    use crate::optim::backward::gradients;
    use crate::optim::gradients::{grad_norm, number_parameters};
    use anyhow::anyhow;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Distribution, TensorData, Tolerance};
    use spire_kernels::hooked;

    /// Two layers; the gradients of the second are ready before the backward pass ends.
    fn two_layers() -> (Vec<Linear>, impl Fn(&Vec<Linear>, Tensor<2>) -> Result<Tensor<1>> + Sync) {
        let layer = || LinearConfig::new(4, 4).init(&Device::flex().autodiff());
        let loss = |layers: &Vec<Linear>, x: Tensor<2>| {
            let x = layers[0].forward(x).tanh();
            Ok(hooked(&layers[1], &x).forward(x).square().mean())
        };
        (number_parameters(vec![layer(), layer()]), loss)
    }

    /// The gradients of each layer's weight and bias.
    fn numbers(layers: &[Linear], gradients: &GradientsParams) -> Vec<TensorData> {
        let of = |layer: &Linear| {
            let bias = layer.bias.as_ref().expect("LinearConfig adds a bias").id;
            [
                gradients.get::<2>(layer.weight.id).map(Tensor::into_data),
                gradients.get::<1>(bias).map(Tensor::into_data),
            ]
        };
        layers.iter().flat_map(of).flatten().collect()
    }

    #[test]
    fn ranks_get_the_mean_over_all_parts() {
        let (layers, loss) = two_layers();
        for (threads, parts) in [(1, 1), (1, 3), (2, 3), (4, 2)] {
            let x = Tensor::<2>::random([12, 4], Distribution::Default, &Device::flex());
            let (whole, expected) = gradients(&layers, vec![x.clone()], Computation::on_threads(1), &loss).unwrap();
            let expected = numbers(&layers, &expected);
            let check = |ranks: &Ranks| {
                let own = x.clone().chunk(2, 0).swap_remove(usize::from(!ranks.is_first())).chunk(parts, 0);
                let how = Computation::on_threads(threads);
                let mut order = gradient_order(&layers, own[0].clone(), how, &loss)?;
                order.sort_unstable_by_key(|id| id.val());
                assert_eq!(order, [layers[1].weight.id, layers[1].bias.as_ref().unwrap().id]);
                let buckets = bucket_layout(ranks, &layers, &order, 70);
                let (mean, found) = mean_gradients(ranks, &buckets, &layers, own, how, &loss)?;
                assert!((ranks.mean(mean) - whole).abs() < 1e-6);
                let found = numbers(&layers, &found);
                assert_eq!((found.len(), expected.len()), (4, 4));
                for (found, expected) in found.iter().zip(&expected) {
                    found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-6));
                }
                Ok(())
            };
            let names = ["first", "second"].map(str::to_owned);
            for how in [choose(&names, true), StandIn::of(2).choice()] {
                Ranks::alone().on_threads(&names, how, check).unwrap();
            }
        }
    }

    #[test]
    fn if_a_rank_fails_the_others_get_no_finite_gradient() {
        let (layers, loss) = two_layers();
        let buckets = Buckets::of(&layers, &[], 70);
        let names = ["first", "second"].map(str::to_owned);
        let mean_of_a_failing_rank = |ranks: &Ranks| {
            let x = Tensor::<2>::ones([1, 4], &Device::flex());
            let fails = !ranks.is_first();
            let loss = |layers: &Vec<Linear>, x| if fails { Err(anyhow!("no memory")) } else { loss(layers, x) };
            let (_, found) = mean_gradients(ranks, &buckets, &layers, vec![x], Computation::on_threads(1), loss)?;
            assert!(grad_norm(&layers, &found).is_nan());
            Ok(())
        };
        for how in [choose(&names, true), StandIn::of(2).choice()] {
            let error = Ranks::alone().on_threads(&names, how, mean_of_a_failing_rank);
            assert_eq!(format!("{:#}", error.unwrap_err()), "rank 1 of 2, on second: no memory");
        }
    }
}
