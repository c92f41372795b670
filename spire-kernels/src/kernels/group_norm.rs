//! Group normalisation (Wu & He 2018), optionally fused with SiLU.

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::kernels::elementwise::{silu, silu_slope};

/// The settings of a normalisation besides its weights.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub groups: usize,
    pub epsilon: f64,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// The gradients.
pub struct Gradients {
    pub x: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
}

/// `x` of shape `[batch, channels, height, width]`, normalised over each group's channels and positions.
pub fn forward(x: &[f32], shape: [usize; 4], gamma: &[f32], beta: &[f32], settings: Settings) -> Vec<f32> {
    let [_, channels, height, width] = shape;
    let inside = channels / settings.groups;
    let group = (inside * height * width).max(1);
    let arch = Arch::new();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(group).zip(x.par_chunks(group)).enumerate().for_each(|(n, (y, x))| {
        let channels = n % settings.groups * inside..(n % settings.groups + 1) * inside;
        arch.dispatch(Forward { y, x, gamma: &gamma[channels.clone()], beta: &beta[channels], settings });
    });
    y
}

/// The gradients of all inputs, given the output's.
pub fn gradients(
    x: &[f32],
    shape: [usize; 4],
    gamma: &[f32],
    beta: &[f32],
    gradient: &[f32],
    settings: Settings,
) -> Gradients {
    let [batch, channels, height, width] = shape;
    let inside = channels / settings.groups;
    let group = (inside * height * width).max(1);
    let arch = Arch::new();
    let mut x_gradient = vec![0.0; x.len()];
    // Per image, `[batch, channels, 2]`; summed below.
    let mut weight_gradients = vec![[0.0; 2]; batch * channels];
    x_gradient
        .par_chunks_mut(group)
        .zip(weight_gradients.par_chunks_mut(inside.max(1)))
        .zip(x.par_chunks(group).zip(gradient.par_chunks(group)))
        .enumerate()
        .for_each(|(n, ((x_gradient, weight_gradients), (x, gradient)))| {
            let channels = n % settings.groups * inside..(n % settings.groups + 1) * inside;
            let (gamma, beta) = (&gamma[channels.clone()], &beta[channels]);
            arch.dispatch(Backward { x_gradient, weight_gradients, x, gradient, gamma, beta, settings });
        });
    let sum = |which: usize| {
        let of = |channel: usize| (0..batch).map(|image| weight_gradients[image * channels + channel][which]).sum();
        (0..channels).map(of).collect()
    };
    Gradients { gamma: sum(0), beta: sum(1), x: x_gradient }
}

/// The forward pass of one group of one image. A struct, because a closure is not always inlined, and only inlined code
/// is vectorised.
struct Forward<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    settings: Settings,
}

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { y, x, gamma, beta, settings } = self;
        let area = x.len() / gamma.len();
        let (mean, scale) = mean_and_scale(x, settings.epsilon);
        for (channel, (y, x)) in y.chunks_mut(area).zip(x.chunks(area)).enumerate() {
            let factor = scale * gamma[channel];
            let shift = beta[channel] - mean * factor;
            if settings.silu {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = silu(x.mul_add(factor, shift));
                }
            } else {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = x.mul_add(factor, shift);
                }
            }
        }
    }
}

/// The backward pass of one group of one image. With x̂ the normalised input and g the gradient of γ·x̂ + β, the
/// gradients of γ and β are Σ g·x̂ and Σ g, and that of the input is (γ·g − mean(γ·g) − x̂ · mean(γ·g·x̂)) / deviation.
struct Backward<'a> {
    x_gradient: &'a mut [f32],
    weight_gradients: &'a mut [[f32; 2]],
    x: &'a [f32],
    gradient: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    settings: Settings,
}

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { x_gradient, weight_gradients, x, gradient, gamma, beta, settings } = self;
        let area = x.len() / gamma.len();
        let (mean, scale) = mean_and_scale(x, settings.epsilon);
        let (mut product, mut total) = (0.0_f64, 0.0_f64);
        for (channel, sums) in weight_gradients.iter_mut().enumerate() {
            let plane = channel * area..(channel + 1) * area;
            let (x_gradient, x, gradient) = (&mut x_gradient[plane.clone()], &x[plane.clone()], &gradient[plane]);
            if settings.silu {
                for ((out, x), gradient) in x_gradient.iter_mut().zip(x).zip(gradient) {
                    *out = gradient * silu_slope(((x - mean) * scale).mul_add(gamma[channel], beta[channel]));
                }
            } else {
                x_gradient.copy_from_slice(gradient);
            }
            let [of_product, of_gradient, _] = sums_of(x_gradient, x, mean);
            *sums = [(of_product * f64::from(scale)) as f32, of_gradient as f32];
            product += f64::from(gamma[channel] * sums[0]);
            total += f64::from(gamma[channel] * sums[1]);
        }
        let (product, total) = ((product / x.len() as f64) as f32, (total / x.len() as f64) as f32);
        for (channel, (out, x)) in x_gradient.chunks_mut(area).zip(x.chunks(area)).enumerate() {
            let gamma = gamma[channel];
            for (out, x) in out.iter_mut().zip(x) {
                *out = scale * (gamma * *out - total - (x - mean) * scale * product);
            }
        }
    }
}

/// The mean and the reciprocal of the standard deviation.
#[inline(always)]
fn mean_and_scale(x: &[f32], epsilon: f64) -> (f32, f32) {
    let count = x.len() as f64;
    let [_, sum, _] = sums_of(x, x, 0.0);
    let mean = (sum / count) as f32;
    let [_, _, squares] = sums_of(x, x, mean);
    (mean, (1.0 / (squares / count + epsilon).sqrt()) as f32)
}

/// The sums of `g · (x - mean)`, of `g` and of `(x - mean)²`: in SIMD lanes within blocks, and in double precision over
/// blocks.
#[inline(always)]
fn sums_of(g: &[f32], x: &[f32], mean: f32) -> [f64; 3] {
    const LANES: usize = 16;
    let mut totals = [0.0_f64; 3];
    for (g, x) in g.chunks(1024).zip(x.chunks(1024)) {
        let mut lanes = [[0.0_f32; LANES]; 3];
        let ((g, g_rest), (x, x_rest)) = (g.as_chunks::<LANES>(), x.as_chunks::<LANES>());
        for (g, x) in g.iter().zip(x) {
            for lane in 0..LANES {
                let x = x[lane] - mean;
                lanes[0][lane] += g[lane] * x;
                lanes[1][lane] += g[lane];
                lanes[2][lane] += x * x;
            }
        }
        for (lane, (g, x)) in g_rest.iter().zip(x_rest).enumerate() {
            let x = x - mean;
            lanes[0][lane] += g * x;
            lanes[1][lane] += g;
            lanes[2][lane] += x * x;
        }
        for (total, lanes) in totals.iter_mut().zip(lanes) {
            for lane in lanes {
                *total += f64::from(lane);
            }
        }
    }
    totals
}
