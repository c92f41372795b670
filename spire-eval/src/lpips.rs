//! Learned perceptual image patch similarity (Zhang et al., 2018), on AlexNet or VGG16.

use std::path::Path;

use anyhow::{Result, ensure};
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use spire_kernels::convolve;
use spire_model::weights::Tensors;

use crate::public_weights::PublicWeights;

/// A convolution of the network with its surroundings.
struct Layer {
    name: &'static str,
    stride: usize,
    padding: usize,
    /// Window side of the max pooling (stride 2) before it, if any.
    pool: Option<usize>,
    /// Whether its features are compared.
    compared: bool,
}

const fn layer(name: &'static str, stride: usize, padding: usize, pool: Option<usize>, compared: bool) -> Layer {
    Layer { name, stride, padding, pool, compared }
}

const ALEXNET: [Layer; 5] = [
    layer("net.slice1.0", 4, 2, None, true),
    layer("net.slice2.3", 1, 2, Some(3), true),
    layer("net.slice3.6", 1, 1, Some(3), true),
    layer("net.slice4.8", 1, 1, None, true),
    layer("net.slice5.10", 1, 1, None, true),
];

const VGG16: [Layer; 13] = [
    layer("net.slice1.0", 1, 1, None, false),
    layer("net.slice1.2", 1, 1, None, true),
    layer("net.slice2.5", 1, 1, Some(2), false),
    layer("net.slice2.7", 1, 1, None, true),
    layer("net.slice3.10", 1, 1, Some(2), false),
    layer("net.slice3.12", 1, 1, None, false),
    layer("net.slice3.14", 1, 1, None, true),
    layer("net.slice4.17", 1, 1, Some(2), false),
    layer("net.slice4.19", 1, 1, None, false),
    layer("net.slice4.21", 1, 1, None, true),
    layer("net.slice5.24", 1, 1, Some(2), false),
    layer("net.slice5.26", 1, 1, None, false),
    layer("net.slice5.28", 1, 1, None, true),
];

/// ImageNet's means and deviations for colours in \[-1, 1\].
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// The network that provides the features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backbone {
    /// `LPIPS(net="alex")`
    #[default]
    #[serde(rename = "alex")]
    AlexNet,
    /// `LPIPS(net="vgg")`
    #[serde(rename = "vgg")]
    Vgg16,
}

impl Backbone {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AlexNet => "AlexNet",
            Self::Vgg16 => "VGG16",
        }
    }

    /// The published weights: torchvision's network and the package's channel weights.
    pub fn public_weights(self) -> [PublicWeights; 2] {
        let importances = "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1";
        match self {
            Self::AlexNet => [
                PublicWeights {
                    file: "alexnet-owt-7be5be79.pth",
                    url: "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
                },
                PublicWeights { file: "alex.pth", url: importances },
            ],
            Self::Vgg16 => [
                PublicWeights {
                    file: "vgg16-397923af.pth",
                    url: "https://download.pytorch.org/models/vgg16-397923af.pth",
                },
                PublicWeights { file: "vgg.pth", url: importances },
            ],
        }
    }

    fn layers(self) -> &'static [Layer] {
        match self {
            Self::AlexNet => &ALEXNET,
            Self::Vgg16 => &VGG16,
        }
    }

    /// Minimum side in pixels: a smaller picture has no pixels after the last pooling.
    fn least_side(self) -> usize {
        match self {
            Self::AlexNet => 31,
            Self::Vgg16 => 16,
        }
    }
}

/// The `lpips` package's `LPIPS`.
#[derive(Debug)]
pub struct Lpips {
    backbone: Backbone,
    shift: Tensor<4>,
    scale: Tensor<4>,
    stages: Vec<Stage>,
}

/// One convolution, with the weights of its channels if its features are compared.
#[derive(Debug)]
struct Stage {
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    padding: usize,
    pool: Option<usize>,
    importance: Option<Tensor<4>>,
}

