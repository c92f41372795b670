//! Attention on the CPU in blocks of queries: a block's scores stay in a core's cache, and heads are read in place.

use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::kernels::exp::exp;

/// Number of scores of a block.
const SCORES: usize = 1 << 16;

/// Number of SIMD lanes for sums and maxima.
const LANES: usize = 16;

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

    /// Number of queries of a block.
    fn together(self) -> usize {
        (SCORES / self.keys).clamp(16, 1024).min(self.queries)
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
        blocks.for_each_init(Vec::new, |scratch, (attended, query)| {
            for head in 0..shape.heads {
                let shares = shares(scratch, shape.head(query, head), shape.head(key, head), shape);
                let (shares, value) = (shape.by_keys(shares), shape.head(value, head));
                matmul(shape.head_mut(attended, head), Accum::Replace, shares, value, 1.0, Par::Seq);
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

/// Attention probabilities, and the gradients of scores.
type Scratch = [Vec<f32>; 2];

/// Adds the gradients of one head of an image.
fn of_head(
    [first, second]: &mut Scratch,
    [query, key, value, gradient]: [MatRef<f32>; 4],
    [mut query_gradient, mut key_gradient, mut value_gradient]: [MatMut<f32>; 3],
    shape: Shape,
) {
    for first_row in (0..shape.queries).step_by(shape.together()) {
        let rows = shape.together().min(shape.queries - first_row);
        let [query, gradient] = [query, gradient].map(|x| x.subrows(first_row, rows));
        let shares = shares(first, query, key, shape);
        let of_scores = product(second, gradient, value.transpose());
        Arch::new().dispatch(ThroughSoftmax { gradients: of_scores, shares, keys: shape.keys });
        let [shares, of_scores] = [shares, of_scores].map(|x| shape.by_keys(x));
        add(value_gradient.rb_mut(), shares.transpose(), gradient, 1.0);
        add(query_gradient.rb_mut().subrows_mut(first_row, rows), of_scores, key, shape.scale());
        add(key_gradient.rb_mut(), of_scores.transpose(), query, shape.scale());
    }
}

/// Each query's attention probabilities, row by row.
fn shares<'a>(scratch: &'a mut Vec<f32>, query: MatRef<f32>, key: MatRef<f32>, shape: Shape) -> &'a mut [f32] {
    let scores = product(scratch, query, key.transpose());
    Arch::new().dispatch(Softmax { scores, keys: shape.keys, scale: shape.scale() });
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

/// The softmax of each row times `scale`. A struct, because a closure is not always inlined, and only inlined code is
/// vectorised.
struct Softmax<'a> {
    scores: &'a mut [f32],
    keys: usize,
    scale: f32,
}

impl NullaryFnOnce for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.scores.chunks_exact_mut(self.keys) {
            let shift = -self.scale * maximum(row);
            for score in row.iter_mut() {
                *score = exp(score.mul_add(self.scale, shift));
            }
            let factor = 1.0 / sum(row);
            for share in row {
                *share *= factor;
            }
        }
    }
}

/// The gradients of scores from those of probabilities.
struct ThroughSoftmax<'a> {
    gradients: &'a mut [f32],
    shares: &'a [f32],
    keys: usize,
}

impl NullaryFnOnce for ThroughSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.gradients.chunks_exact_mut(self.keys).zip(self.shares.chunks_exact(self.keys));
        for (gradients, shares) in rows {
            // The derivative of softmax: P·(∂P − Σ P·∂P).
            for (gradient, share) in gradients.iter_mut().zip(shares) {
                *gradient *= share;
            }
            let common = sum(gradients);
            for (gradient, share) in gradients.iter_mut().zip(shares) {
                *gradient -= share * common;
            }
        }
    }
}

#[inline(always)]
pub fn sum(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().chain(rest).sum()
}

#[inline(always)]
pub fn maximum(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(*x);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}
