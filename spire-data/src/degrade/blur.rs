//! Filtering with a kernel: reflection padding and cross-correlation, as torch's `F.pad(mode="reflect")` and `conv2d`.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd, bytemuck};

use super::kernel::Kernel;
use crate::Picture;
use crate::buffer::Buffer;

/// Filters each channel with `kernel`. Negative weights can produce values outside \[0, 1\].
///
/// The border is reflected without repeating the edge pixel. For a kernel larger than the picture the reflection
/// continues; torch rejects that case.
pub fn blur(picture: &Picture, kernel: &Kernel) -> Picture {
    let filter = Filter::of(kernel);
    map_planes(picture, |plane, output| filter.apply(plane, picture.width, output))
}

/// [`blur`] for one plane of `width * height` values.
///
/// # Panics
/// If the number of values does not match the size.
pub fn blur_plane(plane: &[f32], width: usize, height: usize, kernel: &Kernel) -> Vec<f32> {
    assert_eq!(plane.len(), width * height, "a plane has width × height values");
    let mut output = vec![0.0; plane.len()];
    Filter::of(kernel).apply(plane, width, &mut output);
    output
}

/// Blurs with an isotropic Gaussian of `sigma` pixels, truncated at 4 sigma and at the picture's longer side. `sigma <=
/// 0` returns the picture unchanged.
pub fn gaussian_blur(picture: &Picture, sigma: f32) -> Picture {
    let weights = gaussian_weights(f64::from(sigma), picture.width.max(picture.height));
    let filter = Filter::Lines { column: Taps::new(&weights, 1), row: Taps::new(&weights, weights.len()) };
    map_planes(picture, |plane, output| filter.apply(plane, picture.width, output))
}