impl Lpips {
    /// Reads the weights in `folder` under the package's names, which also determine the network.
    ///
    /// # Errors
    /// The weights can't be read, a tensor is missing, or shapes do not fit.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let weights = Tensors::in_folder(folder)?;
        let backbone = if weights.has("net.slice5.28.") { Backbone::Vgg16 } else { Backbone::AlexNet };
        let constant = |name: &str| -> Result<Tensor<4>> {
            let tensor = weights.tensor::<4>(name, device)?;
            ensure!(tensor.dims() == [1, 3, 1, 1], "{name} has shape {:?}, expected [1, 3, 1, 1]", tensor.dims());
            Ok(tensor)
        };
        let [shift, scale] = ["scaling_layer.shift", "scaling_layer.scale"].map(constant);
        Self::new(backbone, &weights, &weights, [shift?, scale?], device)
    }

    /// Reads the two files of [`Backbone::public_weights`].
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_public(backbone: Backbone, network: &Path, importances: &Path, device: &Device) -> Result<Self> {
        // `features.7.weight` of torchvision is the layer that the package calls `net.slice2.7.weight`.
        let slice = |layer: &str| {
            let names = backbone.layers().iter().map(|layer| layer.name);
            names.into_iter().find(|name| name.rsplit('.').next() == Some(layer))
        };
        let network = Tensors::open(network)?.renamed(|name| {
            let (layer, part) = name.strip_prefix("features.")?.split_once('.')?;
            Some(format!("{}.{part}", slice(layer)?))
        });
        let constants = [SHIFT, SCALE].map(|values| Tensor::<1>::from_floats(values, device).reshape([1, 3, 1, 1]));
        Self::new(backbone, &network, &Tensors::open(importances)?, constants, device)
    }

    fn new(
        backbone: Backbone,
        weights: &Tensors,
        importances: &Tensors,
        [shift, scale]: [Tensor<4>; 2],
        device: &Device,
    ) -> Result<Self> {
        let mut channels = 3;
        let mut stages = Vec::new();
        let mut compared_before = 0;
        for &Layer { name, stride, padding, pool, compared } in backbone.layers() {
            let weight = weights.tensor::<4>(&format!("{name}.weight"), device)?;
            let bias = weights.tensor::<1>(&format!("{name}.bias"), device)?;
            let [channels_out, channels_in, height, width] = weight.dims();
            ensure!(
                channels_in == channels && height == width && height >= 2 * padding,
                "{name}.weight has shape {:?}, expected {channels} channels in and a square kernel",
                weight.dims()
            );
            ensure!(
                bias.dims() == [channels_out],
                "{name}.bias has shape {:?}, expected [{channels_out}]",
                bias.dims()
            );
            let importance = match compared {
                true => {
                    let name = format!("lin{compared_before}.model.1.weight");
                    let importance = importances.tensor::<4>(&name, device)?;
                    ensure!(
                        importance.dims() == [1, channels_out, 1, 1],
                        "{name} has shape {:?}, expected [1, {channels_out}, 1, 1]",
                        importance.dims()
                    );
                    compared_before += 1;
                    Some(importance)
                }
                false => None,
            };
            channels = channels_out;
            stages.push(Stage { weight, bias, stride, padding, pool, importance });
        }
        Ok(Self { backbone, shift, scale, stages })
    }

    /// The network that provides the features.
    pub fn backbone(&self) -> Backbone {
        self.backbone
    }

    /// The distance of each pair of pictures: `x` and `y` `[batch, 3, height, width]` in \[-1, 1\] to `[batch]`; 0 for
    /// equal pictures.
    ///
    /// # Errors
    /// The shapes differ, do not have three channels, or a side is too short: below 31 pixels for AlexNet, below 16 for
    /// VGG16.
    pub fn distance(&self, x: Tensor<4>, y: Tensor<4>) -> Result<Tensor<1>> {
        let [batch, channels, height, width] = x.dims();
        ensure!(x.dims() == y.dims(), "pictures of different shape: {:?} and {:?}", x.dims(), y.dims());
        ensure!(channels == 3, "pictures of {channels} channels, expected 3");
        let least = self.backbone.least_side();
        ensure!(
            height >= least && width >= least,
            "pictures of {width}×{height} are too small: at least {least}×{least} pixels are needed"
        );
        let mut features = [x, y].map(|pictures| (pictures - self.shift.clone()) / self.scale.clone());
        let mut distance = Tensor::zeros([batch], &features[0].device());
        for stage in &self.stages {
            features = features.map(|features| stage.forward(features));
            let Some(importance) = &stage.importance else { continue };
            let [x, y] = features.each_ref().map(|features| unit_length(features.clone()));
            let difference = (x - y).square() * importance.clone();
            distance = distance + difference.sum_dim(1).mean_dim(2).mean_dim(3).reshape([batch]);
        }
        Ok(distance)
    }
}

impl Stage {
    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        if let Some(side) = self.pool {
            x = max_pool2d(x, MaxPoolOptions::new([side, side]).with_stride([2, 2]));
        }
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1, 1], 1);
        relu(convolve(x, self.weight.clone(), Some(self.bias.clone()), options))
    }
}

