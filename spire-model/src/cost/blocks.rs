//! Costs of layers and of the blocks of [`nn`](crate::nn).

use spire_kernels::TOO_MANY_SCORES;

use super::{Cost, Size};
use crate::nn::transformer::TransformerConfig;

/// Adds up the layers of one part.
///
/// `tracked` says of a layer's input that it depends on what is trained, so that the backward pass goes on through it.
pub(super) struct Counter {
    /// Whether the part's weights are trained.
    trained: bool,
    pub cost: Cost,
}

/// Positions of a feature map.
pub(super) fn area([height, width]: Size) -> usize {
    height * width
}

/// A size after a convolution of stride 2.
pub(super) fn halved(size: Size) -> Size {
    size.map(|side| side.div_ceil(2))
}

impl Counter {
    pub fn frozen() -> Self {
        Self { trained: false, cost: Cost::default() }
    }

    pub fn trained() -> Self {
        Self { trained: true, cost: Cost::default() }
    }

    pub fn parameters(&mut self, count: usize) {
        self.cost.parameters += count as u64;
    }

    /// A tensor of `count` numbers that the backward pass reads.
    pub fn keep(&mut self, count: usize) {
        self.cost.kept += count as u64;
    }

    /// What `part` counts, with gradient checkpointing computed again from its input of `input` numbers.
    fn recomputed(&mut self, input: usize, part: impl FnOnce(&mut Self)) {
        let before = self.cost.kept;
        part(self);
        let kept = self.cost.kept - before;
        self.cost.recomputed += kept.saturating_sub(input as u64);
        self.cost.largest_recomputed = self.cost.largest_recomputed.max(kept);
    }

    /// SiLU in front of a convolution: it keeps its input and the sigmoid of it, the convolution what comes out, of which
    /// gradient checkpointing keeps the input.
    pub fn silu(&mut self, count: usize) {
        self.keep(3 * count);
        self.cost.recomputed += 2 * count as u64;
    }

    /// Products of matrices with `multiply_adds` in all; as many again for the gradient of each of `gradients` operands.
    fn product(&mut self, multiply_adds: usize, gradients: usize) {
        let operations = 2 * multiply_adds as u64;
        self.cost.forward += operations;
        self.cost.backward += operations * gradients as u64;
    }

    /// Neither keeps its input: several layers may read one.
    pub fn linear(&mut self, positions: usize, from: usize, to: usize, bias: bool, tracked: bool) {
        self.parameters(from * to + if bias { to } else { 0 });
        self.product(positions * from * to, usize::from(self.trained) + usize::from(tracked));
    }

    /// A convolution with `kernel` rows and columns, and a bias, that gives `positions`; as [`Self::linear`].
    pub fn conv(&mut self, kernel: usize, positions: usize, from: usize, to: usize, tracked: bool) {
        self.parameters(to);
        self.linear(positions, kernel * kernel * from, to, false, tracked);
    }

    /// A normalisation, in front of something that keeps `read` tensors of its size; the deviation from the mean is kept, and
    /// what is multiplied by a weight that is trained.
    fn norm(&mut self, channels: usize, positions: usize, read: usize, tracked: bool) {
        self.parameters(2 * channels);
        if tracked || self.trained {
            self.keep((1 + usize::from(self.trained) + read) * channels * positions);
        }
    }

    /// Normalisation, SiLU, 3×3 convolution. SiLU keeps its input and the sigmoid of it, a convolution its input, frozen or not.
    pub fn norm_silu_conv(&mut self, positions: usize, from: usize, to: usize, tracked: bool) {
        self.norm(from, positions, 3, tracked);
        self.conv(3, positions, from, to, tracked || self.trained);
    }

    /// [`ResnetBlock2d`](crate::nn::resnet::ResnetBlock2d). Of its input nothing is kept here: it may be kept already.
    pub fn resnet(&mut self, positions: usize, from: usize, to: usize, time_width: Option<usize>, tracked: bool) {
        self.recomputed(0, |part| {
            part.norm_silu_conv(positions, from, to, tracked);
            if let Some(width) = time_width {
                part.linear(1, width, to, true, part.trained);
            }
            part.norm_silu_conv(positions, to, to, tracked);
            if from != to {
                part.conv(1, positions, from, to, tracked);
            }
        });
    }

