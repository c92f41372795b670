//! Attention within the windows of a feature map, as in the Swin transformer (Liu et al. 2021,
//! <https://arxiv.org/abs/2103.14030>, section 3.2), from Burn's operators.

use burn::tensor::{Int, Tensor, TensorData, activation};

/// How a feature map is split into windows. Height and width of the map are multiples of `side`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Windows {
    /// Side of a window in positions.
    pub side: usize,
    /// Rows and columns by which the map is rolled up and left before it is split; below `side`.
    pub shift: usize,
    /// Number of heads.
    pub heads: usize,
    /// What is added to the score of a key in another region: parts of a shifted window that meet only because the map
    /// wraps around are not neighbours.
    pub elsewhere: f32,
}

impl Windows {
    /// Number of scores of a window and head.
    pub(crate) fn scores(self) -> usize {
        self.side.pow(4)
    }

    /// The row of the table of relative positions for each query and key, `[side², side²]`.
    pub(crate) fn distances(self) -> impl Iterator<Item = usize> {
        let side = self.side;
        // Counted from the smallest.
        let along = move |query: usize, key: usize| query + side - 1 - key;
        pairs(side)
            .map(move |(query, key)| along(query / side, key / side) * (2 * side - 1) + along(query % side, key % side))
    }

    /// The bias against keys of another region, `[side², side²]`, in a window that is the last of its column or row.
    pub(crate) fn mask(self, last_row: bool, last_column: bool) -> Vec<f32> {
        let border = self.side - self.shift;
        let region =
            |token: usize| (last_row && token / self.side >= border, last_column && token % self.side >= border);
        pairs(self.side).map(|(query, key)| if region(query) == region(key) { 0.0 } else { self.elsewhere }).collect()
    }

    /// [`crate::window_attention`] by operators.
    pub(crate) fn attend(self, qkv: Tensor<4>, table: Tensor<2>) -> Tensor<4> {
        let Self { side, shift, heads, .. } = self;
        let [batch, height, width, triple] = qkv.dims();
        let (rows, columns, tokens, channels) = (height / side, width / side, side * side, triple / 3);
        let roll = |x: Tensor<4>, by: isize| if by == 0 { x } else { x.roll(&[by, by], &[1, 2]) };
        let windows = roll(qkv, -(shift as isize))
            .reshape([batch, rows, side, columns, side, triple])
            .permute([0, 1, 3, 2, 4, 5])
            .reshape([batch * rows * columns, tokens, triple]);
        let [query, key, value] = windows
            .chunk(3, 2)
            .try_into()
            .map(|parts: [Tensor<3>; 3]| parts.map(|x| x.reshape([0, tokens as i32, heads as i32, -1]).swap_dims(1, 2)))
            .expect("three times the width is three chunks");
        let scale = ((channels / heads) as f64).powf(-0.5);
        let scores = query.mul_scalar(scale).matmul(key.swap_dims(2, 3));
        let scores = scores + self.bias(table, [batch, rows, columns]);
        let attended = activation::softmax(scores, 3).matmul(value).swap_dims(1, 2);
        let attended = attended
            .reshape([batch, rows, columns, side, side, channels])
            .permute([0, 1, 3, 2, 4, 5])
            .reshape([batch, height, width, channels]);
        roll(attended, shift as isize)
    }

    /// The bias of all scores, `[batch · rows · columns, heads, side², side²]`, or one for all windows.
    fn bias(self, table: Tensor<2>, [batch, rows, columns]: [usize; 3]) -> Tensor<4> {
        let tokens = self.side * self.side;
        let device = table.device();
        let distances: Vec<i64> = self.distances().map(|distance| distance as i64).collect();
        let distances = Tensor::<1, Int>::from_data(TensorData::new(distances, [tokens * tokens]), &device);
        let relative =
            table.select(0, distances).reshape([tokens, tokens, self.heads]).permute([2, 0, 1]).unsqueeze::<4>();
        if self.shift == 0 {
            return relative;
        }
        let windows = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let masks: Vec<f32> =
            windows.flat_map(|(row, column)| self.mask(row + 1 == rows, column + 1 == columns)).collect();
        let masks = TensorData::new(masks, [rows * columns, 1, tokens, tokens]);
        (relative + Tensor::<4>::from_data(masks, &device)).repeat_dim(0, batch)
    }
}

fn pairs(side: usize) -> impl Iterator<Item = (usize, usize)> {
    let tokens = side * side;
    (0..tokens).flat_map(move |query| (0..tokens).map(move |key| (query, key)))
}