fn gaussian_weights(sigma: f64, longest: usize) -> Vec<f32> {
    if sigma <= 0.0 {
        return vec![1.0];
    }
    let radius = ((4.0 * sigma).ceil() as usize).min(longest) as i64;
    let weights: Vec<f64> = (-radius..=radius).map(|x| (-0.5 * (x as f64 / sigma).powi(2)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| (weight / sum) as f32).collect()
}

fn map_planes(picture: &Picture, filter: impl Fn(&[f32], &mut [f32])) -> Picture {
    let mut data = Buffer::zeroed(picture.data.len());
    let area = picture.width * picture.height;
    for (channel, plane) in picture.planes().enumerate() {
        filter(plane, &mut data[channel * area..(channel + 1) * area]);
    }
    Picture { width: picture.width, height: picture.height, data }
}

/// A kernel prepared for filtering.
enum Filter {
    Whole(Taps),
    Lines { column: Taps, row: Taps },
}

/// From this side on, two separable passes are faster than one with the whole kernel.
const WORTH_SEPARATING: usize = 11;

impl Filter {
    fn of(kernel: &Kernel) -> Self {
        match kernel.separated().filter(|_| kernel.size >= WORTH_SEPARATING) {
            Some((column, row)) => Self::Lines { column: Taps::new(&column, 1), row: Taps::new(&row, kernel.size) },
            None => Self::Whole(Taps::new(&kernel.weights, kernel.size)),
        }
    }

    fn apply(&self, plane: &[f32], width: usize, output: &mut [f32]) {
        match self {
            Self::Whole(taps) => correlate(plane, width, taps, output),
            Self::Lines { column, row } => {
                let mut between = Buffer::zeroed(plane.len());
                correlate(plane, width, column, &mut between);
                correlate(&between, width, row, output);
            }
        }
    }
}

/// Cross-correlation on the reflected plane.
fn correlate(plane: &[f32], width: usize, taps: &Taps, output: &mut [f32]) {
    if plane.is_empty() {
        return;
    }
    let padded = Padded::reflect(plane, width, plane.len() / width, taps.kernel_width / 2, taps.kernel_height() / 2);
    Arch::new().dispatch(Correlate { padded: &padded, width, taps, output });
}

/// Output rows computed together, so that each loaded input serves all of them.
const ROWS: usize = 2;

/// Vectors of neighbouring outputs accumulated in registers at once.
const VECTORS: usize = 4;

/// Maximum number of outputs of a row computed at once: [`VECTORS`] of the widest vectors.
const LANES: usize = 16 * VECTORS;

/// A kernel's weights in the order of use. For each input row that a block of output rows needs: the range of columns
/// with nonzero weights, and their weights for each output row.
struct Taps {
    kernel_width: usize,
    rows: Vec<TapRow>,
    weights: Vec<[f32; ROWS]>,
}

struct TapRow {
    first_column: usize,
    /// In [`Taps::weights`].
    weights: Range<usize>,
}

/// Weights of a normalised kernel below this are dropped: together they change no output by more than rounding does.
const NEGLIGIBLE: f32 = 2e-9;

impl Taps {
    fn new(weights: &[f32], kernel_width: usize) -> Self {
        let kernel: Vec<&[f32]> = weights.chunks_exact(kernel_width).collect();
        let mut taps = Self { kernel_width, rows: vec![], weights: vec![] };
        for row in 0..kernel.len() + ROWS - 1 {
            let at = |column: usize| -> [f32; ROWS] {
                std::array::from_fn(|i| {
                    row.checked_sub(i).and_then(|row| kernel.get(row)).map_or(0.0, |row| row[column])
                })
            };
            let matters = |&column: &usize| at(column).iter().any(|weight| weight.abs() > NEGLIGIBLE);
            let first_column = (0..kernel_width).find(matters).unwrap_or(kernel_width);
            let end = (first_column..kernel_width).rfind(matters).map_or(first_column, |last| last + 1);
            let start = taps.weights.len();
            taps.weights.extend((first_column..end).map(at));
            taps.rows.push(TapRow { first_column, weights: start..taps.weights.len() });
        }
        taps
    }

    fn kernel_height(&self) -> usize {
        self.rows.len() - (ROWS - 1)
    }
}

struct Correlate<'a> {
    padded: &'a Padded,
    width: usize,
    taps: &'a Taps,
    output: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (block, rows) in self.output.chunks_mut(ROWS * self.width).enumerate() {
            for x in (0..self.width).step_by(VECTORS * S::F32_LANES) {
                let sums = sums(simd, self.padded, self.taps, block * ROWS, x);
                for (row, sums) in rows.chunks_exact_mut(self.width).zip(&sums) {
                    let row = &mut row[x..];
                    let sums: &[f32] = bytemuck::cast_slice(sums);
                    let length = row.len().min(sums.len());
                    row[..length].copy_from_slice(&sums[..length]);
                }
            }
        }
    }
}

/// Outputs of [`ROWS`] rows from `y` and [`VECTORS`] vectors from `x`.
#[inline(always)]
fn sums<S: Simd>(simd: S, padded: &Padded, taps: &Taps, y: usize, x: usize) -> [[S::f32s; VECTORS]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for (row, TapRow { first_column, weights }) in taps.rows.iter().enumerate() {
        let input = &padded.row(y + row)[x + first_column..];
        let weights = &taps.weights[weights.clone()];
        for (window, weights) in input.windows(VECTORS * S::F32_LANES).zip(weights) {
            let (values, _) = S::as_simd_f32s(window);
            for (sums, &weight) in sums.iter_mut().zip(weights) {
                let weight = simd.splat_f32s(weight);
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum = simd.mul_add_f32s(weight, value, *sum);
                }
            }
        }
    }
    sums
}

/// A plane with a reflected border. Its sides are rounded up so that every block of outputs finds its inputs.
struct Padded {
    stride: usize,
    data: Buffer,
}

impl Padded {
    fn reflect(plane: &[f32], width: usize, height: usize, radius_x: usize, radius_y: usize) -> Self {
        let columns: Vec<usize> = (0..width + 2 * radius_x).map(|x| reflected(x, radius_x, width)).collect();
        let stride = width.next_multiple_of(LANES) + 2 * radius_x;
        let rows = height.next_multiple_of(ROWS) + 2 * radius_y;
        let mut data = Buffer::with_capacity(stride * rows);
        for y in 0..height + 2 * radius_y {
            let row = &plane[reflected(y, radius_y, height) * width..][..width];
            data.extend(columns[..radius_x].iter().map(|&x| row[x]));
            data.extend_from_slice(row);
            data.extend(columns[radius_x + width..].iter().map(|&x| row[x]));
            data.resize((y + 1) * stride, 0.0);
        }
        data.resize(rows * stride, 0.0);
        Self { stride, data }
    }