    /// The two products of attention between `queries` and `keys` positions.
    fn attend(&mut self, queries: usize, keys: usize, width: usize, heads: usize, tracked: [bool; 2]) {
        let [query_tracked, key_tracked] = tracked;
        let (query_tracked, key_tracked) = (query_tracked || self.trained, key_tracked || self.trained);
        let gradients = usize::from(query_tracked) + usize::from(key_tracked);
        // Queries with keys, and weights, which both of these have a part in, with values.
        self.product(queries * keys * width, gradients);
        self.product(queries * keys * width, gradients);
        if (query_tracked || key_tracked) && queries * keys >= TOO_MANY_SCORES {
            // Computed again: of the scores nothing is kept. The output is kept already where the layer behind is trained.
            self.keep(2 * keys * width + if self.trained { 1 } else { 2 } * queries * width);
        } else if query_tracked || key_tracked {
            // A product keeps an operand where the other has a gradient, the softmax its exponentials.
            self.keep(heads * queries * keys * (1 + usize::from(key_tracked)));
            self.keep(2 * keys * width + if key_tracked { queries * width } else { 0 });
        }
    }

    /// [`Attention`](crate::nn::attention::Attention) of `positions` to themselves.
    pub fn self_attention(&mut self, positions: usize, width: usize, heads: usize, bias: [bool; 2], tracked: bool) {
        let [qkv_bias, out_bias] = bias;
        for _ in 0..3 {
            self.linear(positions, width, width, qkv_bias, tracked);
        }
        self.attend(positions, positions, width, heads, [tracked; 2]);
        self.attention_out(positions, width, out_bias, tracked);
    }

    /// The same to a text of `tokens`, which has no gradient.
    fn cross_attention(
        &mut self,
        positions: usize,
        width: usize,
        tokens: usize,
        config: TransformerConfig,
        tracked: bool,
    ) {
        self.linear(positions, width, width, false, tracked);
        for _ in 0..2 {
            self.linear(tokens, config.context_width, width, false, false);
        }
        self.attend(positions, tokens, width, config.heads, [tracked, false]);
        self.attention_out(positions, width, true, tracked);
    }

    fn attention_out(&mut self, positions: usize, width: usize, bias: bool, tracked: bool) {
        self.linear(positions, width, width, bias, tracked || self.trained);
        if self.trained {
            self.keep(positions * width);
        }
    }

    /// A normalisation in front of linear layers, which keep their input only where they are trained.
    pub fn layer_norm(&mut self, positions: usize, width: usize, tracked: bool) {
        self.norm(width, positions, usize::from(self.trained), tracked);
    }

    /// [`Transformer2d`](crate::nn::transformer::Transformer2d).
    pub fn transformer(
        &mut self,
        positions: usize,
        width: usize,
        tokens: usize,
        config: TransformerConfig,
        tracked: bool,
    ) {
        let live = tracked || self.trained;
        let convolution = !config.linear_projection;
        self.recomputed(positions * width, |part| {
            part.norm(width, positions, usize::from(part.trained || convolution), tracked);
            part.linear(positions, width, width, true, live);
            for _ in 0..config.layers {
                part.layer_norm(positions, width, live);
                part.self_attention(positions, width, config.heads, [false, true], live);
                part.layer_norm(positions, width, live);
                part.cross_attention(positions, width, tokens, config, live);
                part.layer_norm(positions, width, live);
                part.gated_feed_forward(positions, width, live);
            }
            part.linear(positions, width, width, true, live);
            if part.trained || (convolution && live) {
                part.keep(positions * width);
            }
        });
    }

    /// GEGLU: both halves and the gate are kept, and their product where the layer behind is trained.
    fn gated_feed_forward(&mut self, positions: usize, width: usize, tracked: bool) {
        let inner = 4 * width;
        self.linear(positions, width, 2 * inner, true, tracked);
        self.linear(positions, inner, width, true, tracked);
        if tracked {
            self.keep((3 + usize::from(self.trained)) * positions * inner);
        }
    }
}
