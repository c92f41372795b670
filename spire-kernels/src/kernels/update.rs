//! Updates of weights, in one pass over memory, for the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, backend_extension};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::AdamWStep;

/// Number of weights per task.
const CHUNK: usize = 1 << 14;

#[backend_extension(Flex)]
pub trait Updates: Backend {
    /// The weight and its two moments after a step; all have the same shape.
    fn adamw(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// `average · decay + current · rest`; both have the same shape.
    fn blend(average: FloatTensor<Self>, current: FloatTensor<Self>, decay: f32, rest: f32) -> FloatTensor<Self>;
}

impl Updates for Flex {
    fn adamw(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let gradient = gradient.to_contiguous();
        let [mut weight, mut first, mut second] = [weight, first, second].map(contiguous);
        let factors = Factors::of(&step);
        weight
            .storage_mut()
            .par_chunks_mut(CHUNK)
            .zip(first.storage_mut().par_chunks_mut(CHUNK))
            .zip(second.storage_mut().par_chunks_mut(CHUNK))
            .zip(gradient.storage().par_chunks(CHUNK))
            .for_each(|(((weight, first), second), gradient)| {
                Arch::new().dispatch(AdamW { weight, first, second, gradient, factors });
            });
        (weight, first, second)
    }

    fn blend(average: FloatTensor<Self>, current: FloatTensor<Self>, decay: f32, rest: f32) -> FloatTensor<Self> {
        let (mut average, current) = (contiguous(average), current.to_contiguous());
        average.storage_mut().par_chunks_mut(CHUNK).zip(current.storage().par_chunks(CHUNK)).for_each(
            |(average, current)| {
                Arch::new().dispatch(Blend { average, current, decay, rest });
            },
        );
        average
    }
}

/// `tensor` itself where its memory has just its values in order, so that it can be written in place.
fn contiguous(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
    match tensor.layout().contiguous_offsets() {
        Some((0, _)) => tensor,
        _ => tensor.to_contiguous(),
    }
}

/// The numbers of a step in the float type of the weights, rounded where Burn rounds them.
#[derive(Clone, Copy)]
struct Factors {
    keeps: [f32; 2],
    takes: [f32; 2],
    corrections: [f32; 2],
    epsilon: f32,
    learning_rate: f32,
    weight: f32,
}

impl Factors {
    fn of(step: &AdamWStep) -> Self {
        let keeps = [step.beta1, step.beta2];
        Self {
            keeps,
            takes: keeps.map(|beta| 1.0 - beta),
            corrections: keeps.map(|beta| 1.0 - beta.powi(step.number)),
            epsilon: step.epsilon,
            learning_rate: step.learning_rate as f32,
            weight: (1.0 - step.learning_rate * f64::from(step.weight_decay)) as f32,
        }
    }
}

struct AdamW<'a> {
    weight: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    gradient: &'a [f32],
    factors: Factors,
}

impl NullaryFnOnce for AdamW<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Factors { keeps, takes, corrections, epsilon, learning_rate, weight: kept } = self.factors;
        let moments = self.first.iter_mut().zip(self.second);
        for ((weight, (first, second)), &gradient) in self.weight.iter_mut().zip(moments).zip(self.gradient) {
            *first = *first * keeps[0] + gradient * takes[0];
            *second = *second * keeps[1] + gradient * gradient * takes[1];
            let direction = (*first / corrections[0]) / ((*second / corrections[1]).sqrt() + epsilon);
            *weight = *weight * kept - direction * learning_rate;
        }
    }
}

struct Blend<'a> {
    average: &'a mut [f32],
    current: &'a [f32],
    decay: f32,
    rest: f32,
}

impl NullaryFnOnce for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (average, &current) in self.average.iter_mut().zip(self.current) {
            *average = *average * self.decay + current * self.rest;
        }
    }
}