    fn row(&self, y: usize) -> &[f32] {
        &self.data[y * self.stride..][..self.stride]
    }
}

/// The index of the pixel at `position` of a line of `size` pixels padded by `radius` on both sides.
fn reflected(position: usize, radius: usize, size: usize) -> usize {
    if size == 1 {
        return 0;
    }
    let period = 2 * (size - 1);
    let offset = (position + period - radius % period) % period;
    offset.min(period - offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::degrade::kernel::{KernelKind, KernelSpec};

    fn ramp(width: usize, height: usize) -> Picture {
        let data = (0..3 * width * height).map(|i| (i * 37 % 101) as f32 / 101.0).collect();
        Picture { width, height, data }
    }

    #[test]
    fn reflection_skips_the_edge_pixel_and_repeats() {
        let line: Vec<usize> = (0..11).map(|position| reflected(position, 4, 3)).collect();
        assert_eq!(line, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]);
    }

    #[test]
    fn the_centre_is_correlation_not_convolution() {
        let mut kernel = Kernel::new(3, vec![0.0; 9]).unwrap();
        kernel.weights[5] = 1.0;
        let picture = ramp(5, 4);
        let moved = blur(&picture, &kernel);
        assert_eq!(moved.plane(1)[6], picture.plane(1)[7]);
        assert_eq!(moved.plane(1)[4], picture.plane(1)[3]);
    }

    #[test]
    fn separable_gaussian_equals_the_two_dimensional_one() {
        for (width, height) in [(64, 40), (33, 7), (2, 3), (1, 1)] {
            let picture = ramp(width, height);
            let sigma = 0.7;
            let radius = 3_usize.min(width.max(height));
            let spec = KernelSpec {
                kind: KernelKind::Iso,
                size: 2 * radius + 1,
                sigma_x: f64::from(sigma),
                sigma_y: 0.0,
                theta: 0.0,
                beta: 0.0,
            };
            let want = blur(&picture, &spec.build().unwrap());
            for (got, want) in gaussian_blur(&picture, sigma).data.iter().zip(&want.data) {
                assert!((got - want).abs() < 1e-6, "{width}×{height}: {got} and {want}");
            }
        }
    }

    #[test]
    fn only_separable_kernels_are_filtered_in_two_passes() {
        let spec = |kind, theta| KernelSpec { kind, size: 13, sigma_x: 2.0, sigma_y: 0.8, theta, beta: 1.5 };
        let picture = ramp(70, 20);
        for (spec, separable) in [
            (spec(KernelKind::Iso, 0.0), true),
            (spec(KernelKind::Aniso, 0.0), true),
            (spec(KernelKind::Aniso, 0.5), false),
            (spec(KernelKind::PlateauIso, 0.0), false),
            (spec(KernelKind::Sinc, 1.0), false),
        ] {
            let kernel = spec.build().unwrap();
            assert_eq!(kernel.separated().is_some(), separable, "{spec:?}");
            let whole = Filter::Whole(Taps::new(&kernel.weights, kernel.size));
            let direct = map_planes(&picture, |plane, output| whole.apply(plane, 70, output));
            for (got, want) in blur(&picture, &kernel).data.iter().zip(&direct.data) {
                assert!((got - want).abs() < 2e-6, "{spec:?}: {got} and {want}");
            }
        }
    }

    #[test]
    fn wide_blur_of_a_tiny_picture_keeps_a_flat_colour() {
        let flat = Picture::filled(3, 2, [0.2, 0.5, 0.9]);
        for (got, want) in gaussian_blur(&flat, 50.0).data.iter().zip(&flat.data) {
            assert!((got - want).abs() < 1e-5);
        }
    }
}
