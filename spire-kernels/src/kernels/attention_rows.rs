//! Attention on the CPU in blocks of queries: a block's scores stay in a core's cache, and heads are read in place.

use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::kernels::softmax::{exponentials, sum};

/// Number of scores of a block.
const SCORES: usize = 1 << 16;

/// The sizes of queries `[batch, queries, heads · depth]` and keys `[batch, keys, heads · depth]`, all nonzero.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub depth: usize,
}

impl Shape {
    fn width(self) -> usize {
        self.heads * self.depth
    }

    /// Number of queries of a block. With fewer than 32, products are too small for many keys.
    fn together(self) -> usize {
        (SCORES / self.keys).clamp(32, 1024).min(self.queries)
    }

    /// Number of elements of an image's queries, of its keys, and of a block of queries.
    fn lengths(self) -> [usize; 3] {
        [self.queries, self.keys, self.together()].map(|rows| rows * self.width())
    }

    fn scale(self) -> f32 {
        (self.depth as f32).powf(-0.5)
    }

    /// One head of some rows, `[rows, depth]`.
    fn head(self, x: &[f32], head: usize) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(x, x.len() / self.width(), self.width()).subcols(head * self.depth, self.depth)
    }

    /// Each head of some rows, `[rows, depth]`.
    fn heads_mut(self, x: &mut [f32]) -> impl IndexedParallelIterator<Item = MatMut<'_, f32>> {
        let rows = x.len() / self.width();
        MatMut::from_row_major_slice_mut(x, rows, self.width()).par_col_chunks_mut(self.depth)
    }

    /// Scores, `[rows, keys]`.
    fn by_keys(self, scores: &[f32]) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(scores, scores.len() / self.keys, self.keys)
    }

    fn head_mut(self, x: &mut [f32], head: usize) -> MatMut<'_, f32> {
        let rows = x.len() / self.width();
        MatMut::from_row_major_slice_mut(x, rows, self.width()).subcols_mut(head * self.depth, self.depth)
    }
}

/// The attention output, in the shape of the queries.
pub fn forward([query, key, value]: [&[f32]; 3], shape: Shape) -> Vec<f32> {
    let [of_queries, of_keys, together] = shape.lengths();
    let mut attended = vec![0.0; query.len()];
    let images = attended.par_chunks_mut(of_queries).zip(query.par_chunks(of_queries));
    images.zip(key.par_chunks(of_keys)).zip(value.par_chunks(of_keys)).for_each(|(((attended, query), key), value)| {
        let blocks = attended.par_chunks_mut(together).zip(query.par_chunks(together));
        blocks.for_each_init(Default::default, |[scores, sums]: &mut [Vec<f32>; 2], (attended, query)| {
            for head in 0..shape.heads {
                let scores =
                    exponentials_of_scores(scores, sums, shape.head(query, head), shape.head(key, head), shape);
                let (scores, value) = (shape.by_keys(scores), shape.head(value, head));
                matmul(shape.head_mut(attended, head), Accum::Replace, scores, value, 1.0, Par::Seq);
                // The quotient of softmax: an output row is shorter than a row of scores.
                for (attended, sum) in attended.chunks_exact_mut(shape.width()).zip(&*sums) {
                    let factor = 1.0 / *sum;
                    attended[head * shape.depth..][..shape.depth].iter_mut().for_each(|x| *x *= factor);
                }
            }
        });
    });
    attended
}

/// The gradients of `query`, `key` and `value`.
pub struct Gradients {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
}

/// The gradients, given that of the output O. With the probabilities P = softmax(scores) and ∂P = ∂O·Vᵀ, the gradient
/// of the scores is P·(∂P − Σ P·∂P), summed over the keys.
pub fn gradients([query, key, value]: [&[f32]; 3], gradient: &[f32], shape: Shape) -> Gradients {
    let [of_queries, of_keys, _] = shape.lengths();
    let zeros = |like: &[f32]| vec![0.0; like.len()];
    let mut all = Gradients { query: zeros(query), key: zeros(key), value: zeros(value) };
    let images = all.query.par_chunks_mut(of_queries).zip(all.key.par_chunks_mut(of_keys));
    let images = images.zip(all.value.par_chunks_mut(of_keys)).enumerate();
    images.for_each(|(image, ((query_gradient, key_gradient), value_gradient))| {
        let [query, gradient] = [query, gradient].map(|x| &x[image * of_queries..][..of_queries]);
        let [key, value] = [key, value].map(|x| &x[image * of_keys..][..of_keys]);
        let heads = shape.heads_mut(query_gradient).zip(shape.heads_mut(key_gradient));
        let heads = heads.zip(shape.heads_mut(value_gradient)).enumerate();
        heads.for_each_init(Scratch::default, |scratch, (head, ((query_gradient, key_gradient), value_gradient))| {
            let inputs = [query, key, value, gradient].map(|x| shape.head(x, head));
            of_head(scratch, inputs, [query_gradient, key_gradient, value_gradient], shape);
        });
    });
    all
}

