//! AdamW with a learning-rate schedule and clipping by the global gradient norm.

use burn::module::Module;
use burn::optim::{self, AdamWConfig, AdamWState, GradientsParams, LearningRate as Rate, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use spire_kernels::AdamWStep;

use super::gradients::scale;
use super::learning_rate::LearningRate;

/// Settings of AdamW (Loshchilov & Hutter, 2019), of the learning rate and of clipping.
#[derive(Clone, Debug)]
pub struct OptimizerSettings {
    /// Base rate, warm-up and schedule.
    pub learning_rate: LearningRate,
    /// Decay of the moving average of the gradients.
    pub beta1: f64,
    /// Decay of the moving average of the squared gradients.
    pub beta2: f64,
    /// Added to the divisor of an update.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down so that their global norm is at most this.
    pub max_grad_norm: f64,
}

/// The optimiser of one module.
pub struct Optimizer {
    adamw: ModuleOptimizer,
    settings: OptimizerSettings,
}

impl Optimizer {
    /// A new optimiser whose moments are zero.
    pub fn new(settings: OptimizerSettings) -> Self {
        let adamw = AdamWConfig::new()
            .with_beta_1(settings.beta1 as f32)
            .with_beta_2(settings.beta2 as f32)
            .with_epsilon(settings.epsilon as f32)
            .with_weight_decay(settings.weight_decay as f32);
        let adamw = OnePass { adamw: adamw.build(), settings: settings.clone() };
        Self { adamw: adamw.into(), settings }
    }

    /// The learning rate of `step`, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.settings.learning_rate.at(step)
    }

    /// One update of the weights. `norm` is the global norm of `gradients`, from
    /// [`grad_norm`](super::gradients::grad_norm).
    pub fn step<M: Module>(&mut self, step: u64, module: M, mut gradients: GradientsParams, norm: f64) -> M {
        if norm > self.settings.max_grad_norm {
            scale(&module, &mut gradients, self.settings.max_grad_norm / norm);
        }
        self.adamw.step(self.learning_rate(step), module, gradients)
    }

    /// Serialises the moments. They are keyed by parameter identifier, so use
    /// [`number_parameters`](super::gradients::number_parameters) first: its identifiers are the same in every process.
    ///
    /// # Errors
    /// The moments can't be read from their device.
    pub fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        Ok(self.adamw.into_bytes()?.to_vec())
    }

    /// This optimiser with the moments that [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// The bytes do not decode.
    pub fn with_bytes(mut self, bytes: Vec<u8>) -> anyhow::Result<Self> {
        self.adamw = self.adamw.from_bytes(burn::tensor::Bytes::from_bytes_vec(bytes))?;
        Ok(self)
    }
}

/// Burn's AdamW, with a kernel for all steps but the first where there is one. Results and states are the same.
#[derive(Clone)]
struct OnePass {
    adamw: optim::AdamW,
    settings: OptimizerSettings,
}

impl optim::Optimizer for OnePass {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: Rate,
        weight: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        match state {
            Some(AdamWState { mut momentum }) if spire_kernels::has_adamw(&weight) => {
                momentum.time += 1;
                let step = AdamWStep {
                    learning_rate: rate,
                    weight_decay: self.settings.weight_decay as f32,
                    beta1: self.settings.beta1 as f32,
                    beta2: self.settings.beta2 as f32,
                    epsilon: self.settings.epsilon as f32,
                    number: momentum.time as i32,
                };
                let moments = [momentum.moment_1, momentum.moment_2];
                let (weight, [first, second]) = spire_kernels::adamw(weight, gradient, moments, step);
                (momentum.moment_1, momentum.moment_2) = (first, second);
                (weight, Some(AdamWState { momentum }))
            }
            state => self.adamw.step(rate, weight, gradient, state),
        }
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        optim::AdamW::to_device(state, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::gradients::tests::{gradients, linear};
    use crate::optim::gradients::{grad_norm, number_parameters};
    use crate::optim::learning_rate::Schedule;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Distribution;

    /// A constant rate, no weight decay, and gradients that are clipped at 1.
    fn settings(rate: f64) -> OptimizerSettings {
        OptimizerSettings {
            learning_rate: LearningRate {
                base: rate,
                warmup_steps: 0,
                schedule: Schedule::Constant,
                total_steps: 10,
                final_ratio: 1.0,
                power: 1.0,
                cycles: 1,
            },
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }

    #[test]
    fn a_step_is_clipped_and_the_state_survives_a_round_trip() {
        let settings = settings(0.1);
        let start = linear();
        let mut first = Optimizer::new(settings.clone());
        let norm = grad_norm(&start, &gradients(&start));
        let once = first.step(0, start.clone(), gradients(&start), norm);
        let mut second = Optimizer::new(settings).with_bytes(first.to_bytes().unwrap()).unwrap();
        let on = first.step(1, once.clone(), gradients(&once), norm);
        let resumed = second.step(1, once.clone(), gradients(&once), norm);
        on.weight.val().into_data().assert_eq(&resumed.weight.val().into_data(), true);
        let moved = (on.weight.val() - start.weight.val()).abs().max().into_scalar::<f32>();
        assert!(moved > 0.1, "{moved}");
    }

    #[test]
    fn updates_are_those_of_burn_to_the_last_bit() {
        let settings =
            OptimizerSettings { beta2: 0.99, weight_decay: 0.02, max_grad_norm: f64::INFINITY, ..settings(3e-3) };
        let config = AdamWConfig::new().with_beta_2(0.99).with_epsilon(1e-8).with_weight_decay(0.02);
        let mut of_burn = config.init();
        let mut ours = Optimizer::new(settings);
        // More weights than a task of the kernel has.
        let device = Device::flex().autodiff();
        let mut first = number_parameters(LinearConfig::new(300, 70).init(&device));
        let mut second = first.clone();
        for step in 0..5 {
            let x = Tensor::<2>::random([4, 300], Distribution::Normal(0.0, 1.0), &Device::flex());
            let gradients = |linear: &Linear| {
                let loss = linear.forward(x.clone()).square().sum();
                GradientsParams::from_grads(loss.backward(), linear)
            };
            first = ours.step(step, first.clone(), gradients(&first), 1.0);
            second = of_burn.step(3e-3, second.clone(), gradients(&second));
            first.weight.val().into_data().assert_eq(&second.weight.val().into_data(), true);
            let [bias, expected] = [&first, &second].map(|linear| linear.bias.as_ref().unwrap().val().into_data());
            bias.assert_eq(&expected, true);
        }
        // A state of Burn's own optimiser is read, too.
        Optimizer::new(ours.settings.clone()).with_bytes(of_burn.into_bytes().unwrap().to_vec()).unwrap();
    }
}
