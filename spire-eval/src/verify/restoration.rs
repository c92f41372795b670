//! Cases of restoration by other authors.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use spire_data::Picture;
use spire_model::diffbir::{IrControlNet, SecondStage, Settings, Version};
use spire_model::feedforward::{Network, NetworkKind};
use spire_model::restore::ColourFix;
use spire_model::unet::UNet;
use spire_model::vae::Vae;
use spire_model::weights::single_file::SingleFile;
use spire_model::weights::{Precision, Tensors, fill};

use super::case::{Case, Outputs, Worst, compare, expected_names, relative_maximum};
use crate::arrays::Array;

/// `in.image` in \[0, 1\] to `out.image` and, where it is there, `out.tiled`, restored in tiles.
pub fn network(case: &Case, kind: NetworkKind, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let network = Network::load(kind, &case.weights()?, device)?;
    let image: Tensor<4> = arrays.tensor("in.image", device)?;
    let ([_, channels, ..], expected) = (image.dims(), network.channels());
    ensure!(channels == expected, "in.image has {channels} channels, the network {expected}");
    let restored = case.timed(|| network.forward(image.clone()));
    let mut outputs = Outputs::from([("out.image".to_owned(), restored.into())]);
    if expected_names(&arrays).any(|name| name == "out.tiled") {
        outputs.insert("out.tiled".to_owned(), network.restore_tensor(image, case.tiling()?)?.into());
    }
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `settings.json` of a case.
#[derive(Deserialize)]
struct DiffBirSettings {
    version: Version,
    settings: Settings,
}

/// `in.sample`, `in.hint`, `in.timestep` and `in.prompt` to the control features `out.control.{i}`, the middle block's last;
/// and `in.condition`, the first stage's picture in \[0, 1\], with `in.prompt`, `in.negative` and the noise `in.noise.{i}` to
/// `out.image`, with the wavelet colour correction, clamped.
pub fn diffbir(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let DiffBirSettings { version, settings } = case.json("settings.json")?;
    let base = SingleFile::new(Tensors::at(&folder.join("base"))?)?;
    let (unet_config, unet) = base.unet()?;
    let (vae_config, vae) = base.vae()?;
    let unet = fill(UNet::new(&unet_config, device)?, unet, Precision::F32)?;
    let vae = fill(Vae::new(&vae_config, device)?, vae, Precision::F32)?;
    let control = IrControlNet::load(&folder.join("control"), device)?;
    let latent = |name: &str| arrays.tensor::<4>(name, device);
    let states = |name: &str| arrays.tensor::<3>(name, device);

    let (hint, prompt) = (latent("in.hint")?, states("in.prompt")?);
    let features = control.residuals(latent("in.sample")?, hint, arrays.tensor("in.timestep", device)?, &prompt);
    let all = features.down.into_iter().chain([features.mid]).enumerate();
    let mut outputs: Outputs = all.map(|(i, feature)| (format!("out.control.{i}"), feature.into())).collect();

    let condition = latent("in.condition")?;
    let mut noises = vec![];
    while let Ok(noise) = latent(&format!("in.noise.{}", noises.len())) {
        noises.push(noise);
    }
    let mut noises = noises.into_iter();
    let mut missing = false;
    let mut noise = |shape| {
        noises.next().filter(|noise| noise.dims() == shape).unwrap_or_else(|| {
            missing = true;
            Tensor::zeros(shape, device)
        })
    };
    let stage =
        SecondStage { version, unet: &unet, vae: &vae, scaling_factor: vae_config.scaling_factor, control: &control };
    let negative = states("in.negative")?;
    let restored = case.timed(|| stage.restore(condition.clone(), prompt, negative, &settings, &mut noise))?;
    ensure!(!missing && noises.next().is_none(), "in.noise.* are not as many, or not of the shape, that are needed");
    let corrected = ColourFix::Wavelet.apply(unclamped(&restored)?, &unclamped(&condition)?);
    let values = corrected.data.iter().map(|&value| value.into()).collect();
    outputs.insert("out.image".to_owned(), Array { shape: restored.dims().to_vec(), values });
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// One picture `[1, 3, height, width]`.
fn unclamped(picture: &Tensor<4>) -> Result<Picture> {
    let [batch, channels, height, width] = picture.dims();
    ensure!(batch == 1 && channels == 3, "a picture has shape {:?}, expected one of 3 channels", picture.dims());
    let values = picture.clone().into_data().try_to_vec::<f32>().ok().context("pictures are float32")?;
    Ok(Picture { width, height, data: values.into() })
}
