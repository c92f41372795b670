//! Sums of matrix products whose matrices have few rows and columns, as in convolutions of few channels.
//!
//! A library's product of matrices reads and writes the sum once per kernel tap and packs both sides each time, which
//! costs more than the products themselves when a side has eight rows. Here the sum over all taps and channels stays in
//! registers.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels::products::Term;

/// Rows of a sum, and inner length of each product, at most.
const ROWS: usize = 8;
/// Vectors of a row that stay in registers.
const VECTORS: usize = 2;
/// Columns of a task: a multiple of the registers' columns for every vector width.
const TASK: usize = 1 << 10;

/// Whether [`add_products`] is faster than a library's products: 47 against 10 GFLOP/s for 8×8, about equal for 16×16,
/// slower for the three rows of a picture (one core with AVX-512).
pub fn is_narrow(rows: usize, inner: usize) -> bool {
    (ROWS / 2..=ROWS).contains(&rows) && inner <= ROWS
}

/// Adds the products of `terms` to the row-major `sum` `[rows, columns]`, for at most [`ROWS`] rows. The result does not
/// depend on the number of threads.
pub fn add_products(sum: &mut [f32], rows: usize, columns: usize, terms: &[Term]) {
    let products: Vec<Product> = terms.iter().flat_map(|term| products(term, columns)).collect();
    let mut tasks: Vec<Vec<&mut [f32]>> = (0..columns.div_ceil(TASK)).map(|_| Vec::with_capacity(rows)).collect();
    for row in sum.chunks_mut(columns.max(1)) {
        tasks.iter_mut().zip(row.chunks_mut(TASK)).for_each(|(task, part)| task.push(part));
    }
    let arch = Arch::new();
    tasks.par_iter_mut().enumerate().for_each(|(task, sum)| {
        arch.dispatch(Columns { products: &products, first: task * TASK, sum });
    });
}

/// A column of a term's left side, and the row of its right side that it multiplies.
struct Product<'a> {
    /// Zero beyond the last row.
    left: [f32; ROWS],
    right: &'a [f32],
}

fn products<'a>(term: &Term<'a>, columns: usize) -> impl Iterator<Item = Product<'a>> {
    let Term { left, right, stride, offset } = *term;
    (0..left.ncols()).map(move |inner| Product {
        left: std::array::from_fn(|row| if row < left.nrows() { left[(row, inner)] } else { 0.0 }),
        right: &right[inner * stride + offset..][..columns],
    })
}

/// Some columns of a sum.
struct Columns<'a, 'b> {
    products: &'a [Product<'a>],
    /// The first of them.
    first: usize,
    /// Their part of each row.
    sum: &'a mut [&'b mut [f32]],
}

impl WithSimd for Columns<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { products, first, sum } = self;
        let columns = sum[0].len();
        let width = VECTORS * S::F32_LANES;
        for start in (0..columns).step_by(width) {
            if start + width > columns {
                return one_by_one(products, first, sum, start);
            }
            // Sixteen vector registers hold half of the rows.
            if S::F32_LANES >= 16 {
                add_block::<S, ROWS>(simd, products, first, sum, start);
            } else {
                add_block::<S, { ROWS / 2 }>(simd, products, first, sum, start);
            }
        }
    }
}

/// Adds the columns of `width` from `start` on, `N` rows at a time.
#[inline(always)]
fn add_block<S: Simd, const N: usize>(
    simd: S,
    products: &[Product],
    first: usize,
    sum: &mut [&mut [f32]],
    start: usize,
) {
    for (part, rows) in sum.chunks_mut(N).enumerate() {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; N];
        for Product { left, right } in products {
            let (right, _) = S::as_simd_f32s(&right[first + start..][..VECTORS * S::F32_LANES]);
            let left = &left[part * N..][..N];
            for row in 0..N {
                let left = simd.splat_f32s(left[row]);
                for vector in 0..VECTORS {
                    sums[row][vector] = simd.mul_add_e_f32s(left, right[vector], sums[row][vector]);
                }
            }
        }
        for (row, sums) in rows.iter_mut().zip(sums) {
            let (row, _) = S::as_mut_simd_f32s(&mut row[start..][..VECTORS * S::F32_LANES]);
            for vector in 0..VECTORS {
                row[vector] = simd.add_f32s(row[vector], sums[vector]);
            }
        }
    }
}

/// Adds the columns from `start` on that fill no block.
fn one_by_one(products: &[Product], first: usize, sum: &mut [&mut [f32]], start: usize) {
    for (row, sum) in sum.iter_mut().enumerate() {
        for Product { left, right } in products {
            let right = &right[first + start..];
            sum[start..].iter_mut().zip(right).for_each(|(sum, right)| *sum = left[row].mul_add(*right, *sum));
        }
    }
}