/// Scales each pixel's features to unit length.
fn unit_length(features: Tensor<4>) -> Tensor<4> {
    let length = features.clone().square().sum_dim(1).sqrt();
    features / (length + 1e-10)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    /// Weights with the right names and 4 channels per stage, from a short repeating pattern.
    fn weights(backbone: Backbone) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![
            ("scaling_layer.shift".to_owned(), vec![1, 3, 1, 1]),
            ("scaling_layer.scale".to_owned(), vec![1, 3, 1, 1]),
        ];
        let mut compared = 0;
        for (i, layer) in backbone.layers().iter().enumerate() {
            let channels = if i == 0 { 3 } else { 4 };
            let kernel = if layer.stride == 4 { 11 } else { 2 * layer.padding + 1 };
            tensors.push((format!("{}.weight", layer.name), vec![4, channels, kernel, kernel]));
            tensors.push((format!("{}.bias", layer.name), vec![4]));
            if layer.compared {
                tensors.push((format!("lin{compared}.model.1.weight"), vec![1, 4, 1, 1]));
                compared += 1;
            }
        }
        tensors
    }

    fn load(tensors: &[(String, Vec<usize>)]) -> Result<Lpips> {
        Lpips::load(save(tensors).path(), &Device::default())
    }

    fn save(tensors: &[(String, Vec<usize>)]) -> tempfile::TempDir {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, shape)| {
                // Kernels of both signs; biases, scales and importances above 0.
                let kernel = shape.len() == 4 && shape[0] > 1;
                let offset = if kernel { -4.0 } else { 1.0 };
                let count = shape.iter().product::<usize>();
                (0..count).flat_map(|i| (((i * 7 % 11) as f32 + offset) * 0.1).to_le_bytes()).collect()
            })
            .collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape), bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        folder
    }

    fn pictures(height: usize, width: usize) -> Tensor<4> {
        Tensor::random([2, 3, height, width], Distribution::Uniform(-1.0, 1.0), &Device::default())
    }

    #[test]
    fn the_distance_is_symmetric_and_zero_for_equal_pictures() {
        for (backbone, least) in [(Backbone::AlexNet, 31), (Backbone::Vgg16, 16)] {
            let lpips = load(&weights(backbone)).unwrap();
            assert_eq!(lpips.backbone(), backbone);
            let (x, y) = (pictures(least, 40), pictures(least, 40));
            let distance = |x: &Tensor<4>, y: &Tensor<4>| -> Vec<f32> {
                lpips.distance(x.clone(), y.clone()).unwrap().into_data().iter().collect()
            };
            assert_eq!(distance(&x, &x), [0.0, 0.0]);
            let xy = distance(&x, &y);
            assert!(xy.iter().all(|&distance| distance > 1e-4), "{xy:?}");
            assert_eq!(xy, distance(&y, &x));
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let lpips = load(&weights(Backbone::AlexNet)).unwrap();
        let message = |x, y| lpips.distance(x, y).unwrap_err().to_string();
        assert!(message(pictures(32, 32), pictures(32, 33)).contains("different shape"));
        assert!(message(pictures(30, 32), pictures(30, 32)).contains("32×30 are too small"));
        let grey = pictures(32, 32).narrow(1, 0, 1);
        assert!(message(grey.clone(), grey).contains("1 channels"));
    }

    #[test]
    fn the_two_public_files_are_the_package_s_weights() {
        for backbone in [Backbone::AlexNet, Backbone::Vgg16] {
            let mut all = weights(backbone);
            let whole = save(&all);
            all.retain(|(name, _)| !name.starts_with("scaling_layer"));
            let (importances, network): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|(name, _)| name.starts_with("lin"));
            let renamed = |(name, shape): (String, Vec<usize>)| {
                let [.., layer, part] = name.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
                (format!("features.{layer}.{part}"), shape)
            };
            // The test weights depend on a tensor's role, not on its name.
            let network = save(&network.into_iter().map(renamed).collect::<Vec<_>>());
            let importances = save(&importances);
            let file = |folder: &tempfile::TempDir| folder.path().join("model.safetensors");
            let device = Device::default();
            let public = Lpips::load_public(backbone, &file(&network), &file(&importances), &device).unwrap();
            let mut package = Lpips::load(whole.path(), &device).unwrap();
            package.shift = public.shift.clone();
            package.scale = public.scale.clone();
            let (x, y) = (pictures(40, 40), pictures(40, 40));
            let distance = |lpips: &Lpips| lpips.distance(x.clone(), y.clone()).unwrap().into_data();
            assert_eq!(distance(&public), distance(&package));
        }
    }

    #[test]
    fn the_error_names_weights_that_do_not_fit() {
        for i in 0..weights(Backbone::AlexNet).len() {
            let mut fewer = weights(Backbone::AlexNet);
            let (name, _) = fewer.remove(i);
            assert!(load(&fewer).unwrap_err().to_string().contains(&name));
            let mut odd = weights(Backbone::AlexNet);
            odd[i].1[0] += 1;
            assert!(load(&odd).is_err(), "{name}");
        }
    }
}
