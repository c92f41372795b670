//! MUSIQ's transformer over the patches of all scales and one token for the picture.

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use spire_kernels::gelu;
use spire_model::nn::attention::attend;

use super::MusiqConfig;

/// pyiqa's `TransformerEncoder`, without the masked tokens, which no other token attends to.
#[derive(Module, Debug)]
pub struct TransformerEncoder {
    posembed_input: AddHashSpatialPositionEmbs,
    scaleembed_input: AddScaleEmbs,
    cls: Param<Tensor<3>>,
    encoder_norm: LayerNorm,
    transformer: Vec<TransformerBlock>,
}

#[derive(Module, Debug)]
struct AddHashSpatialPositionEmbs {
    position_emb: Param<Tensor<3>>,
}

#[derive(Module, Debug)]
struct AddScaleEmbs {
    scale_emb: Param<Tensor<2>>,
}

impl TransformerEncoder {
    pub fn new(config: &MusiqConfig, device: &Device) -> Self {
        let (width, cells) = (config.hidden_size, config.spatial_pos_grid_size.pow(2));
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        Self {
            posembed_input: AddHashSpatialPositionEmbs { position_emb: normal.init([1, cells, width], device) },
            scaleembed_input: AddScaleEmbs { scale_emb: normal.init([config.scales(), width], device) },
            cls: Initializer::Zeros.init([1, 1, width], device),
            encoder_norm: layer_norm(width, device),
            transformer: (0..config.num_layers).map(|_| TransformerBlock::new(config, device)).collect(),
        }
    }

    /// Patches `[patches, hidden_size]`, and the cell and the scale of each, to the picture's token `[hidden_size]`.
    pub fn forward(&self, patches: Tensor<2>, cells: &[usize], scales: &[usize]) -> Tensor<1> {
        let device = patches.device();
        let indices = |of: &[usize]| {
            let values: Vec<i64> = of.iter().map(|&index| index as i64).collect();
            let count = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &device)
        };
        let positions = self.posembed_input.position_emb.val().squeeze_dim::<2>(0).select(0, indices(cells));
        let scales = self.scaleembed_input.scale_emb.val().select(0, indices(scales));
        let x = Tensor::cat(vec![self.cls.val(), (patches + positions + scales).unsqueeze()], 1);
        let x = self.transformer.iter().fold(x, |x, block| block.forward(x));
        let [_, _, width] = x.dims();
        self.encoder_norm.forward(x.slice([0..1, 0..1, 0..width])).reshape([width])
    }
}

fn layer_norm(width: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(width).with_epsilon(1e-6).init(device)
}

#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attention: MultiHeadAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct MultiHeadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl TransformerBlock {
    fn new(config: &MusiqConfig, device: &Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let (width, inner) = (config.hidden_size, config.mlp_dim);
        Self {
            norm1: layer_norm(width, device),
            attention: MultiHeadAttention {
                query: linear(width, width),
                key: linear(width, width),
                value: linear(width, width),
                out: linear(width, width),
                heads: config.num_heads,
            },
            norm2: layer_norm(width, device),
            mlp: Mlp { fc1: linear(width, inner), fc2: linear(inner, width) },
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let MultiHeadAttention { query, key, value, out, heads } = &self.attention;
        let normed = self.norm1.forward(x.clone());
        let [query, key, value] = [query, key, value].map(|projection| projection.forward(normed.clone()));
        let x = x + out.forward(attend(query, key, value, *heads, None));
        let inner = gelu(self.mlp.fc1.forward(self.norm2.forward(x.clone())));
        x + self.mlp.fc2.forward(inner)
    }
}
