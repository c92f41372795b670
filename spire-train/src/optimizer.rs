//! AdamW with warm-up, schedule and clipping by the norm of all gradients together.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Tensor};

use crate::learning_rate::LearningRate;

/// AdamW (Loshchilov & Hutter 2019) and everything that decides the size of its steps.
#[derive(Clone, Debug)]
pub struct OptimizerSettings {
    /// Its base rate, warm-up and schedule.
    pub learning_rate: LearningRate,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients whose joint norm is above this are scaled down to it.
    pub max_grad_norm: f64,
}

/// The optimiser of one module.
pub struct Optimizer {
    adamw: ModuleOptimizer,
    settings: OptimizerSettings,
}

impl Optimizer {
    /// With empty moments; betas 0.9 and 0.999, epsilon 1e-8.
    pub fn new(settings: OptimizerSettings) -> Self {
        let adamw = AdamWConfig::new().with_weight_decay(settings.weight_decay as f32).with_epsilon(1e-8).init();
        Self { adamw, settings }
    }

    /// The learning rate of `step`, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.settings.learning_rate.at(step)
    }

    /// One update, given the gradients' joint norm as [`grad_norm`] measures it.
    pub fn step<M: Module>(&mut self, step: u64, module: M, mut gradients: GradientsParams, norm: f64) -> M {
        if norm > self.settings.max_grad_norm {
            scale(&module, &mut gradients, self.settings.max_grad_norm / norm);
        }
        self.adamw.step(self.learning_rate(step), module, gradients)
    }

    /// The moments, keyed by parameter: stable between processes where [`number_parameters`] has numbered them.
    ///
    /// # Errors
    /// They can't be read back from their device.
    pub fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        Ok(self.adamw.into_bytes()?.to_vec())
    }

    /// The optimiser with the moments of [`Self::to_bytes`].
    ///
    /// # Errors
    /// The bytes are not what it wrote.
    pub fn with_bytes(mut self, bytes: Vec<u8>) -> anyhow::Result<Self> {
        self.adamw = self.adamw.from_bytes(burn::tensor::Bytes::from_bytes_vec(bytes))?;
        Ok(self)
    }
}

/// Numbers the parameters in the order of the module's fields. Burn's own identifiers are random, and an optimiser state
/// that is saved under them finds no parameter again in another process.
pub fn number_parameters<M: Module>(module: M) -> M {
    struct Numbering(u64);
    impl ModuleMapper for Numbering {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            let (_, value, mapper) = param.consume();
            Param::from_mapped_value(ParamId::from(self.0), value, mapper)
        }
    }
    module.map(&mut Numbering(0))
}

/// The Euclidean norm of all gradients together; not finite where one of them isn't.
pub fn grad_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    struct SquaredNorm<'a>(&'a GradientsParams, Option<Tensor<1>>);
    impl ModuleVisitor for SquaredNorm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                let square = gradient.square().sum();
                // One tensor for all, so that the device is waited for only once.
                self.1 = Some(match self.1.take() {
                    Some(sum) => sum + square,
                    None => square,
                });
            }
        }
    }
    let mut visitor = SquaredNorm(gradients, None);
    module.visit(&mut visitor);
    visitor.1.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
}

/// The Euclidean norm of all weights together.
pub fn weight_norm<M: Module>(module: &M) -> f64 {
    struct SquaredNorm(Option<Tensor<1>>);
    impl ModuleVisitor for SquaredNorm {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let square = param.val().inner().square().sum();
            self.0 = Some(match self.0.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
    let mut visitor = SquaredNorm(None);
    module.visit(&mut visitor);
    visitor.0.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
}

/// Multiplies every gradient by `factor`.
pub fn scale<M: Module>(module: &M, gradients: &mut GradientsParams, factor: f64) {
    struct Scale<'a>(&'a mut GradientsParams, f64);
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                self.0.register(param.id, gradient.mul_scalar(self.1));
            }
        }
    }
    module.visit(&mut Scale(gradients, factor));
}

/// Adds `more` to `sum`, parameter by parameter, in 32 bits.
pub fn accumulate<M: Module>(module: &M, sum: &mut GradientsParams, more: GradientsParams) {
    struct Accumulate<'a>(&'a mut GradientsParams, GradientsParams);
    impl ModuleVisitor for Accumulate<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.1.remove::<D>(param.id) {
                let gradient = gradient.cast(DType::F32);
                let sum = match self.0.remove::<D>(param.id) {
                    Some(sum) => sum + gradient,
                    None => gradient,
                };
                self.0.register(param.id, sum);
            }
        }
    }
    module.visit(&mut Accumulate(sum, more));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning_rate::Schedule;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, TensorData};

    fn linear() -> Linear {
        number_parameters(LinearConfig::new(3, 2).init(&Device::flex().autodiff()))
    }

    fn gradients(linear: &Linear) -> GradientsParams {
        let x = Tensor::<2>::from_data(TensorData::from([[3.0_f32, 0.0, 0.0]]), &Device::flex());
        GradientsParams::from_grads(linear.forward(x).sum().backward(), linear)
    }

    #[test]
    fn the_norm_is_over_all_gradients() {
        let linear = linear();
        // Two weights of gradient 3, two biases of gradient 1.
        let norm = grad_norm(&linear, &gradients(&linear));
        assert!((norm - 20.0_f64.sqrt()).abs() < 1e-6, "{norm}");
    }

    #[test]
    fn the_norm_of_weights_is_over_all_of_them() {
        let mut linear = linear();
        let device = Device::flex();
        linear.weight = Param::from_tensor(Tensor::<2>::ones([3, 2], &device).autodiff());
        linear.bias = Some(Param::from_tensor(Tensor::<1>::from_floats([1.0, 3.0], &device).autodiff()));
        assert!((weight_norm(&linear) - 4.0).abs() < 1e-6);
    }

    #[test]
    fn accumulating_adds_and_scaling_multiplies() {
        let linear = linear();
        let mut sum = GradientsParams::new();
        accumulate(&linear, &mut sum, gradients(&linear));
        accumulate(&linear, &mut sum, gradients(&linear));
        scale(&linear, &mut sum, 0.25);
        assert!((grad_norm(&linear, &sum) - 5.0_f64.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn a_step_is_clipped_and_its_state_survives_a_round_trip() {
        let settings = OptimizerSettings {
            learning_rate: LearningRate {
                base: 0.1,
                warmup_steps: 0,
                schedule: Schedule::Constant,
                total_steps: 10,
                final_ratio: 1.0,
            },
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        };
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
}
