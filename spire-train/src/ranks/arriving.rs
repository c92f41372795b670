//! Gradients on their way from the threads that compute them, most of them before their backward pass is over.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use spire_kernels::Listener;

use super::buckets::Place;

/// What a thread says of its part of the batch: a weight's gradient, `[numbers]`, or that there are no more.
struct News {
    part: usize,
    row: Option<(ParamId, Tensor<1>)>,
}

/// The end at which a part's gradients are told of.
pub struct Teller {
    part: usize,
    sender: Sender<News>,
    told: Arc<Mutex<HashSet<ParamId>>>,
}

impl Teller {
    /// For the backward pass. What is told to one that no longer listens is lost.
    pub fn listener(&self) -> Listener {
        let (part, sender, told) = (self.part, self.sender.clone(), self.told.clone());
        Arc::new(move |id, row| {
            told.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            let _ = sender.send(News { part, row: Some((id, row)) });
        })
    }

    /// All gradients of the part, of which those are told that the listener has not been told of.
    pub fn rest<M: Module>(self, module: &M, gradients: &GradientsParams) {
        module.visit(&mut Rest { teller: &self, gradients });
        let _ = self.sender.send(News { part: self.part, row: None });
    }
}

struct Rest<'a> {
    teller: &'a Teller,
    gradients: &'a GradientsParams,
}

impl ModuleVisitor for Rest<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Teller { part, sender, told } = self.teller;
        let told = told.lock().unwrap_or_else(PoisonError::into_inner).contains(&param.id);
        if let Some(gradient) = self.gradients.get::<D>(param.id).filter(|_| !told) {
            let _ = sender.send(News { part: *part, row: Some((param.id, gradient.reshape([-1]))) });
        }
    }
}

/// The end at which they arrive.
pub struct Arriving {
    receiver: Receiver<News>,
    /// Each part's, by weight.
    rows: HashMap<ParamId, Vec<Option<Tensor<1>>>>,
    /// Which parts have no more to tell.
    ended: Vec<bool>,
    /// A thread has stopped before it had told of all.
    lost: bool,
    device: Device,
}

/// The ends of `parts` threads, whose gradients are on `device`.
pub fn arriving(parts: usize, device: Device) -> (Vec<Teller>, Arriving) {
    let (sender, receiver) = channel();
    let teller = |part| Teller { part, sender: sender.clone(), told: Arc::default() };
    let tellers = (0..parts).map(teller).collect();
    (tellers, Arriving { receiver, rows: HashMap::new(), ended: vec![false; parts], lost: false, device })
}

impl Arriving {
    /// The sums over all parts, in 32 bits, of the gradients of `places`, one after the other, `[numbers]`; zeros for a weight
    /// that has none. `None` where some are not there after `patience`; not numbers where a thread has failed.
    pub fn row(&mut self, places: &[Place], patience: Duration) -> Option<Tensor<1>> {
        let deadline = Instant::now() + patience;
        while !self.lost && !places.iter().all(|place| self.is_there(place.id)) {
            match self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News { part, row: Some((id, row)) }) => {
                    let parts = self.ended.len();
                    self.rows.entry(id).or_insert_with(|| vec![None; parts])[part] = Some(row);
                }
                Ok(News { part, row: None }) => self.ended[part] = true,
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => self.lost = true,
            }
        }
        Some(Tensor::cat(places.iter().map(|place| self.sum(place)).collect(), 0))
    }

    fn is_there(&self, id: ParamId) -> bool {
        let rows = self.rows.get(&id);
        (0..self.ended.len()).all(|part| self.ended[part] || rows.is_some_and(|rows| rows[part].is_some()))
    }

    /// In the order of the parts, whichever was first.
    fn sum(&mut self, place: &Place) -> Tensor<1> {
        if self.lost {
            return Tensor::full([place.numbers], f32::NAN, &self.device);
        }
        let rows = self.rows.remove(&place.id).into_iter().flatten().flatten();
        let rows = rows.map(|row| row.cast(DType::F32));
        rows.reduce(|sum, row| sum + row).unwrap_or_else(|| Tensor::zeros([place.numbers], &self.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::number_parameters;
    use burn::nn::{Linear, LinearConfig};

    const SOON: Duration = Duration::from_millis(1);

    /// A layer of 2 weights and a bias, its gradients, 1 and 2, and 1, and where they are.
    fn layer() -> (Linear, GradientsParams, [Place; 2]) {
        let layer = number_parameters(LinearConfig::new(2, 1).init(&Device::flex().autodiff()));
        let x = Tensor::<2>::from_floats([[1.0, 2.0]], &Device::flex());
        let gradients = GradientsParams::from_grads(layer.forward(x).sum().backward(), &layer);
        let [weight, bias] = [(layer.weight.id, 2), (layer.bias.as_ref().unwrap().id, 1)];
        let places = [weight, bias].map(|(id, numbers)| Place { id, numbers });
        (layer, gradients, places)
    }

    fn numbers(row: Option<Tensor<1>>) -> Option<Vec<f32>> {
        row.map(|row| row.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn a_weight_is_there_when_all_parts_have_told_of_it() {
        let (layer, gradients, places) = layer();
        let (mut tellers, mut arriving) = arriving(2, Device::flex());
        let (second, first) = (tellers.pop().unwrap(), tellers.pop().unwrap());
        first.listener()(places[0].id, Tensor::from_floats([10.0, 20.0], &Device::flex()));
        assert!(arriving.row(&places[..1], SOON).is_none());
        second.rest(&layer, &gradients);
        assert_eq!(numbers(arriving.row(&places[..1], SOON)), Some(vec![11.0, 22.0]));
        // The first has not told of the bias.
        assert!(arriving.row(&places[1..], SOON).is_none());
        first.rest(&layer, &gradients);
        assert_eq!(numbers(arriving.row(&places[1..], SOON)), Some(vec![2.0]));
    }

    #[test]
    fn what_was_told_early_is_not_told_again() {
        let (layer, gradients, places) = layer();
        let (mut tellers, mut arriving) = arriving(1, Device::flex());
        let teller = tellers.pop().unwrap();
        teller.listener()(places[1].id, Tensor::from_floats([5.0], &Device::flex()));
        teller.rest(&layer, &gradients);
        assert_eq!(numbers(arriving.row(&places, SOON)), Some(vec![1.0, 2.0, 5.0]));
    }

    #[test]
    fn no_gradient_is_zeros_and_a_lost_one_no_number() {
        let (layer, _, places) = layer();
        for (lost, expected) in [(false, 0.0), (true, f32::NAN)] {
            let (mut tellers, mut arriving) = arriving(1, Device::flex());
            let teller = tellers.pop().unwrap();
            if lost {
                drop(teller);
            } else {
                teller.rest(&layer, &GradientsParams::new());
            }
            let found = numbers(arriving.row(&places, SOON)).unwrap();
            assert!(found.len() == 3 && found.iter().all(|x| x.to_bits() == expected.to_bits()), "{found:?}");
        }
    }
}
