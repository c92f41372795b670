//! Attention within windows on the CPU: windows are read from the map and written back in place, so that shifts and
//! partitions copy nothing.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::kernels::softmax::exponentials;
use crate::windows::Windows;

/// The output `[batch, height, width, heads · depth]` for `qkv` `[batch, height, width, 3 · heads · depth]` and `table`
/// `[(2 · side − 1)², heads]`.
pub fn forward(qkv: &[f32], [batch, height, width, triple]: [usize; 4], table: &[f32], windows: Windows) -> Vec<f32> {
    let Windows { side, shift, heads, .. } = windows;
    let channels = triple / 3;
    let map = Map { height, width, channels, windows };
    let biases = biases(table, windows);
    let masks = masks(windows);
    let mut attended = vec![0.0; batch * height * width * channels];
    let mut rows: Vec<&mut [f32]> = attended.chunks_mut(width * channels).collect();
    // A band of windows starts `shift` rows below its place in the map.
    rows.chunks_mut(height).for_each(|image| image.rotate_left(shift));
    let bands = height / side;
    rows.par_chunks_mut(side).enumerate().for_each_init(Scratch::default, |scratch, (band, rows)| {
        let (image, band) = (band / bands, band % bands);
        let qkv = &qkv[image * height * width * triple..][..height * width * triple];
        for column in 0..width / side {
            map.gather(qkv, band, column, &mut scratch.tokens);
            let mask = &masks[usize::from(band + 1 == bands)][usize::from((column + 1) * side == width)];
            let mask = (shift > 0).then_some(mask.as_slice());
            for head in 0..heads {
                map.head(scratch, head, &biases[head * windows.scores()..][..windows.scores()], mask);
            }
            map.scatter(&scratch.attended, rows, column);
        }
    });
    attended
}

/// The sizes of a feature map, and its windows.
#[derive(Clone, Copy)]
struct Map {
    height: usize,
    width: usize,
    channels: usize,
    windows: Windows,
}

/// One window's tokens `[side², 3 · channels]`, the scores of one head, and the output `[side², channels]`.
#[derive(Default)]
struct Scratch {
    tokens: Vec<f32>,
    scores: Vec<f32>,
    attended: Vec<f32>,
}

impl Map {
    fn gather(&self, qkv: &[f32], band: usize, column: usize, tokens: &mut Vec<f32>) {
        let Windows { side, shift, .. } = self.windows;
        let triple = 3 * self.channels;
        tokens.clear();
        for row in 0..side {
            let y = (band * side + row + shift) % self.height;
            for token in 0..side {
                let x = (column * side + token + shift) % self.width;
                tokens.extend_from_slice(&qkv[(y * self.width + x) * triple..][..triple]);
            }
        }
    }

    /// The attention of one head of the gathered window.
    fn head(&self, scratch: &mut Scratch, head: usize, bias: &[f32], mask: Option<&[f32]>) {
        let Windows { side, heads, .. } = self.windows;
        let (count, channels) = (side * side, self.channels);
        let depth = channels / heads;
        let Scratch { tokens, scores, attended } = scratch;
        let of = |which: usize| {
            let tokens = MatRef::from_row_major_slice(tokens, count, 3 * channels);
            tokens.subcols(which * channels + head * depth, depth)
        };
        scores.resize(count * count, 0.0);
        let product = MatMut::from_row_major_slice_mut(scores, count, count);
        matmul(product, Accum::Replace, of(0), of(1).transpose(), (depth as f32).powf(-0.5), Par::Seq);
        Arch::new().dispatch(BiasedSoftmax { scores, bias, mask, keys: count });
        attended.resize(count * channels, 0.0);
        let place = MatMut::from_row_major_slice_mut(attended, count, channels).subcols_mut(head * depth, depth);
        let shares = MatRef::from_row_major_slice(scores, count, count);
        matmul(place, Accum::Replace, shares, of(2), 1.0, Par::Seq);
    }

    fn scatter(&self, attended: &[f32], rows: &mut [&mut [f32]], column: usize) {
        let Windows { side, shift, .. } = self.windows;
        for (row, attended) in rows.iter_mut().zip(attended.chunks_exact(side * self.channels)) {
            for (token, attended) in attended.chunks_exact(self.channels).enumerate() {
                let x = (column * side + token + shift) % self.width;
                row[x * self.channels..][..self.channels].copy_from_slice(attended);
            }
        }
    }
}

/// The bias of each head's scores, `[heads, side², side²]`.
fn biases(table: &[f32], windows: Windows) -> Vec<f32> {
    let distances: Vec<usize> = windows.distances().collect();
    (0..windows.heads)
        .flat_map(|head| distances.iter().map(move |distance| table[distance * windows.heads + head]))
        .collect()
}

/// The bias against keys of another region, for windows that are `[not last, last]` among the rows, and in each of these
/// `[not last, last]` among the columns.
fn masks(windows: Windows) -> [[Vec<f32>; 2]; 2] {
    [false, true].map(|last_row| [false, true].map(|last_column| windows.mask(last_row, last_column)))
}

/// The softmax of each row of scores plus bias and mask. A struct, because a closure is not always inlined, and only
/// inlined code is vectorised.
struct BiasedSoftmax<'a> {
    scores: &'a mut [f32],
    bias: &'a [f32],
    mask: Option<&'a [f32]>,
    keys: usize,
}

impl NullaryFnOnce for BiasedSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let add =
            |scores: &mut [f32], bias: &[f32]| scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        add(self.scores, self.bias);
        if let Some(mask) = self.mask {
            add(self.scores, mask);
        }
        for row in self.scores.chunks_exact_mut(self.keys) {
            let factor = 1.0 / exponentials(row, 1.0);
            for share in row {
                *share *= factor;
            }
        }
    }
}
