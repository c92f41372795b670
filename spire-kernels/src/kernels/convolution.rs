//! Convolution as a sum of matrix products, one per kernel tap.
//!
//! The rows of a picture are concatenated to a line, separated by `padding` zeros that serve both neighbours. On the
//! line a kernel tap is a shift, so a convolution is the sum over the taps of the tap's weights, `[to, from]`, times
//! the shifted line, `[from, positions]`. Unlike `im2col`, nothing is copied per tap. Some positions of the line belong
//! to no output; their sums are computed and discarded. With a stride, the picture is first split into one line per
//! remainder of row and column.

use faer::MatRef;
use rayon::prelude::*;

use crate::kernels::products::{Term, add_outer_products, add_products, sum_products};
use crate::kernels::scratch;

/// Number of elements per line: small images are joined so that products are large; large images stay separate, because
/// fresh memory costs more than it saves.
const TOGETHER: usize = 1 << 20;

/// The settings of a convolution besides its weight, rows before columns.
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    pub stride: [usize; 2],
    /// Before and after.
    pub padding: [(usize, usize); 2],
}

impl Convolution {
    /// Whether this is a 1×1 convolution: a matrix product over the channels.
    fn is_pointwise(&self, kernel: [usize; 2]) -> bool {
        kernel == [1, 1] && self.stride == [1, 1] && self.padding == [(0, 0); 2]
    }
}

/// The output `[batch, to, out_height, out_width]` with its shape, added to `onto` of that shape.
pub fn forward(
    x: &[f32],
    x_shape: [usize; 4],
    weight: &[f32],
    [to, from, kernel_rows, kernel_columns]: [usize; 4],
    bias: &[f32],
    onto: Option<&[f32]>,
    convolution: Convolution,
) -> (Vec<f32>, [usize; 4]) {
    let kernel = [kernel_rows, kernel_columns];
    let [batch, _, height, width] = x_shape;
    if convolution.is_pointwise(kernel) {
        let area = height * width;
        let mut y = vec![0.0; batch * to * area];
        let left = MatRef::from_row_major_slice(weight, to, from);
        let pictures = x.par_chunks((from * area).max(1));
        y.par_chunks_mut((to * area).max(1)).zip(pictures).enumerate().for_each(|(image, (y, right))| {
            for (channel, (y, &bias)) in y.chunks_mut(area).zip(bias).enumerate() {
                match onto {
                    Some(onto) => add_bias(y, &onto[(image * to + channel) * area..], bias),
                    None => y.fill(bias),
                }
            }
            add_products(y, to, area, &[Term { left, right, stride: area, offset: 0 }]);
        });
        return (y, [batch, to, height, width]);
    }
    let one = Line::new([1, from, height, width], kernel, convolution);
    let [out_height, out_width] = one.out;
    let taps = Taps::of(weight, to, from, kernel);
    let images = (TOGETHER / (one.stride() * from.max(to)).max(1)).clamp(1, batch.max(1));
    let mut y = vec![0.0; batch * to * out_height * out_width];
    let chunk = images * to * out_height * out_width;
    let pictures = x.par_chunks(images * from * height * width);
    y.par_chunks_mut(chunk).zip(pictures).enumerate().for_each(|(n, (y, x))| {
        let batch = x.len() / (from * height * width);
        let line = Line::new([batch, from, height, width], kernel, convolution);
        convolve(y, x, &taps, bias, onto.map(|onto| &onto[n * chunk..]), &line);
    });
    (y, [batch, to, out_height, out_width])
}

/// `y = x + bias`.
fn add_bias(y: &mut [f32], x: &[f32], bias: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = x + bias);
}

