//! MUSIQ's input: patches at several scales with their positions.

use anyhow::{Result, ensure};
use burn::tensor::Tensor;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, PadMode};

use super::MusiqConfig;

/// The patches of a picture at all scales, concatenated.
#[derive(Debug)]
pub struct Patches {
    /// `[patches, 3, patch_size, patch_size]` in \[-1, 1\], plus bicubic overshoot.
    pub pixels: Tensor<4>,
    /// The index of each patch's cell among the `spatial_pos_grid_size`² cells of its scale, row by row.
    pub cells: Vec<usize>,
    /// The scale of each patch: resized pictures first, smallest first, then the picture itself.
    pub scales: Vec<usize>,
}

impl Patches {
    /// Splits `picture` `[1, 3, height, width]` in \[-1, 1\] into patches.
    ///
    /// # Errors
    /// The picture is so narrow that it vanishes at a smaller scale.
    pub fn of(picture: Tensor<4>, config: &MusiqConfig) -> Result<Self> {
        let mut longer_sides = config.longer_side_lengths.clone();
        longer_sides.sort_unstable();
        let resized = longer_sides.into_iter().map(|longer_side| resize(picture.clone(), longer_side));
        let mut pictures = resized.collect::<Result<Vec<_>>>()?;
        pictures.push(picture);

        let grid = config.spatial_pos_grid_size;
        let (mut pixels, mut cells, mut scales) = (vec![], vec![], vec![]);
        for (scale, picture) in pictures.into_iter().enumerate() {
            let (cut, [rows, columns]) = cut(picture, config.patch_size);
            pixels.push(cut);
            for row in 0..rows {
                let above = cell(row, rows, grid) * grid;
                cells.extend((0..columns).map(|column| above + cell(column, columns, grid)));
            }
            scales.resize(cells.len(), scale);
        }
        Ok(Self { pixels: Tensor::cat(pixels, 0), cells, scales })
    }
}

/// Resizes `picture` to `longer_side` pixels on its longer side, as torch's `interpolate` with `bicubic`, without
/// antialiasing.
fn resize(picture: Tensor<4>, longer_side: usize) -> Result<Tensor<4>> {
    let [.., height, width] = picture.dims();
    let ratio = longer_side as f64 / height.max(width) as f64;
    let size = [height, width].map(|side| (side as f64 * ratio).round_ties_even() as usize);
    ensure!(
        size.iter().all(|&side| side > 0),
        "a picture of {width}×{height} is too narrow: at {longer_side} pixels on the longer side nothing is left of it"
    );
    let options = InterpolateOptions::new(InterpolateMode::Bicubic).with_align_corners(false).with_output_size(size);
    Ok(interpolate(picture, options))
}

/// The patches, row by row, with the numbers of rows and columns. The outer patches are padded with zeros.
fn cut(picture: Tensor<4>, side: usize) -> (Tensor<4>, [usize; 2]) {
    let picture = pad_same(picture, side, side);
    let [_, channels, height, width] = picture.dims();
    let [rows, columns] = [height / side, width / side];
    let patches = picture.reshape([channels, rows, side, columns, side]).permute([1, 3, 0, 2, 4]).reshape([
        rows * columns,
        channels,
        side,
        side,
    ]);
    (patches, [rows, columns])
}

/// TensorFlow's zero padding `SAME`; odd padding is larger at the bottom and right.
pub fn pad_same(x: Tensor<4>, window: usize, stride: usize) -> Tensor<4> {
    let [.., height, width] = x.dims();
    let [vertical, horizontal] = [height, width].map(|side| {
        let padding = ((side.div_ceil(stride) - 1) * stride + window).saturating_sub(side);
        (padding / 2, padding - padding / 2)
    });
    x.pad([vertical, horizontal], PadMode::Constant(0.0))
}

/// The cell of `grid` for index `i` of `count`, in single precision as torch's `interpolate` with `nearest`.
fn cell(i: usize, count: usize, grid: usize) -> usize {
    let ratio = grid as f32 / count as f32;
    ((i as f32 * ratio) as usize).min(grid - 1)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    fn picture(height: usize, width: usize) -> Tensor<4> {
        Tensor::random([1, 3, height, width], Distribution::Uniform(-1.0, 1.0), &Device::default())
    }

    /// pyiqa: `get_hashed_spatial_pos_emb_index(10, 3, 4)` and `(10, 1, 13)`.
    #[test]
    fn cells_agree_with_the_reference() {
        let cells = |count| (0..count).map(|i| cell(i, count, 10)).collect::<Vec<_>>();
        assert_eq!(cells(1), [0]);
        assert_eq!(cells(3), [0, 3, 6]);
        assert_eq!(cells(4), [0, 2, 5, 7]);
        assert_eq!(cells(13), [0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9]);
    }

    #[test]
    fn patches_cover_every_scale() {
        let patches = Patches::of(picture(300, 451), &MusiqConfig::default()).unwrap();
        // 224×149, 384×255 and 451×300, in patches of 32.
        let counts = [5 * 7, 8 * 12, 10 * 15];
        assert_eq!(patches.pixels.dims(), [counts.iter().sum(), 3, 32, 32]);
        for (scale, count) in counts.into_iter().enumerate() {
            assert_eq!(patches.scales.iter().filter(|&&of| of == scale).count(), count);
        }
        assert_eq!(patches.cells.len(), patches.scales.len());
    }

    #[test]
    fn a_patch_is_the_part_of_the_picture_that_it_is_called_after() {
        let picture = picture(40, 70);
        let (patches, counts) = cut(picture.clone(), 32);
        assert_eq!(counts, [2, 3]);
        // 24 rows of padding, 12 of them above; 26 columns, 13 of them on the left.
        let inside = picture.slice([0..1, 0..3, 20..40, 19..51]);
        let patch = patches.clone().slice([4..5, 0..3, 0..20, 0..32]);
        inside.into_data().assert_eq(&patch.into_data(), true);
        assert_eq!(patches.slice([4..5, 0..3, 20..32, 0..32]).abs().sum().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn a_line_of_pixels_is_too_narrow() {
        let message = Patches::of(picture(1, 500), &MusiqConfig::default()).unwrap_err().to_string();
        assert!(message.contains("500×1 is too narrow"), "{message}");
        assert!(Patches::of(picture(1, 1), &MusiqConfig::default()).is_ok());
    }
}
