//! Elementwise activations.

use std::marker::PhantomData;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::kernels::exp::{erf, exp, sigmoid};

/// Number of elements per task.
const CHUNK: usize = 1 << 14;

/// The activation functions.
#[derive(Clone, Copy, Debug)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu,
    /// `x · Φ(x)`
    Gelu,
}

impl Activation {
    pub fn forward(self, x: &[f32]) -> Vec<f32> {
        match self {
            Self::Silu => each::<SiluForward>(x, x),
            Self::Gelu => each::<GeluForward>(x, x),
        }
    }

    /// The gradient of `x`, given the output's.
    pub fn gradient(self, x: &[f32], gradient: &[f32]) -> Vec<f32> {
        match self {
            Self::Silu => each::<SiluGradient>(x, gradient),
            Self::Gelu => each::<GeluGradient>(x, gradient),
        }
    }
}

#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
pub fn silu_slope(x: f32) -> f32 {
    let sigmoid = sigmoid(x);
    sigmoid * (1.0 + x * (1.0 - sigmoid))
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    const DENSITY_AT_ZERO: f32 = 0.398_942_3;
    x.mul_add(DENSITY_AT_ZERO * exp(-0.5 * x * x), normal_distribution(x))
}

#[inline(always)]
fn normal_distribution(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// An elementwise function of the input and a gradient. A trait, because closures are not always inlined, and only
/// inlined code is vectorised.
trait Pairwise {
    fn of(x: f32, gradient: f32) -> f32;
}

struct SiluForward;
struct SiluGradient;
struct GeluForward;
struct GeluGradient;

impl Pairwise for SiluForward {
    #[inline(always)]
    fn of(x: f32, _: f32) -> f32 {
        silu(x)
    }
}

impl Pairwise for SiluGradient {
    #[inline(always)]
    fn of(x: f32, gradient: f32) -> f32 {
        gradient * silu_slope(x)
    }
}

impl Pairwise for GeluForward {
    #[inline(always)]
    fn of(x: f32, _: f32) -> f32 {
        x * normal_distribution(x)
    }
}

impl Pairwise for GeluGradient {
    #[inline(always)]
    fn of(x: f32, gradient: f32) -> f32 {
        gradient * gelu_slope(x)
    }
}

fn each<F: Pairwise>(x: &[f32], gradient: &[f32]) -> Vec<f32> {
    struct Chunk<'a, F>(&'a mut [f32], &'a [f32], &'a [f32], PhantomData<F>);
    impl<F: Pairwise> NullaryFnOnce for Chunk<'_, F> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            for ((y, &x), &gradient) in self.0.iter_mut().zip(self.1).zip(self.2) {
                *y = F::of(x, gradient);
            }
        }
    }
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .zip(gradient.par_chunks(CHUNK))
        .for_each(|((y, x), gradient)| Arch::new().dispatch(Chunk::<F>(y, x, gradient, PhantomData)));
    y
}
