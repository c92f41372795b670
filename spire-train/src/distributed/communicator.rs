//! The interface between ranks: collective operations. All ranks call the same operations in the same order, and wait
//! for each other in each of them.

use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};

/// Gives this rank's row `i`, or `None` if it is not ready within `timeout`.
pub type Rows<'a, T = Vec<f32>> = dyn FnMut(usize, Duration) -> Option<T> + 'a;

/// Waits for row `i` of this rank without a time limit.
pub fn wait_for<T>(i: usize, own: &mut Rows<T>) -> T {
    loop {
        if let Some(row) = own(i, Duration::from_secs(1)) {
            return row;
        }
    }
}

/// One rank's connection to the others.
pub trait Communicator {
    /// This rank's number, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// The name of this machine.
    fn host(&self) -> String;

    /// The sum of every rank's `value`.
    fn sum(&self, value: f64) -> f64;

    /// Sums rows of numbers over all ranks (all-reduce). `lengths` has the length of each row and is the same on every
    /// rank. Rows are requested from `own` in order; each one travels while the next is computed.
    fn sum_rows(&self, lengths: &[usize], own: &mut Rows) -> Vec<Vec<f32>>;

    /// As [`sum_rows`](Self::sum_rows), for rows on `device`, where the sums are returned.
    fn sum_device_rows(&self, lengths: &[usize], device: &Device, own: &mut Rows<Tensor<1>>) -> Vec<Tensor<1>> {
        let sums = self.sum_rows(lengths, &mut |i, timeout| own(i, timeout).map(read));
        upload(sums, device)
    }

    /// The text `own` of the rank `from`, on every rank.
    fn broadcast(&self, from: usize, own: &str) -> String;

    /// The text `own` of every rank, in the order of their numbers.
    fn all_gather(&self, own: &str) -> Vec<String> {
        (0..self.size()).map(|rank| self.broadcast(rank, own)).collect()
    }

    /// Returns when every rank has called it.
    fn barrier(&self);

    /// Ends all ranks.
    fn abort(&self) -> !;
}

/// The numbers of a row, in the host's memory.
pub fn read(row: Tensor<1>) -> Vec<f32> {
    row.into_data().convert::<f32>().try_to_vec().expect("converted to f32 above")
}

/// Rows in the host's memory, on `device`.
pub fn upload(rows: impl IntoIterator<Item = Vec<f32>>, device: &Device) -> Vec<Tensor<1>> {
    let upload = |row: Vec<f32>| {
        let length = row.len();
        Tensor::from_data(TensorData::new(row, [length]), device)
    };
    rows.into_iter().map(upload).collect()
}
