//! Costs of layers and of the blocks of [`nn`](crate::nn).

use spire_kernels::TOO_MANY_SCORES;

use super::{Cost, Size};
use crate::nn::transformer::TransformerConfig;

/// Accumulates the costs of the layers of one part.
///
/// `tracked` means that a layer's input depends on trained weights, so that the backward pass continues through it.
pub(super) struct Counter {
    /// Whether the part's weights are trained.
    trained: bool,
    pub cost: Cost,
}

/// Number of positions of a feature map.
pub(super) fn area([height, width]: Size) -> usize {
    height * width
}

/// The size after a convolution of stride 2.
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

    /// Counts a tensor of `count` elements that the backward pass reads.
    pub fn keep(&mut self, count: usize) {
        self.cost.kept += count as u64;
    }

    /// The costs of `part`, which gradient checkpointing recomputes from its input of `input` elements.
    fn recomputed(&mut self, input: usize, part: impl FnOnce(&mut Self)) {
        let before = self.cost.kept;
        part(self);
        let kept = self.cost.kept - before;
        self.cost.recomputed += kept.saturating_sub(input as u64);
        self.cost.largest_recomputed = self.cost.largest_recomputed.max(kept);
    }

    /// SiLU before a convolution. SiLU keeps its input and its sigmoid; the convolution keeps SiLU's output. Gradient
    /// checkpointing keeps only the input.
    pub fn silu(&mut self, count: usize) {
        self.keep(3 * count);
        self.cost.recomputed += 2 * count as u64;
    }

    /// Matrix products of `multiply_adds` in total; as many again for each of the `gradients` operands with a gradient.
    fn product(&mut self, multiply_adds: usize, gradients: usize) {
        let operations = 2 * multiply_adds as u64;
        self.cost.forward += operations;
        self.cost.backward += operations * gradients as u64;
    }

    /// The input is not counted here: several layers may share it.
    pub fn linear(&mut self, positions: usize, from: usize, to: usize, bias: bool, tracked: bool) {
        self.parameters(from * to + if bias { to } else { 0 });
        self.product(positions * from * to, usize::from(self.trained) + usize::from(tracked));
    }

    /// A convolution with a bias and a `kernel` × `kernel` kernel and `positions` outputs; as [`Self::linear`].
    pub fn conv(&mut self, kernel: usize, positions: usize, from: usize, to: usize, tracked: bool) {
        self.parameters(to);
        self.linear(positions, kernel * kernel * from, to, false, tracked);
    }

    /// A normalisation before a layer that keeps `read` tensors of its size. It keeps the deviation from the mean, and
    /// the normalised values if its weight is trained.
    fn norm(&mut self, channels: usize, positions: usize, read: usize, tracked: bool) {
        self.parameters(2 * channels);
        if tracked || self.trained {
            self.keep((1 + usize::from(self.trained) + read) * channels * positions);
        }
    }

    /// Normalisation, SiLU, 3×3 convolution. SiLU keeps its input and its sigmoid; a convolution keeps its input even
    /// if it is frozen.
    pub fn norm_silu_conv(&mut self, positions: usize, from: usize, to: usize, tracked: bool) {
        self.norm(from, positions, 3, tracked);
        self.conv(3, positions, from, to, tracked || self.trained);
    }

    /// [`ResnetBlock2d`](crate::nn::resnet::ResnetBlock2d). Its input is not counted here: it may be counted already.
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
        // Queries times keys, and the attention weights times values.
        self.product(queries * keys * width, gradients);
        self.product(queries * keys * width, gradients);
        if (query_tracked || key_tracked) && queries * keys >= TOO_MANY_SCORES {
            // Recomputed: the scores are not kept. The output is counted by the next layer if that is trained.
            self.keep(2 * keys * width + if self.trained { 1 } else { 2 } * queries * width);
        } else if query_tracked || key_tracked {
            // A product keeps an operand if the other has a gradient; the softmax keeps its exponentials.
            self.keep(heads * queries * keys * (1 + usize::from(key_tracked)));
            self.keep(2 * keys * width + if key_tracked { queries * width } else { 0 });
        }
    }

    /// Self-attention ([`Attention`](crate::nn::attention::Attention)) over `positions`.
    pub fn self_attention(&mut self, positions: usize, width: usize, heads: usize, bias: [bool; 2], tracked: bool) {
        let [qkv_bias, out_bias] = bias;
        for _ in 0..3 {
            self.linear(positions, width, width, qkv_bias, tracked);
        }
        self.attend(positions, positions, width, heads, [tracked; 2]);
        self.attention_out(positions, width, out_bias, tracked);
    }

    /// Cross-attention to a prompt of `tokens`, which has no gradient.
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

    /// A normalisation before linear layers, which keep their input only if they are trained.
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

    /// GEGLU keeps both halves and the gate, and their product if the next layer is trained.
    fn gated_feed_forward(&mut self, positions: usize, width: usize, tracked: bool) {
        let inner = 4 * width;
        self.linear(positions, width, 2 * inner, true, tracked);
        self.linear(positions, inner, width, true, tracked);
        if tracked {
            self.keep((3 + usize::from(self.trained)) * positions * inner);
        }
    }
}
