//! Max and average pooling.

use rayon::prelude::*;

/// The kind of pooling.
#[derive(Clone, Copy, Debug)]
pub enum Pooling {
    Maximum,
    /// Without counting the padding.
    Average,
}

/// A square window with its stride and padding, equal for rows and columns.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Side of the window in pixels.
    pub side: usize,
    /// Stride in pixels.
    pub stride: usize,
    /// Padding around the picture in pixels; it does not count.
    pub padding: usize,
}

impl Window {
    fn outputs(self, size: usize) -> usize {
        (size + 2 * self.padding - self.side) / self.stride + 1
    }

    /// The range of pixels inside the picture for the `n`-th output.
    fn inputs(self, n: usize, size: usize) -> std::ops::Range<usize> {
        let first = n * self.stride;
        first.saturating_sub(self.padding)..(first + self.side - self.padding).min(size)
    }
}

/// The output `[batch, channels, out_height, out_width]` with its shape; rows are combined before columns.
pub fn forward(
    x: &[f32],
    [batch, channels, height, width]: [usize; 4],
    pooling: Pooling,
    window: Window,
) -> (Vec<f32>, [usize; 4]) {
    let (out_height, out_width) = (window.outputs(height), window.outputs(width));
    let mut y = vec![0.0; batch * channels * out_height * out_width];
    y.par_chunks_mut(out_height * out_width).zip(x.par_chunks(height * width)).for_each(|(y, x)| {
        let mut column_wise = vec![0.0; width];
        for (n, y) in y.chunks_mut(out_width).enumerate() {
            let rows = window.inputs(n, height);
            column_wise.copy_from_slice(&x[rows.start * width..][..width]);
            for row in x[rows.start * width..rows.end * width].chunks(width).skip(1) {
                let pixels = column_wise.iter_mut().zip(row);
                match pooling {
                    Pooling::Maximum => pixels.for_each(|(all, &pixel)| *all = larger(*all, pixel)),
                    Pooling::Average => pixels.for_each(|(all, pixel)| *all += pixel),
                }
            }
            for (n, y) in y.iter_mut().enumerate() {
                let columns = window.inputs(n, width);
                let count = (rows.len() * columns.len()) as f32;
                let pixels = column_wise[columns].iter().copied();
                *y = match pooling {
                    Pooling::Maximum => pixels.fold(f32::NEG_INFINITY, larger),
                    Pooling::Average => pixels.sum::<f32>() / count,
                };
            }
        }
    });
    (y, [batch, channels, out_height, out_width])
}

/// One instruction, unlike `f32::max`; NaN is propagated.
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}
