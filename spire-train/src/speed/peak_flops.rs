//! The highest speed of a device: the product of two large matrices.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;
use spire_model::weights::Precision;

/// Matrices grow until their product takes this long. The time to start it is then negligible.
const SECONDS: f64 = 0.1;
/// Rows and columns of the largest matrices.
const LARGEST: usize = 16384;
/// Products of each size; the fastest counts.
const ROUNDS: usize = 5;

/// The speed of the product of two square matrices.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PeakFlops {
    /// Rows and columns.
    pub side: usize,
    /// Float type of the matrices.
    pub precision: Precision,
    /// Floating-point operations per second; a multiply-add counts as two.
    pub flops_per_second: f64,
}

impl PeakFlops {
    /// Measures `device` with matrices in `precision`.
    pub fn measure(device: &Device, precision: Precision) -> Self {
        let mut side = 512;
        loop {
            let matrix = || Tensor::<2>::random([side, side], Distribution::Default, device).cast(precision.dtype());
            let (a, b) = (matrix(), matrix());
            let fastest = (0..ROUNDS).map(|_| product_seconds(&a, &b)).fold(f64::INFINITY, f64::min);
            if fastest >= SECONDS || side >= LARGEST {
                return Self { side, precision, flops_per_second: 2.0 * (side as f64).powi(3) / fastest };
            }
            side *= 2;
        }
    }
}

fn product_seconds(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
    let started = Instant::now();
    // Reading a number waits for the product on every backend.
    let _ = a.clone().matmul(b.clone()).slice([0..1, 0..1]).into_data();
    started.elapsed().as_secs_f64()
}
