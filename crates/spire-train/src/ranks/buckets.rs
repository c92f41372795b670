//! Gradients as a few long rows of numbers: a message has costs of its own, and a model has hundreds of parameters.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};

/// The gradients with their numbers replaced: `replace` gets them in buckets of `bytes` (one parameter alone may have
/// more), each a row `[numbers]` of whole parameters in the order of the module's fields, and returns as many rows.
pub fn replaced<M: Module>(
    module: &M,
    mut gradients: GradientsParams,
    bytes: usize,
    replace: impl FnOnce(&[Tensor<1>]) -> Vec<Tensor<1>>,
) -> GradientsParams {
    let mut flatten = Flatten { gradients: &gradients, rows: Vec::new() };
    module.visit(&mut flatten);
    let (mut buckets, mut lengths): (Vec<Vec<Tensor<1>>>, Vec<Vec<usize>>) = Default::default();
    let mut room = 0;
    for row in flatten.rows {
        let length = row.dims()[0];
        let size = length * size_of::<f32>();
        if size > room || buckets.is_empty() {
            buckets.push(Vec::new());
            lengths.push(Vec::new());
            room = bytes;
        }
        room = room.saturating_sub(size);
        buckets.last_mut().expect("one was begun").push(row);
        lengths.last_mut().expect("one was begun").push(length);
    }
    let buckets: Vec<_> = buckets.into_iter().map(|rows| Tensor::cat(rows, 0)).collect();
    let rows = replace(&buckets).into_iter().zip(lengths).flat_map(|(row, lengths)| row.split_with_sizes(lengths, 0));
    let mut restore = Restore { gradients: &mut gradients, rows };
    module.visit(&mut restore);
    gradients
}

/// A bucket's numbers.
pub fn read(bucket: &Tensor<1>) -> Vec<f32> {
    bucket.to_data().convert::<f32>().try_to_vec().expect("they were converted")
}

/// Other numbers in the type and on the device of a bucket.
pub fn like(bucket: &Tensor<1>, numbers: Vec<f32>) -> Tensor<1> {
    let length = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [length]), (&bucket.device(), bucket.dtype()))
}

struct Flatten<'a> {
    gradients: &'a GradientsParams,
    rows: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.rows.extend(self.gradients.get::<D>(param.id).map(|gradient| gradient.reshape([-1])));
    }
}

struct Restore<'a, I> {
    gradients: &'a mut GradientsParams,
    rows: I,
}

impl<I: Iterator<Item = Tensor<1>>> ModuleVisitor for Restore<'_, I> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let row = self.rows.next().expect("as many rows as gradients");
            self.gradients.register(param.id, row.reshape(gradient.dims()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::number_parameters;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    /// Three layers of 15 weights and 5 biases each.
    fn layers() -> (Vec<Linear>, GradientsParams) {
        let device = Device::flex().autodiff();
        let layers = number_parameters((0..3).map(|_| LinearConfig::new(3, 5).init(&device)).collect::<Vec<_>>());
        let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0]], &device);
        let sum: Tensor<1> = Tensor::cat(layers.iter().map(|layer| layer.forward(x.clone()).sum()).collect(), 0);
        let gradients = GradientsParams::from_grads(
            (sum * Tensor::from_floats([1.0, 2.0, 3.0], &device)).sum().backward(),
            &layers,
        );
        (layers, gradients)
    }

    #[test]
    fn buckets_hold_whole_parameters_up_to_a_size() {
        for (bytes, expected) in
            [(usize::MAX, vec![60]), (80, vec![20, 20, 20]), (100, vec![20, 20, 20]), (0, vec![15, 5, 15, 5, 15, 5])]
        {
            let (layers, gradients) = layers();
            replaced(&layers, gradients, bytes, |buckets| {
                assert_eq!(
                    buckets.iter().map(|bucket| bucket.dims()[0]).collect::<Vec<_>>(),
                    expected,
                    "{bytes} bytes"
                );
                buckets.to_vec()
            });
        }
    }

    #[test]
    fn every_number_comes_back_to_its_place() {
        for bytes in [0, 100, 1000] {
            let (layers, gradients) = layers();
            let back = replaced(&layers, gradients, bytes, |buckets| {
                buckets
                    .iter()
                    .map(|bucket| like(bucket, read(bucket).iter().map(|value| value * 10.0).collect()))
                    .collect()
            });
            for (layer, factor) in layers.iter().zip([10.0_f32, 20.0, 30.0]) {
                let weight = back.get::<2>(layer.weight.id).unwrap();
                assert_eq!(weight.dims(), [3, 5]);
                let expected: Vec<f32> = [1.0, 2.0, 3.0].iter().flat_map(|x| [x * factor; 5]).collect();
                assert_eq!(weight.into_data().try_to_vec::<f32>().unwrap(), expected);
                let bias = back.get::<1>(layer.bias.as_ref().unwrap().id).unwrap();
                assert_eq!(bias.into_data().try_to_vec::<f32>().unwrap(), [factor; 5]);
            }
        }
    }
}
