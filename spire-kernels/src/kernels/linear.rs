//! Linear layers on the CPU as one matrix product over all rows, with the bias in it.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Number of rows of a task.
const ROWS: usize = 256;

/// `x` `[rows, from]` and `weight` `[from, to]` to `[rows, to]`, added to `onto` of that shape.
pub fn forward(x: &[f32], weight: MatRef<f32>, bias: &[f32], onto: Option<&[f32]>) -> Vec<f32> {
    let (from, to) = (weight.nrows(), weight.ncols());
    let mut y = vec![0.0; x.len() / from.max(1) * to];
    let tasks = y.par_chunks_mut((ROWS * to).max(1)).zip(x.par_chunks((ROWS * from).max(1)));
    tasks.enumerate().for_each(|(task, (y, x))| {
        y.chunks_exact_mut(to).for_each(|y| y.copy_from_slice(bias));
        if let Some(onto) = onto {
            y.iter_mut().zip(&onto[task * ROWS * to..]).for_each(|(y, onto)| *y += onto);
        }
        let rows = x.len() / from;
        let x = MatRef::from_row_major_slice(x, rows, from);
        matmul(MatMut::from_row_major_slice_mut(y, rows, to), Accum::Add, x, weight, 1.0, Par::Seq);
    });
    y
}
