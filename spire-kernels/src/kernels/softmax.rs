//! The parts of softmax, for rows of scores.

use crate::kernels::exp::exp2;

/// Number of SIMD lanes for sums and maxima.
const LANES: usize = 16;

/// Replaces each score s of a row by `exp(scale · (s − the largest s))`, and returns the sum of these. Softmax is their
/// quotient, which callers take where it costs least.
#[inline(always)]
pub fn exponentials(row: &mut [f32], scale: f32) -> f32 {
    let factor = scale * std::f32::consts::LOG2_E;
    let shift = -factor * maximum(row);
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for (lane, score) in lanes.iter_mut().zip(chunk) {
            *score = exp2(score.mul_add(factor, shift));
            *lane += *score;
        }
    }
    let mut sum = lanes.iter().sum();
    for score in rest {
        *score = exp2(score.mul_add(factor, shift));
        sum += *score;
    }
    sum
}

/// The sum of a row.
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

/// The largest number of a row; NaN counts as none.
#[inline(always)]
fn maximum(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a }; // one instruction, unlike `max`
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *x);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| larger(a, *b))
}
