//! Initial noise as a file that both `spire restore` and PyTorch read.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

/// Writes standard normal `latents` of a seed: a multiplicative congruential generator, and Box's and Muller's transform.
pub fn write_latents(path: &Path, seed: u64, shape: [usize; 4]) {
    let mut state = seed.wrapping_mul(2_654_435_761) + 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let mut normal = || ((-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos()) as f32;
    let bytes: Vec<u8> = (0..shape.iter().product()).flat_map(|_| normal().to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
    fs::write(path, safetensors::serialize([("latents", view)], None).unwrap()).unwrap();
}
