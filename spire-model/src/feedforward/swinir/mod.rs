//! SwinIR (Liang et al. 2021, <https://arxiv.org/abs/2108.10257>): restoration by Swin transformer blocks, in all published
//! configurations, and with pixels folded into channels as in DiffBIR's first stage.

mod config;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Device, Tensor, TensorData};
use spire_kernels::conv2d;

use config::{Reconstruction, SwinIrConfig};

use super::architecture::{FeedForward, fill};
use crate::nn::pixels::{Mirror, doubled, extend, pixel_shuffle, pixel_unshuffle};
use crate::nn::resnet::{conv1x1, conv3x3};
use crate::nn::swin::{SwinBlock, alternating};
use crate::weights::Tensors;

/// Mean colour of the training pictures, subtracted from the input.
const MEAN: [f32; 3] = [0.4488, 0.4371, 0.4040];

/// A SwinIR.
#[derive(Module, Debug)]
pub struct SwinIr {
    conv_first: Conv2d,
    patch_embed: PatchEmbed,
    layers: Vec<Layer>,
    norm: LayerNorm,
    conv_after_body: Vec<Conv2d>,
    conv_before_upsample: Option<Conv2d>,
    upsample: Vec<Conv2d>,
    conv_up: Vec<Conv2d>,
    conv_hr: Option<Conv2d>,
    conv_last: Option<Conv2d>,
    #[module(skip)]
    config: SwinIrConfig,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    norm: LayerNorm,
}

/// Swin blocks and a convolution, beside the identity.
#[derive(Module, Debug)]
struct Layer {
    blocks: Vec<SwinBlock>,
    conv: Vec<Conv2d>,
}

impl SwinIr {
    /// From a checkpoint's tensors, by their official names; see [`SwinIrConfig::recognise`].
    ///
    /// # Errors
    /// The tensors are not those of a SwinIR.
    pub fn from_tensors(tensors: &Tensors, device: &Device) -> Result<Self> {
        let config = SwinIrConfig::recognise(tensors)
            .with_context(|| format!("{} is not a checkpoint of a SwinIR", tensors.origin()))?;
        let network = Self::new(config, device);
        fill(network, tensors.renamed(|name| Some(field(name))))
    }

    fn new(config: SwinIrConfig, device: &Device) -> Self {
        let SwinIrConfig { channels, unshuffle, width, inner, window, .. } = config;
        let conv = |from, to| conv3x3(from, to, device);
        let norm = || LayerNormConfig::new(width).init(device);
        let residual = || match config.three_convs {
            false => vec![conv(width, width)],
            true => vec![conv(width, width / 4), conv1x1(width / 4, width / 4, device), conv(width / 4, width)],
        };
        let layer = |(&depth, &heads): (&usize, &usize)| Layer {
            blocks: (0..depth).map(|i| SwinBlock::new(width, inner, alternating(i, window, heads), device)).collect(),
            conv: residual(),
        };
        let network = Self {
            conv_first: conv(channels * unshuffle.pow(2), width),
            patch_embed: PatchEmbed { norm: norm() },
            layers: config.depths.iter().zip(&config.heads).map(layer).collect(),
            norm: norm(),
            conv_after_body: residual(),
            conv_before_upsample: None,
            upsample: vec![],
            conv_up: vec![],
            conv_hr: None,
            conv_last: None,
            config: config.clone(),
        };
        match config.reconstruction {
            Reconstruction::PixelShuffle { features, factors } => Self {
                conv_before_upsample: Some(conv(width, features)),
                upsample: factors.iter().map(|factor| conv(features, features * factor.pow(2))).collect(),
                conv_last: Some(conv(features, channels)),
                ..network
            },
            Reconstruction::PixelShuffleDirect { factor } => {
                Self { upsample: vec![conv(width, channels * factor.pow(2))], ..network }
            }
            Reconstruction::NearestConv { features, doublings } => Self {
                conv_before_upsample: Some(conv(width, features)),
                conv_up: (0..doublings).map(|_| conv(features, features)).collect(),
                conv_hr: Some(conv(features, features)),
                conv_last: Some(conv(features, channels)),
                ..network
            },
            Reconstruction::Residual => Self { conv_last: Some(conv(width, channels)), ..network },
        }
    }

    /// The Swin layers: `[batch, width, height, width]` to the same shape.
    fn deep(&self, x: Tensor<4>) -> Tensor<4> {
        // The blocks have channels last.
        let x = self.patch_embed.norm.forward(x.permute([0, 2, 3, 1]));
        let x = self.layers.iter().fold(x, |x, layer| {
            let blocks = layer.blocks.iter().fold(x.clone(), |x, block| block.forward(x));
            residual(&layer.conv, blocks.permute([0, 3, 1, 2])).permute([0, 2, 3, 1]) + x
        });
        self.norm.forward(x).permute([0, 3, 1, 2])
    }

