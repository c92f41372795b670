//! StableSR's decoder: that of the VAE, whose features are changed by those that the encoder computes from the degraded
//! picture ("controllable feature wrapping").

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::feedforward::rrdbnet::Rrdb;
use crate::nn::resnet::{ResnetBlock2d, ResnetConfig};
use crate::vae::Vae;
use crate::weights::single_file::vae;
use crate::weights::{Precision, Tensors, fill};

/// What starts the names of the fusion layers; the number of the resolution follows.
const FUSION: &str = "decoder.fusion_layer_";

/// The decoder.
#[derive(Debug)]
pub struct Decoder {
    vae: Vae,
    fusion: Fusion,
}

/// A layer for each resolution except the outermost and the innermost, from the outer to the inner.
#[derive(Module, Debug)]
struct Fusion {
    layers: Vec<FusionLayer>,
}

/// What is added to the decoder's features, computed from both.
#[derive(Module, Debug)]
struct FusionLayer {
    encode_enc_1: ResnetBlock2d,
    encode_enc_2: Vec<Rrdb>,
    encode_enc_3: ResnetBlock2d,
}

impl Decoder {
    /// From a checkpoint's tensors, by the official names; the sizes are those of the tensors.
    ///
    /// # Errors
    /// The tensors are not those of such a decoder.
    pub fn from_tensors(tensors: &Tensors, device: &Device) -> Result<Self> {
        let context = || format!("{} is not a checkpoint of StableSR's decoder", tensors.origin());
        let autoencoder = tensors.renamed(|name| (!name.starts_with(FUSION)).then(|| name.to_owned()));
        let (config, autoencoder) = vae(&autoencoder).with_context(context)?;
        let layers = config.block_out_channels.len().saturating_sub(2);
        let fusion = tensors.renamed(|name| {
            let (number, rest) = name.strip_prefix(FUSION)?.split_once('.')?;
            let rest = rest.replace(".conv_out.", ".conv_shortcut.");
            Some(format!("layers.{}.{rest}", number.parse::<usize>().ok()?.checked_sub(1)?))
        });
        let sizes = (0..layers).map(|i| FusionLayer::new(&fusion, i, device)).collect::<Result<_>>();
        let layers = sizes.with_context(context)?;
        Ok(Self {
            vae: fill(Vae::new(&config, device)?, autoencoder, Precision::F32)?,
            fusion: fill(Fusion { layers }, fusion, Precision::F32)?,
        })
    }

    /// The picture of `latent` `[batch, channels, height, width]` (without a scaling factor), of the size of the degraded
    /// `picture` `[batch, 3, 8·height, 8·width]`, both in \[-1, 1\]. `weight` is that of the degraded picture's features.
    pub fn decode(&self, latent: Tensor<4>, picture: Tensor<4>, weight: f64) -> Tensor<4> {
        let layers = &self.fusion.layers;
        let mut features = self.vae.features(picture, 1 + layers.len());
        features.remove(0);
        self.vae.decode_changed(latent, |level, x| match level.checked_sub(1) {
            Some(i) if i < layers.len() => x.clone() + layers[i].forward(features[i].clone(), x).mul_scalar(weight),
            _ => x,
        })
    }
}

impl FusionLayer {
    /// The layer of the sizes of `tensors`.
    fn new(tensors: &Tensors, i: usize, device: &Device) -> Result<Self> {
        let layer = format!("layers.{i}");
        let [channels, both, ..] = tensors.shape::<4>(&format!("{layer}.encode_enc_1.conv1.weight"))?;
        ensure!(both == 2 * channels, "{layer}.encode_enc_1 reads {both} channels, twice {channels} are expected");
        let [growth, ..] = tensors.shape::<4>(&format!("{layer}.encode_enc_2.0.rdb1.conv1.weight"))?;
        let blocks = (0..).take_while(|j| tensors.has(&format!("{layer}.encode_enc_2.{j}."))).count();
        let config = ResnetConfig {
            time_width: None,
            groups: 32,
            epsilon: 1e-6,
            output_scale_factor: 1.0,
            structure_channels: None,
        };
        let resnet = |from| ResnetBlock2d::new(from, channels, config, device);
        Ok(Self {
            encode_enc_1: resnet(both),
            encode_enc_2: (0..blocks).map(|_| Rrdb::new(channels, growth, device)).collect(),
            encode_enc_3: resnet(channels),
        })
    }

    fn forward(&self, encoder: Tensor<4>, decoder: Tensor<4>) -> Tensor<4> {
        let x = self.encode_enc_1.forward(Tensor::cat(vec![encoder, decoder], 1), None);
        let x = self.encode_enc_2.iter().fold(x, |x, block| block.forward(x));
        self.encode_enc_3.forward(x, None)
    }
}
