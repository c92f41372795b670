//! Exponential moving average of the weights, used for sampling and evaluation.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// The decay at `step`, from 0: `min(decay, (1 + step) / (10 + step))`. Early steps decay faster, so that the average
/// forgets the initial weights.
pub fn decay_at(decay: f64, step: u64) -> f64 {
    decay.min((1.0 + step as f64) / (10.0 + step as f64))
}

/// `average ← decay·average + (1 − decay)·current`.
///
/// Both modules must have the same parameters under the same identifiers. `average` is on a device without autodiff.
pub fn update<M: Module>(average: M, current: &M, decay: f64) -> M {
    // `GradientsParams` is Burn's only container that is keyed by parameter; here it holds weights.
    struct Collect(GradientsParams);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.register(param.id, param.val().inner());
        }
    }
    struct Blend(GradientsParams, f64);
    impl ModuleMapper for Blend {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, average, mapper) = param.consume();
            let blended = match self.0.remove::<D>(id) {
                Some(current) => spire_kernels::blend(average, current, self.1),
                None => average,
            };
            Param::from_mapped_value(id, blended, mapper)
        }
    }
    let mut collect = Collect(GradientsParams::new());
    current.visit(&mut collect);
    average.map(&mut Blend(collect.0, decay))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    #[test]
    fn blends_by_the_decay() {
        let current = LinearConfig::new(2, 2).init(&Device::flex().autodiff());
        let average = update(current.valid(), &current, 0.9);
        let expected = current.weight.val().inner().into_data();
        average.weight.val().into_data().assert_approx_eq::<f32>(&expected, burn::tensor::Tolerance::absolute(1e-6));
        assert!(!average.weight.val().is_autodiff());
    }

    #[test]
    fn the_first_steps_decay_fast() {
        assert!((decay_at(0.999, 0) - 0.1).abs() < 1e-12);
        assert!((decay_at(0.999, 1_000_000) - 0.999).abs() < 1e-12);
    }
}
