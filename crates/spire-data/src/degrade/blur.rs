//! Filtering with a kernel: reflect padding and cross-correlation, as torch's `F.pad(reflect)` and `conv2d` compute it.

use super::kernel::Kernel;
use super::simd::vectorized;
use crate::Picture;

/// The picture filtered with `kernel`, each colour by itself. Values may leave \[0, 1\] where weights are negative.
///
/// The border is reflected without repeating the edge pixel; where the kernel is larger than the picture, the
/// reflection is reflected again (torch refuses there).
pub fn blur(picture: &Picture, kernel: &Kernel) -> Picture {
    map_planes(picture, |plane| blur_plane(plane, picture.width, picture.height, kernel))
}

/// [`blur`] for one plane of `width * height` values.
///
/// # Panics
/// If `plane` has another number of values.
pub fn blur_plane(plane: &[f32], width: usize, height: usize, kernel: &Kernel) -> Vec<f32> {
    match kernel.separated() {
        Some((column, row)) => {
            correlate(&correlate(plane, width, height, &column, 1), width, height, &row, kernel.size)
        }
        None => correlate(plane, width, height, &kernel.weights, kernel.size),
    }
}

/// The picture blurred with an isotropic Gaussian of `sigma` pixels, cut off at 4 sigma (and at the picture's longer
/// side). Nothing changes where sigma is not above 0.
pub fn gaussian_blur(picture: &Picture, sigma: f32) -> Picture {
    let weights = gaussian_weights(f64::from(sigma), picture.width.max(picture.height));
    let (width, height) = (picture.width, picture.height);
    map_planes(picture, |plane| {
        let columns = correlate(plane, width, height, &weights, 1);
        correlate(&columns, width, height, &weights, weights.len())
    })
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

fn map_planes(picture: &Picture, filter: impl Fn(&[f32]) -> Vec<f32>) -> Picture {
    let data = picture.planes().map(filter).collect::<Vec<_>>().concat();
    Picture { width: picture.width, height: picture.height, data }
}

/// How many neighbouring outputs are summed at once, in registers.
const LANES: usize = 64;

/// Cross-correlation with odd-sided `weights` of `kernel_width` columns, on the reflected plane.
fn correlate(plane: &[f32], width: usize, height: usize, weights: &[f32], kernel_width: usize) -> Vec<f32> {
    let kernel_height = weights.len() / kernel_width;
    let padded = Padded::reflect(plane, width, height, kernel_width / 2, kernel_height / 2);
    vectorized(|| sums(&padded, width, height, weights, kernel_width))
}

#[inline(always)]
fn sums(padded: &Padded, width: usize, height: usize, weights: &[f32], kernel_width: usize) -> Vec<f32> {
    let mut output = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in (0..width).step_by(LANES) {
            let mut sums = [0.0_f32; LANES];
            for (row, weights) in weights.chunks_exact(kernel_width).enumerate() {
                let row = &padded.row(y + row)[x..x + LANES + kernel_width - 1];
                for (window, &weight) in row.windows(LANES).zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(window) {
                        *sum += weight * value;
                    }
                }
            }
            output.extend_from_slice(&sums[..LANES.min(width - x)]);
        }
    }
    output
}

/// A plane with its border reflected; rows are rounded up so that every block of [`LANES`] outputs has its inputs.
struct Padded {
    stride: usize,
    data: Vec<f32>,
}

impl Padded {
    fn reflect(plane: &[f32], width: usize, height: usize, radius_x: usize, radius_y: usize) -> Self {
        assert_eq!(plane.len(), width * height, "a plane has width × height values");
        let columns: Vec<usize> = (0..width + 2 * radius_x).map(|x| reflected(x, radius_x, width)).collect();
        let stride = width.next_multiple_of(LANES) + 2 * radius_x;
        let mut data = Vec::with_capacity(stride * (height + 2 * radius_y));
        for y in 0..height + 2 * radius_y {
            let row = &plane[reflected(y, radius_y, height) * width..][..width];
            data.extend(columns[..radius_x].iter().map(|&x| row[x]));
            data.extend_from_slice(row);
            data.extend(columns[radius_x + width..].iter().map(|&x| row[x]));
            data.resize((y + 1) * stride, 0.0);
        }
        Self { stride, data }
    }

    fn row(&self, y: usize) -> &[f32] {
        &self.data[y * self.stride..][..self.stride]
    }
}

/// Which of `size` pixels lies at `position` of a line that is padded by `radius` on both sides.
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
    fn reflection_does_not_repeat_the_edge_and_goes_on_for_ever() {
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
    fn a_product_of_two_lines_is_filtered_line_by_line_and_nothing_else_is() {
        let spec = |kind, theta| KernelSpec { kind, size: 9, sigma_x: 2.0, sigma_y: 0.8, theta, beta: 1.5 };
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
            let direct = map_planes(&picture, |plane| correlate(plane, 70, 20, &kernel.weights, kernel.size));
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
