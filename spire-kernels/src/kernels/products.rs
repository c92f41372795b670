//! Sums of matrix products over shifted columns, tile by tile.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::kernels::narrow;

/// Number of elements of a tile's matrices, chosen for a core's second-level cache.
const TILE: usize = 1 << 17;

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
    let inner = terms.iter().map(|term| term.left.ncols()).max().unwrap_or(0);
    if narrow::is_narrow(rows, inner) {
        return narrow::add_products(sum, rows, columns, terms);
    }
    let width = (TILE / (rows + inner).max(1)).next_multiple_of(64).clamp(128, 1 << 14);
    let sum = MatMut::from_row_major_slice_mut(sum, rows, columns);
    sum.par_col_chunks_mut(width).enumerate().for_each(|(tile, mut sum)| {
        for term in terms {
            let (first, inner) = (term.offset + tile * width, term.left.ncols());
            let right = MatRef::from_row_major_slice_with_stride(term.right, inner, term.stride, term.stride);
            let right = right.subcols(first, sum.ncols());
            matmul(sum.as_mut(), Accum::Add, term.left, right, 1.0, Par::Seq);
        }
    });
}

/// Adds `left · rightᵀ`, for `left` `[rows, inner]` and `right` `[columns, inner]`, to `sum` `[rows, columns]`.
pub fn add_outer_products(sum: &mut [f32], left: MatRef<f32>, right: MatRef<f32>) {
    let sum = MatMut::from_row_major_slice_mut(sum, left.nrows(), right.nrows());
    matmul(sum, Accum::Add, left, right.transpose(), 1.0, Par::Seq);
}
