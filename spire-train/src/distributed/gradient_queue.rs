//! Passes gradients from the threads that compute them to the thread that sends them to other ranks. Most of them
//! arrive before the backward pass ends, so that communication overlaps it.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use spire_kernels::GradientHook;

use super::buckets::Place;

/// A message from a thread: one gradient of its part of the batch, or the end of that part.
struct GradientReady {
    part: usize,
    /// The parameter and its gradient, `[numbers]`; `None` after the last one.
    gradient: Option<(ParamId, Tensor<1>)>,
}

/// Sends the gradients of one part of the batch.
pub struct GradientSender {
    part: usize,
    sender: Sender<GradientReady>,
    sent: Arc<Mutex<HashSet<ParamId>>>,
}

impl GradientSender {
    /// The gradient hook to install for the backward pass. It sends each gradient as soon as it is final.
    pub fn hook(&self) -> GradientHook {
        let (part, sender, sent) = (self.part, self.sender.clone(), self.sent.clone());
        Arc::new(move |id, gradient| {
            sent.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            // The receiver is gone only if training has failed.
            let _ = sender.send(GradientReady { part, gradient: Some((id, gradient)) });
        })
    }

    /// Sends every gradient that the hook has not sent yet, and the end of the part.
    pub fn send_rest<M: Module>(self, module: &M, gradients: &GradientsParams) {
        module.visit(&mut SendRest { sender: &self, gradients });
        let _ = self.sender.send(GradientReady { part: self.part, gradient: None });
    }
}

struct SendRest<'a> {
    sender: &'a GradientSender,
    gradients: &'a GradientsParams,
}

impl ModuleVisitor for SendRest<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let GradientSender { part, sender, sent } = self.sender;
        let sent = sent.lock().unwrap_or_else(PoisonError::into_inner).contains(&param.id);
        if let Some(gradient) = self.gradients.get::<D>(param.id).filter(|_| !sent) {
            let _ = sender.send(GradientReady { part: *part, gradient: Some((param.id, gradient.reshape([-1]))) });
        }
    }
}

/// Receives the gradients of all parts.
pub struct GradientReceiver {
    receiver: Receiver<GradientReady>,
    /// The gradient of each part, by parameter.
    received: HashMap<ParamId, Vec<Option<Tensor<1>>>>,
    /// Which parts have sent all of their gradients.
    ended: Vec<bool>,
    /// A thread stopped before it had sent all.
    lost: bool,
    device: Device,
}

/// Connects the threads of `parts` parts, whose gradients are on `device`, with their receiver.
pub fn gradient_queue(parts: usize, device: Device) -> (Vec<GradientSender>, GradientReceiver) {
    let (sender, receiver) = channel();
    let sender = |part| GradientSender { part, sender: sender.clone(), sent: Arc::default() };
    let senders = (0..parts).map(sender).collect();
    (senders, GradientReceiver { receiver, received: HashMap::new(), ended: vec![false; parts], lost: false, device })
}

impl GradientReceiver {
    /// The gradients of `places`, summed over all parts in float32 and concatenated, `[numbers]`. A parameter without a
    /// gradient gives zeros. All numbers are NaN if a thread failed.
    ///
    /// Returns `None` if some gradients are missing after `timeout`.
    pub fn row(&mut self, places: &[Place], timeout: Duration) -> Option<Tensor<1>> {
        let deadline = Instant::now() + timeout;
        while !self.lost && !places.iter().all(|place| self.is_complete(place.id)) {
            match self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(GradientReady { part, gradient: Some((id, gradient)) }) => {
                    let parts = self.ended.len();
                    self.received.entry(id).or_insert_with(|| vec![None; parts])[part] = Some(gradient);
                }
                Ok(GradientReady { part, gradient: None }) => self.ended[part] = true,
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => self.lost = true,
            }
        }
        Some(Tensor::cat(places.iter().map(|place| self.sum(place)).collect(), 0))
    }

    fn is_complete(&self, id: ParamId) -> bool {
        let received = self.received.get(&id);
        (0..self.ended.len()).all(|part| self.ended[part] || received.is_some_and(|parts| parts[part].is_some()))
    }

    /// Adds in the order of the parts, not of arrival, so that the sum is reproducible.
    fn sum(&mut self, place: &Place) -> Tensor<1> {
        if self.lost {
            return Tensor::full([place.numbers], f32::NAN, &self.device);
        }
        let gradients = self.received.remove(&place.id).into_iter().flatten().flatten();
        let gradients = gradients.map(|gradient| gradient.cast(DType::F32));
        gradients.reduce(|sum, gradient| sum + gradient).unwrap_or_else(|| Tensor::zeros([place.numbers], &self.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::gradients::number_parameters;
    use burn::nn::{Linear, LinearConfig};

    const SOON: Duration = Duration::from_millis(1);

    /// A layer of 2 weights and a bias, its gradients [1, 2] and [1], and their places.
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
    fn a_gradient_is_complete_when_all_parts_have_sent_it() {
        let (layer, gradients, places) = layer();
        let (mut senders, mut receiver) = gradient_queue(2, Device::flex());
        let (second, first) = (senders.pop().unwrap(), senders.pop().unwrap());
        first.hook()(places[0].id, Tensor::from_floats([10.0, 20.0], &Device::flex()));
        assert!(receiver.row(&places[..1], SOON).is_none());
        second.send_rest(&layer, &gradients);
        assert_eq!(numbers(receiver.row(&places[..1], SOON)), Some(vec![11.0, 22.0]));
        // The first part has not sent its bias.
        assert!(receiver.row(&places[1..], SOON).is_none());
        first.send_rest(&layer, &gradients);
        assert_eq!(numbers(receiver.row(&places[1..], SOON)), Some(vec![2.0]));
    }

    #[test]
    fn a_gradient_that_the_hook_sent_is_not_sent_again() {
        let (layer, gradients, places) = layer();
        let (mut senders, mut receiver) = gradient_queue(1, Device::flex());
        let sender = senders.pop().unwrap();
        sender.hook()(places[1].id, Tensor::from_floats([5.0], &Device::flex()));
        sender.send_rest(&layer, &gradients);
        assert_eq!(numbers(receiver.row(&places, SOON)), Some(vec![1.0, 2.0, 5.0]));
    }

    #[test]
    fn a_missing_gradient_is_zero_and_a_lost_one_is_nan() {
        let (layer, _, places) = layer();
        for (lost, expected) in [(false, 0.0), (true, f32::NAN)] {
            let (mut senders, mut receiver) = gradient_queue(1, Device::flex());
            let sender = senders.pop().unwrap();
            if lost {
                drop(sender);
            } else {
                sender.send_rest(&layer, &GradientsParams::new());
            }
            let found = numbers(receiver.row(&places, SOON)).unwrap();
            assert!(found.len() == 3 && found.iter().all(|x| x.to_bits() == expected.to_bits()), "{found:?}");
        }
    }
}
