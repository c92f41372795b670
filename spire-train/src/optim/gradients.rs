//! Operations on all gradients, or all parameters, of a module.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};

/// Numbers the parameters 1, 2, 3, … in the order of the module's fields.
///
/// Burn's own identifiers are random. A saved optimiser state would not find its parameters again in another process.
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

/// The global (Euclidean) norm of all gradients. It is not finite if any gradient is not finite.
pub fn grad_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    struct SquaredNorm<'a>(&'a GradientsParams, Option<Tensor<1>>);
    impl ModuleVisitor for SquaredNorm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                let square = gradient.square().sum();
                // Sum on the device, so that the host waits for it only once.
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

/// The Euclidean norm of all weights.
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

/// Adds `more` to `sum`, parameter by parameter, in float32.
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
pub(super) mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, TensorData};

    pub fn linear() -> Linear {
        number_parameters(LinearConfig::new(3, 2).init(&Device::flex().autodiff()))
    }

    /// Of the sum of the outputs for one input: 3 for two weights, 1 for two biases, 0 for the other weights.
    pub fn gradients(linear: &Linear) -> GradientsParams {
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
}
