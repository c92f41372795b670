//! Sums of matrix products over shifted columns, tile by tile.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::kernels::narrow;

/// Number of elements of a tile's matrices. They stay in a core's second-level cache, and several cores share a map of 64×64.
const TILE: usize = 1 << 16;

/// A tile's columns are a multiple of this: faer computes 96 columns at a time with AVX-512, 24 with AVX2.
const COLUMNS: usize = 96;

/// One matrix product of a sum.
pub struct Term<'a> {
    /// `[rows, inner]`
    pub left: MatRef<'a, f32>,
    /// `[inner, stride]`, of which the product takes columns from `offset` on.
    pub right: &'a [f32],
    /// Row stride of `right` in elements.
    pub stride: usize,
    /// The first column.
    pub offset: usize,
}

/// Adds the products of `terms` to the row-major `sum` `[rows, columns]`. The tiling, and so the result, does not
/// depend on the number of threads.
pub fn add_products(sum: &mut [f32], rows: usize, columns: usize, terms: &[Term]) {
    accumulate(sum, rows, columns, terms, Accum::Add);
}

/// [`add_products`] to zeros, in place of whatever `sum` holds.
pub fn sum_products(sum: &mut [f32], rows: usize, columns: usize, terms: &[Term]) {
    accumulate(sum, rows, columns, terms, Accum::Replace);
}

fn accumulate(sum: &mut [f32], rows: usize, columns: usize, terms: &[Term], first: Accum) {
    let inner = terms.iter().map(|term| term.left.ncols()).max().unwrap_or(0);
    if terms.is_empty() || narrow::is_narrow(rows, inner) {
        if matches!(first, Accum::Replace) {
            sum.fill(0.0);
        }
        return narrow::add_products(sum, rows, columns, terms);
    }
    let width = (TILE / (rows + inner).max(1)).next_multiple_of(COLUMNS).clamp(COLUMNS, COLUMNS << 7);
    let sum = MatMut::from_row_major_slice_mut(sum, rows, columns);
    sum.par_col_chunks_mut(width).enumerate().for_each(|(tile, mut sum)| {
        let mut accum = first;
        for term in terms {
            let inner = term.left.ncols();
            let right = MatRef::from_row_major_slice_with_stride(term.right, inner, term.stride, term.stride);
            let right = right.subcols(term.offset + tile * width, sum.ncols());
            matmul(sum.as_mut(), accum, term.left, right, 1.0, Par::Seq);
            accum = Accum::Add;
        }
    });
}

/// Adds `left · rightᵀ`, for `left` `[rows, inner]` and `right` `[columns, inner]`, to `sum` `[rows, columns]`.
pub fn add_outer_products(sum: &mut [f32], left: MatRef<f32>, right: MatRef<f32>) {
    let sum = MatMut::from_row_major_slice_mut(sum, left.nrows(), right.nrows());
    matmul(sum, Accum::Add, left, right.transpose(), 1.0, Par::Seq);
}