/// The convolution of the images of one `line`, added to `onto`.
fn convolve(y: &mut [f32], x: &[f32], taps: &Taps, bias: &[f32], onto: Option<&[f32]>, line: &Line) {
    let (to, from) = (taps.to, taps.from);
    let [out_height, out_width] = line.out;
    let area = out_height * out_width;
    line.with_spread(x, from, |phases| {
        let terms: Vec<_> = line
            .taps()
            .enumerate()
            .map(|(tap, (phase, offset))| Term {
                left: taps.matrix(tap),
                right: &phases[phase * from * line.stride()..][..from * line.stride()],
                stride: line.stride(),
                offset,
            })
            .collect();
        scratch::with(to * line.len(), |sums| {
            sum_products(sums, to, line.len(), &terms);
            y.par_chunks_mut(area).enumerate().for_each(|(plane, y)| {
                let (image, channel) = (plane / to, plane % to);
                let sums = &sums[channel * line.len() + image * line.rows * line.columns..];
                for (row, (y, sums)) in y.chunks_mut(out_width).zip(sums.chunks(line.columns)).enumerate() {
                    add_bias(y, sums, bias[channel]);
                    if let Some(onto) = onto {
                        let onto = &onto[plane * area + row * out_width..];
                        y.iter_mut().zip(onto).for_each(|(y, onto)| *y += onto);
                    }
                }
            });
        });
    });
}

/// The gradient of the input, of shape `x_shape`.
pub fn input_gradient(
    weight: &[f32],
    [to, from, kernel_rows, kernel_columns]: [usize; 4],
    gradient: &[f32],
    x_shape: [usize; 4],
    convolution: Convolution,
) -> Vec<f32> {
    let kernel = [kernel_rows, kernel_columns];
    let [batch, _, height, width] = x_shape;
    let area = height * width;
    let mut x = vec![0.0; batch * from * area];
    if convolution.is_pointwise(kernel) {
        let left = MatRef::from_row_major_slice(weight, to, from).transpose();
        x.par_chunks_mut((from * area).max(1)).zip(gradient.par_chunks((to * area).max(1))).for_each(|(x, right)| {
            sum_products(x, from, area, &[Term { left, right, stride: area, offset: 0 }]);
        });
        return x;
    }
    let line = Line::new(x_shape, kernel, convolution);
    let taps = Taps::of(weight, to, from, kernel);
    line.with_spread_gradient(gradient, to, |gradient| gather(&mut x, gradient, &taps, &line));
    x
}

/// The input's gradient from the output's, which `line` has spread.
fn gather(x: &mut [f32], gradient: &[f32], taps: &Taps, line: &Line) {
    let from = taps.from;
    let (height, width) = (line.height, line.width);
    let [row_phases, column_phases] = line.convolution.stride;
    let [(top, _), (left, _)] = line.convolution.padding;
    for phase in 0..row_phases * column_phases {
        let terms: Vec<_> = line
            .taps()
            .enumerate()
            .filter(|(_, (of, _))| *of == phase)
            .map(|(tap, (_, offset))| Term {
                left: taps.matrix(tap).transpose(),
                right: gradient,
                stride: line.stride(),
                // Shifted back: the first output that reads a position lies that far before it.
                offset: line.slack - offset,
            })
            .collect();
        scratch::with(from * line.len(), |sums| {
            sum_products(sums, from, line.len(), &terms);
            let (row_phase, column_phase) = (phase / column_phases, phase % column_phases);
            x.par_chunks_mut((height * width).max(1)).enumerate().for_each(|(plane, x)| {
                let (image, channel) = (plane / from, plane % from);
                let sums = &sums[channel * line.len() + image * line.rows * line.columns..];
                for row in (0..height).filter(|row| (row + top) % row_phases == row_phase) {
                    let sums = &sums[(row + top) / row_phases * line.columns..];
                    let x = &mut x[row * width..][..width];
                    // The first column whose padded position has the phase's remainder.
                    let first = (column_phase + column_phases - left % column_phases) % column_phases;
                    let sums = &sums[(first + left) / column_phases..];
                    if column_phases == 1 {
                        x.copy_from_slice(&sums[..width]);
                    } else {
                        x.iter_mut().skip(first).step_by(column_phases).zip(sums).for_each(|(x, sum)| *x = *sum);
                    }
                }
            });
        });
    }
}