    /// The picture, from the features and the network's input.
    fn reconstruct(&self, features: Tensor<4>, input: Tensor<4>) -> Tensor<4> {
        let optional = |conv: &Option<Conv2d>, x| match conv {
            Some(conv) => conv2d(conv, x),
            None => x,
        };
        let before = |x| leaky_relu(optional(&self.conv_before_upsample, x), 0.01);
        match &self.config.reconstruction {
            Reconstruction::PixelShuffle { factors, .. } => {
                let steps = self.upsample.iter().zip(factors);
                let enlarged =
                    steps.fold(before(features), |x, (conv, &factor)| pixel_shuffle(conv2d(conv, x), factor));
                optional(&self.conv_last, enlarged)
            }
            Reconstruction::PixelShuffleDirect { factor } => {
                pixel_shuffle(conv2d(&self.upsample[0], features), *factor)
            }
            Reconstruction::NearestConv { .. } => {
                let enlarged =
                    self.conv_up.iter().fold(before(features), |x, conv| leaky_relu(conv2d(conv, doubled(x)), 0.2));
                optional(&self.conv_last, leaky_relu(optional(&self.conv_hr, enlarged), 0.2))
            }
            Reconstruction::Residual => input + optional(&self.conv_last, features),
        }
    }
}

impl FeedForward for SwinIr {
    fn channels(&self) -> usize {
        self.config.channels
    }

    fn enlarged(&self) -> [usize; 2] {
        [self.config.reconstruction.factor(), self.config.unshuffle]
    }

    fn side_multiple(&self) -> usize {
        self.config.window * self.config.unshuffle
    }

    /// A window is added even to a side that is a multiple already.
    fn padded(&self, side: usize) -> usize {
        (side / self.side_multiple() + 1) * self.side_multiple()
    }

    /// Sides that are no [multiples](Self::side_multiple) are extended by their reflection, and cropped.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let SwinIrConfig { unshuffle, range, .. } = self.config;
        let size = [height, width].map(|side| side.next_multiple_of(self.side_multiple()));
        let mean = match channels {
            3 => Tensor::from_data(TensorData::new(MEAN.to_vec(), [1, 3, 1, 1]), &x.device()),
            _ => Tensor::zeros([1, 1, 1, 1], &x.device()),
        };
        let x = (extend(x, size, Mirror::WithoutEdge) - mean.clone()).mul_scalar(range);
        let folded = if unshuffle == 1 { x.clone() } else { pixel_unshuffle(x.clone(), unshuffle) };
        let shallow = conv2d(&self.conv_first, folded);
        let deep = residual(&self.conv_after_body, self.deep(shallow.clone())) + shallow;
        let restored = self.reconstruct(deep, x).div_scalar(range) + mean;
        let [factor, folded] = self.enlarged();
        restored.slice([0..batch, 0..channels, 0..height * factor / folded, 0..width * factor / folded])
    }
}

/// The convolutions at the end of a layer, with leaky rectifiers between them.
fn residual(convs: &[Conv2d], x: Tensor<4>) -> Tensor<4> {
    let (first, others) = convs.split_first().expect("a layer ends in a convolution");
    others.iter().fold(conv2d(first, x), |x, conv| conv2d(conv, leaky_relu(x, 0.2)))
}

