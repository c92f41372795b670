//! Gradient buckets: the gradients of many parameters in one row of numbers, because every message has a fixed cost.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

/// Which parameters share a message, the same on all ranks. A bucket holds whole parameters, in the order in which a
/// backward pass finishes their gradients.
pub struct Buckets {
    buckets: Vec<Vec<Place>>,
    device: Device,
}

/// A parameter in its bucket.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The parameter.
    pub id: ParamId,
    /// How many numbers it has.
    pub numbers: usize,
}

impl Buckets {
    /// Buckets of the trained parameters of `module`, those in `order` first. Each holds up to `bytes`, or one
    /// parameter that is larger.
    pub fn of<M: Module>(module: &M, order: &[ParamId], bytes: usize) -> Self {
        let mut trained = Trained(Vec::new());
        module.visit(&mut trained);
        let position: HashMap<_, _> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        trained.0.sort_by_key(|place| position.get(&place.id).copied().unwrap_or(usize::MAX));
        let mut buckets: Vec<Vec<Place>> = Vec::new();
        let mut room = 0;
        for place in trained.0 {
            let size = place.numbers * size_of::<f32>();
            if size > room || buckets.is_empty() {
                buckets.push(Vec::new());
                room = bytes;
            }
            room = room.saturating_sub(size);
            buckets.last_mut().expect("pushed above").push(place);
        }
        Self { buckets, device: module.devices().first().cloned().unwrap_or_default().inner() }
    }

    /// The device of the parameters, without autodiff.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// How many numbers each bucket has.
    pub fn lengths(&self) -> Vec<usize> {
        self.buckets.iter().map(|places| places.iter().map(|place| place.numbers).sum()).collect()
    }

    /// The parameters in bucket `i`, in order.
    pub fn places(&self, i: usize) -> &[Place] {
        &self.buckets[i]
    }

    /// Turns one row of numbers per bucket into the gradients of `module`; every number is multiplied by `share`.
    pub fn gradients<M: Module>(&self, module: &M, rows: Vec<Tensor<1>>, share: f64) -> GradientsParams {
        let mut restore = Restore { gradients: GradientsParams::new(), rows: HashMap::new() };
        for (places, row) in self.buckets.iter().zip(rows) {
            let rows = row.mul_scalar(share).split_with_sizes(places.iter().map(|place| place.numbers).collect(), 0);
            restore.rows.extend(places.iter().map(|place| place.id).zip(rows));
        }
        module.visit(&mut restore);
        restore.gradients
    }
}

struct Trained(Vec<Place>);

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let weight = param.val();
        if weight.is_require_grad() {
            self.0.push(Place { id: param.id, numbers: weight.shape().num_elements() });
        }
    }
}

struct Restore {
    gradients: GradientsParams,
    rows: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for Restore {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(row) = self.rows.remove(&param.id) {
            self.gradients.register(param.id, row.reshape(param.dims()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::gradients::number_parameters;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::TensorData;

    /// Three layers of 15 weights and 5 biases each; the second is frozen.
    fn layers() -> Vec<Linear> {
        let device = Device::flex().autodiff();
        let mut layers: Vec<_> = (0..3).map(|_| LinearConfig::new(3, 5).init(&device)).collect();
        layers[1] = layers[1].clone().no_grad();
        number_parameters(layers)
    }

    #[test]
    fn buckets_hold_whole_parameters_up_to_a_size() {
        for (bytes, expected) in
            [(usize::MAX, vec![40]), (80, vec![20, 20]), (100, vec![20, 20]), (0, vec![15, 5, 15, 5])]
        {
            assert_eq!(Buckets::of(&layers(), &[], bytes).lengths(), expected, "{bytes} bytes");
        }
    }

    #[test]
    fn parameters_follow_the_order_of_the_backward_pass() {
        let layers = layers();
        let order = [layers[2].weight.id, layers[0].bias.as_ref().unwrap().id];
        let buckets = Buckets::of(&layers, &order, 80);
        assert_eq!(buckets.lengths(), [20, 20]);
        assert_eq!(buckets.places(0).iter().map(|place| place.id).collect::<Vec<_>>(), order);
    }

    #[test]
    fn every_number_returns_to_its_parameter() {
        let layers = layers();
        for (bytes, first) in [(0, 0), (100, 2), (1000, 2)] {
            let buckets = Buckets::of(&layers, &[layers[first].weight.id], bytes);
            let of = |place: &Place| vec![place.id.val() as f32; place.numbers];
            let row = |i| buckets.places(i).iter().flat_map(of).collect::<Vec<_>>();
            let rows =
                (0..buckets.lengths().len()).map(|i| Tensor::from_floats(&row(i)[..], &buckets.device())).collect();
            let gradients = buckets.gradients(&layers, rows, 0.5);
            for (i, layer) in layers.iter().enumerate() {
                let (weight, bias) = (&layer.weight, layer.bias.as_ref().unwrap());
                let found = gradients.get::<2>(weight.id).map(|found| found.into_data());
                let expected = TensorData::new(vec![0.5 * weight.id.val() as f32; 15], [3, 5]);
                assert_eq!(found, (i != 1).then_some(expected));
                let found = gradients.get::<1>(bias.id).map(|found| found.into_data());
                let expected = TensorData::new(vec![0.5 * bias.id.val() as f32; 5], [5]);
                assert_eq!(found, (i != 1).then_some(expected));
            }
        }
    }
}