/// The gradient of the weight, of shape `[to, from, rows, columns]`.
pub fn weight_gradient(
    x: &[f32],
    x_shape: [usize; 4],
    gradient: &[f32],
    [to, from, kernel_rows, kernel_columns]: [usize; 4],
    convolution: Convolution,
) -> Vec<f32> {
    let kernel = [kernel_rows, kernel_columns];
    let [_, _, height, width] = x_shape;
    if convolution.is_pointwise(kernel) {
        let area = height * width;
        let mut weight = vec![0.0; to * from];
        for (gradient, x) in gradient.chunks((to * area).max(1)).zip(x.chunks((from * area).max(1))) {
            let gradient = MatRef::from_row_major_slice(gradient, to, area);
            add_outer_products(&mut weight, gradient, MatRef::from_row_major_slice(x, from, area));
        }
        return weight;
    }
    let line = Line::new(x_shape, kernel, convolution);
    let mut by_tap = vec![0.0; kernel_rows * kernel_columns * to * from];
    let taps: Vec<_> = line.taps().collect();
    line.with_spread(x, from, |phases| {
        line.with_spread_gradient(gradient, to, |gradient| {
            let gradient = MatRef::from_row_major_slice_with_stride(gradient, to, line.stride(), line.stride());
            let gradient = gradient.subcols(line.slack, line.len());
            by_tap.par_chunks_mut(to * from).zip(taps).for_each(|(sum, (phase, offset))| {
                let x = &phases[phase * from * line.stride()..][..from * line.stride()];
                let x = MatRef::from_row_major_slice_with_stride(x, from, line.stride(), line.stride());
                add_outer_products(sum, gradient, x.subcols(offset, line.len()));
            });
        });
    });
    let taps = kernel_rows * kernel_columns;
    let mut weight = vec![0.0; to * from * taps];
    weight.par_chunks_mut(taps).enumerate().for_each(|(pair, weight)| {
        weight.iter_mut().enumerate().for_each(|(tap, weight)| *weight = by_tap[tap * to * from + pair]);
    });
    weight
}

/// A weight `[to, from, rows, columns]` reordered by tap, `[to, rows · columns, from]`.
struct Taps {
    weight: Vec<f32>,
    to: usize,
    from: usize,
    count: usize,
}

impl Taps {
    fn of(weight: &[f32], to: usize, from: usize, [rows, columns]: [usize; 2]) -> Self {
        let count = rows * columns;
        let mut by_tap = vec![0.0; weight.len()];
        by_tap.par_chunks_mut(count * from).zip(weight.par_chunks(count * from)).for_each(|(by_tap, weight)| {
            for (tap, values) in by_tap.chunks_mut(from).enumerate() {
                values
                    .iter_mut()
                    .zip(weight.iter().skip(tap).step_by(count))
                    .for_each(|(value, weight)| *value = *weight);
            }
        });
        Self { weight: by_tap, to, from, count }
    }

    /// The tap's matrix, `[to, from]`.
    fn matrix(&self, tap: usize) -> MatRef<'_, f32> {
        let stride = self.count * self.from;
        let rows = MatRef::from_row_major_slice_with_stride(&self.weight, self.to, stride, stride);
        rows.subcols(tap * self.from, self.from)
    }
}

/// The layout of all pictures of a batch in one line of positions, per channel and phase.
struct Line {
    convolution: Convolution,
    kernel: [usize; 2],
    batch: usize,
    height: usize,
    width: usize,
    /// Rows of a picture on the line.
    rows: usize,
    /// Positions of a row.
    columns: usize,
    /// Height and width of the output.
    out: [usize; 2],
    /// The largest shift.
    slack: usize,
}