/// The field of a tensor. The official code numbers layers without weights too: in `conv.0`, `conv.2`, `conv.4` every other
/// one is a rectifier.
fn field(name: &str) -> String {
    let name = name.replace(".residual_group.", ".").replace("conv_first.1.", "conv_first.");
    let name = name.replace("conv_before_upsample.0.", "conv_before_upsample.");
    let parts: Vec<&str> = name.split('.').collect();
    let halved = |number: &str| number.parse::<usize>().map_or(number.to_owned(), |number| (number / 2).to_string());
    match parts.as_slice() {
        ["layers", layer, "conv", number, kind] => format!("layers.{layer}.conv.{}.{kind}", halved(number)),
        ["layers", layer, "conv", kind] => format!("layers.{layer}.conv.0.{kind}"),
        ["conv_after_body", kind] => format!("conv_after_body.0.{kind}"),
        [list @ ("conv_after_body" | "upsample"), number, kind] => format!("{list}.{}.{kind}", halved(number)),
        ["conv_up1", kind] => format!("conv_up.0.{kind}"),
        ["conv_up2", kind] => format!("conv_up.1.{kind}"),
        ["conv_up3", kind] => format!("conv_up.2.{kind}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Formula, parameters};

    /// The official name of a field.
    fn official(field: &str, config: &SwinIrConfig) -> String {
        let numbered = |list: &str, number: &str, kind: &str| match config.three_convs {
            true => format!("{list}.{}.{kind}", 2 * number.parse::<usize>().unwrap()),
            false => format!("{list}.{kind}"),
        };
        match field.split('.').collect::<Vec<_>>().as_slice() {
            ["layers", layer, "blocks", rest @ ..] => {
                format!("layers.{layer}.residual_group.blocks.{}", rest.join("."))
            }
            ["layers", layer, "conv", number, kind] => numbered(&format!("layers.{layer}.conv"), number, kind),
            ["conv_after_body", number, kind] => numbered("conv_after_body", number, kind),
            ["conv_first", kind] if config.unshuffle > 1 => format!("conv_first.1.{kind}"),
            ["conv_before_upsample", kind] => format!("conv_before_upsample.0.{kind}"),
            ["upsample", number, kind] => format!("upsample.{}.{kind}", 2 * number.parse::<usize>().unwrap()),
            ["conv_up", number, kind] => format!("conv_up{}.{kind}", number.parse::<usize>().unwrap() + 1),
            _ => field.to_owned(),
        }
    }

    fn checkpoint(
        config: &SwinIrConfig,
        change: impl FnOnce(&mut std::collections::BTreeMap<String, Vec<usize>>),
    ) -> Tensors {
        let network = SwinIr::new(config.clone(), &Device::flex());
        let named = parameters(&network).into_iter().map(|p| (official(&p.name, config), p.shape));
        let mut tensors = named.collect();
        change(&mut tensors);
        let formula = Formula { formula: "splitmix64".into(), seed: 1, gain: 1.0, tensors };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.formula.json");
        std::fs::write(&file, serde_json::to_vec(&formula).unwrap()).unwrap();
        Tensors::open(&file).unwrap()
    }

    /// The published sizes: of the medium network, with this reconstruction.
    fn medium(channels: usize, window: usize, reconstruction: Reconstruction) -> SwinIrConfig {
        SwinIrConfig {
            channels,
            unshuffle: 1,
            width: 180,
            depths: vec![6; 6],
            heads: vec![6; 6],
            window,
            inner: 360,
            three_convs: false,
            reconstruction,
            range: if window == 7 { 255.0 } else { 1.0 },
        }
    }

    #[test]
    fn every_published_configuration_is_recognised() {
        let classical = |factors: &[usize]| Reconstruction::PixelShuffle { features: 64, factors: factors.to_vec() };
        let real = |doublings| Reconstruction::NearestConv { features: 64, doublings };
        let mut published = vec![
            medium(3, 8, real(1)),
            medium(3, 8, real(2)),
            medium(1, 8, Reconstruction::Residual),
            medium(3, 8, Reconstruction::Residual),
            medium(1, 7, Reconstruction::Residual),
            medium(3, 7, Reconstruction::Residual),
        ];
        published.extend([&[2][..], &[3], &[2, 2], &[2, 2, 2]].map(|factors| medium(3, 8, classical(factors))));
        published.extend([2, 3, 4].map(|factor| SwinIrConfig {
            width: 60,
            depths: vec![6; 4],
            heads: vec![6; 4],
            inner: 120,
            ..medium(3, 8, Reconstruction::PixelShuffleDirect { factor })
        }));
        let large =
            SwinIrConfig { width: 240, depths: vec![6; 9], heads: vec![8; 9], inner: 480, ..medium(3, 8, real(2)) };
        published.push(SwinIrConfig { three_convs: true, ..large });
        // DiffBIR's.
        published.push(SwinIrConfig { unshuffle: 8, depths: vec![6; 8], heads: vec![6; 8], ..medium(3, 8, real(3)) });
        for config in published {
            let tensors = checkpoint(&config, |_| ());
            assert_eq!(SwinIrConfig::recognise(&tensors).unwrap(), config);
            let fields = tensors.renamed(|name| Some(field(name)));
            let network = SwinIr::new(config.clone(), &Device::flex());
            assert!(parameters(&network).iter().all(|parameter| fields.get(&parameter.name).is_some()), "{config:?}");
        }
    }

    #[test]
    fn shapes_that_contradict_each_other_are_an_error() {
        let small = SwinIrConfig {
            width: 12,
            depths: vec![1],
            heads: vec![2],
            inner: 24,
            ..medium(3, 8, Reconstruction::Residual)
        };
        let message = |name: &str, shape: &[usize]| {
            let tensors = checkpoint(&small, |tensors| drop(tensors.insert(name.to_owned(), shape.to_vec())));
            format!("{:#}", SwinIr::from_tensors(&tensors, &Device::flex()).unwrap_err())
        };
        let table = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table";
        assert!(message(table, &[224, 2]).contains("no window has 224"));
        assert!(message(table, &[225, 5]).contains("among 5 heads"));
        assert!(message(table, &[225, 0]).contains("among 0 heads"));
        assert!(message("conv_first.weight", &[12, 4, 3, 3]).contains("of 4 channels"));
        assert!(message("conv_first.weight", &[12, 3]).contains("4 dimensions"));
        assert!(message("surprise", &[1]).contains("surprise"));
        let missing = checkpoint(&small, |tensors| drop(tensors.remove("norm.bias")));
        let message = format!("{:#}", SwinIr::from_tensors(&missing, &Device::flex()).unwrap_err());
        assert!(message.contains("1 missing: norm.bias"), "{message}");
    }
}