/// Exponentials of scores, the gradients of scores, and the exponentials' sums.
type Scratch = [Vec<f32>; 3];

/// Adds the gradients of one head of an image.
fn of_head(
    [first, second, sums]: &mut Scratch,
    [query, key, value, gradient]: [MatRef<f32>; 4],
    [mut query_gradient, mut key_gradient, mut value_gradient]: [MatMut<f32>; 3],
    shape: Shape,
) {
    for first_row in (0..shape.queries).step_by(shape.together()) {
        let rows = shape.together().min(shape.queries - first_row);
        let [query, gradient] = [query, gradient].map(|x| x.subrows(first_row, rows));
        let shares = exponentials_of_scores(first, sums, query, key, shape);
        let of_scores = product(second, gradient, value.transpose());
        Arch::new().dispatch(ThroughSoftmax { gradients: of_scores, shares, sums, keys: shape.keys });
        let [shares, of_scores] = [shares, of_scores].map(|x| shape.by_keys(x));
        add(value_gradient.rb_mut(), shares.transpose(), gradient, 1.0);
        add(query_gradient.rb_mut().subrows_mut(first_row, rows), of_scores, key, shape.scale());
        add(key_gradient.rb_mut(), of_scores.transpose(), query, shape.scale());
    }
}

/// Each query's exponentials of its scores, row by row, and their sums.
fn exponentials_of_scores<'a>(
    scratch: &'a mut Vec<f32>,
    sums: &mut Vec<f32>,
    query: MatRef<f32>,
    key: MatRef<f32>,
    shape: Shape,
) -> &'a mut [f32] {
    let scores = product(scratch, query, key.transpose());
    sums.resize(query.nrows(), 0.0);
    Arch::new().dispatch(Exponentials { scores, sums, keys: shape.keys, scale: shape.scale() });
    scores
}

fn add(sum: MatMut<f32>, left: MatRef<f32>, right: MatRef<f32>, factor: f32) {
    matmul(sum, Accum::Add, left, right, factor, Par::Seq);
}

/// `left · right`, row-major, in `scratch`.
fn product<'a>(scratch: &'a mut Vec<f32>, left: MatRef<f32>, right: MatRef<f32>) -> &'a mut [f32] {
    let (rows, columns) = (left.nrows(), right.ncols());
    scratch.resize(rows * columns, 0.0);
    matmul(MatMut::from_row_major_slice_mut(scratch, rows, columns), Accum::Replace, left, right, 1.0, Par::Seq);
    scratch
}

/// Exponentials of rows of scores times `scale`, and their sums. A struct, because a closure is not always inlined, and only
/// inlined code is vectorised.
struct Exponentials<'a> {
    scores: &'a mut [f32],
    sums: &'a mut [f32],
    keys: usize,
    scale: f32,
}

impl NullaryFnOnce for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (row, sum) in self.scores.chunks_exact_mut(self.keys).zip(self.sums) {
            *sum = exponentials(row, self.scale);
        }
    }
}

/// The gradients of scores from those of probabilities; the probabilities from exponentials and their sums.
struct ThroughSoftmax<'a> {
    gradients: &'a mut [f32],
    shares: &'a mut [f32],
    sums: &'a [f32],
    keys: usize,
}

impl NullaryFnOnce for ThroughSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.gradients.chunks_exact_mut(self.keys).zip(self.shares.chunks_exact_mut(self.keys));
        for ((gradients, shares), sum_of_exponentials) in rows.zip(self.sums) {
            let factor = 1.0 / sum_of_exponentials;
            // The derivative of softmax: P·(∂P − Σ P·∂P).
            for (gradient, share) in gradients.iter_mut().zip(&mut *shares) {
                *share *= factor;
                *gradient *= *share;
            }
            let common = sum(gradients);
            for (gradient, share) in gradients.iter_mut().zip(&*shares) {
                *gradient -= *share * common;
            }
        }
    }
}