impl Line {
    fn new([batch, _, height, width]: [usize; 4], kernel: [usize; 2], convolution: Convolution) -> Self {
        let extent = |size: usize, axis: usize| match (convolution.stride[axis], convolution.padding[axis]) {
            // The zeros after a row are also those before the next.
            (1, (before, after)) => size + before.max(after),
            (stride, (before, after)) => (size + before + after).div_ceil(stride),
        };
        let out = |size: usize, axis: usize| {
            let (before, after) = convolution.padding[axis];
            (size + before + after - kernel[axis]) / convolution.stride[axis] + 1
        };
        let (rows, columns) = (extent(height, 0), extent(width, 1));
        let out = [out(height, 0), out(width, 1)];
        let mut line = Self { convolution, kernel, batch, height, width, rows, columns, out, slack: 0 };
        line.slack = line.taps().map(|(_, offset)| offset).max().unwrap_or(0);
        line
    }

    /// Number of positions with sums.
    fn len(&self) -> usize {
        self.batch * self.rows * self.columns
    }

    /// Elements per channel: the positions plus the largest shift.
    fn stride(&self) -> usize {
        self.len() + self.slack
    }

    /// The phase and the shift of each tap, in the order of the weight.
    fn taps(&self) -> impl Iterator<Item = (usize, usize)> {
        let [row_stride, column_stride] = self.convolution.stride;
        let [rows, columns] = self.kernel;
        (0..rows).flat_map(move |row| {
            (0..columns).map(move |column| {
                let phase = row % row_stride * column_stride + column % column_stride;
                (phase, row / row_stride * self.columns + column / column_stride)
            })
        })
    }

    /// Calls `work` with `x` `[batch, channels, height, width]` as `[phase, channels, stride]`.
    fn with_spread<R>(&self, x: &[f32], channels: usize, work: impl FnOnce(&[f32]) -> R) -> R {
        let [row_stride, column_stride] = self.convolution.stride;
        scratch::with(row_stride * column_stride * channels * self.stride(), |lines| {
            self.spread(lines, x, channels);
            work(lines)
        })
    }

    fn spread(&self, lines: &mut [f32], x: &[f32], channels: usize) {
        let [row_stride, column_stride] = self.convolution.stride;
        let [(top, _), (left, _)] = self.convolution.padding;
        lines.par_chunks_mut(self.stride()).enumerate().for_each(|(n, line)| {
            line.fill(0.0);
            let (phase, channel) = (n / channels, n % channels);
            let (row_phase, column_phase) = (phase / column_stride, phase % column_stride);
            for image in 0..self.batch {
                let x = &x[(image * channels + channel) * self.height * self.width..];
                let rows = (0..self.rows).map(|row| row * row_stride + row_phase);
                for (row, position) in rows.enumerate().filter(|(_, p)| (top..top + self.height).contains(p)) {
                    let x = &x[(position - top) * self.width..][..self.width];
                    let line = &mut line[(image * self.rows + row) * self.columns..][..self.columns];
                    if column_stride == 1 {
                        line[left..left + self.width].copy_from_slice(x);
                    } else {
                        let first = left.saturating_sub(column_phase).div_ceil(column_stride);
                        let x = x.iter().skip(first * column_stride + column_phase - left).step_by(column_stride);
                        line[first..].iter_mut().zip(x).for_each(|(line, x)| *line = *x);
                    }
                }
            }
        });
    }

    /// Calls `work` with `gradient` `[batch, channels, out_height, out_width]` as `[channels, stride]`, preceded by as many
    /// zeros as the largest shift.
    fn with_spread_gradient<R>(&self, gradient: &[f32], channels: usize, work: impl FnOnce(&[f32]) -> R) -> R {
        scratch::with(channels * self.stride(), |lines| {
            self.spread_gradient(lines, gradient, channels);
            work(lines)
        })
    }

    fn spread_gradient(&self, lines: &mut [f32], gradient: &[f32], channels: usize) {
        let [height, width] = self.out;
        lines.par_chunks_mut(self.stride()).enumerate().for_each(|(channel, line)| {
            line.fill(0.0);
            let line = &mut line[self.slack..];
            for image in 0..self.batch {
                let gradient = &gradient[(image * channels + channel) * height * width..][..height * width];
                let line = line[image * self.rows * self.columns..].chunks_mut(self.columns);
                line.zip(gradient.chunks(width)).for_each(|(line, row)| line[..width].copy_from_slice(row));
            }
        });
    }
}
