//! Cases of restoration by other authors.

use std::path::Path;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use spire_model::diffbir::{self, FirstStage, IrControlNet, SecondStage, finished};
use spire_model::feedforward::{Network, NetworkKind};
use spire_model::guidance::PromptStates;
use spire_model::stablesr::{self, Decoder, Networks, structure_encoder};
use spire_model::unet::UNet;
use spire_model::vae::Vae;
use spire_model::weights::single_file::SingleFile;
use spire_model::weights::{Precision, Tensors, fill};

use super::case::{Case, Outputs, Worst, compare, expected_names, relative_maximum};
use crate::arrays::Arrays;

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

/// `settings.json` of a case of DiffBIR.
#[derive(Deserialize)]
struct DiffBirSettings {
    version: diffbir::Version,
    first_stage: NetworkKind,
    settings: diffbir::Settings,
}

/// `in.sample`, `in.hint`, `in.timestep` and `in.prompt` to the control features `out.control.{i}`, the middle block's last;
/// `in.image`, the degraded picture in \[0, 1\], to the first stage's `out.condition`; and with `in.prompt`, `in.negative` and
/// the noise `in.noise.{i}` to `out.image`, with the wavelet colour correction, clamped.
pub fn diffbir(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let DiffBirSettings { version, first_stage, settings } = case.json("settings.json")?;
    let Prior { unet, vae, scaling_factor } = Prior::load(&folder.join("base"), device)?;
    let control = IrControlNet::load(&folder.join("control"), device)?;
    let first = Network::load(first_stage, &folder.join("first_stage"), device)?;
    let first = FirstStage::new(first_stage, first);
    let maps = |name: &str| arrays.tensor::<4>(name, device);
    let states = |name: &str| arrays.tensor::<3>(name, device);

    let prompt = states("in.prompt")?;
    let features = control.residuals(maps("in.sample")?, maps("in.hint")?, timestep(&arrays, device)?, &prompt);
    let all = features.down.into_iter().chain([features.mid]).enumerate();
    let mut outputs: Outputs = all.map(|(i, feature)| (format!("out.control.{i}"), feature.into())).collect();

    let size = restored_size(&arrays)?;
    // The official code tiles the first stage in its own way.
    let whole = diffbir::Settings { tile: 0, ..settings.clone() };
    let condition = case.timed(|| first.restore(one_picture(&arrays, device)?, size, &whole))?;
    outputs.insert("out.condition".to_owned(), condition.clone().into());
    let stage = SecondStage { version, unet: &unet, vae: &vae, scaling_factor, control: &control };
    let prompts = PromptStates { conditional: prompt, unconditional: Some(states("in.negative")?) };
    let mut noise = GivenNoise::read(&arrays, device);
    let restored =
        case.timed(|| stage.restore(condition.clone(), &prompts, &settings, &mut |shape| noise.draw(shape)))?;
    noise.finish()?;
    outputs.insert("out.image".to_owned(), finished(restored, &condition, settings.colour_fix, size).into());
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `settings.json` of a case of StableSR.
#[derive(Deserialize)]
struct StableSrSettings {
    settings: stablesr::Settings,
}

/// `in.latent` and `in.timestep` to the structure encoder's maps `out.structure.{i}`; with `in.sample` and `in.context` to the
/// UNet's `out.sample`; `in.latent` and `in.picture` in \[-1, 1\] to the decoder's `out.decoded`; and `in.image`, the degraded
/// picture in \[0, 1\], with the noise `in.noise.{i}` to `out.image`.
pub fn stablesr(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let StableSrSettings { settings } = case.json("settings.json")?;
    let Prior { unet, vae, scaling_factor } = Prior::load(&folder.join("base"), device)?;
    let structure = structure_encoder(&folder.join("base"), device)?;
    let decoder = Decoder::from_tensors(&Tensors::at(&folder.join("decoder"))?, device)?;
    let maps = |name: &str| arrays.tensor::<4>(name, device);

    let (latent, context) = (maps("in.latent")?, arrays.tensor::<3>("in.context", device)?);
    let features = structure.forward(latent.clone(), timestep(&arrays, device)?);
    let denoised = unet.forward_modulated(maps("in.sample")?, timestep(&arrays, device)?, &context, &features);
    let decoded = decoder.decode(latent, maps("in.picture")?, settings.decoder_weight);
    let features = features.into_iter().enumerate();
    let mut outputs: Outputs = features.map(|(i, map)| (format!("out.structure.{i}"), map.into())).collect();
    outputs.insert("out.sample".to_owned(), denoised.into());
    outputs.insert("out.decoded".to_owned(), decoded.into());

    let networks = Networks::new(&unet, &vae, scaling_factor, &structure, &decoder);
    let (image, size) = (one_picture(&arrays, device)?, restored_size(&arrays)?);
    let mut noise = GivenNoise::read(&arrays, device);
    let draw = &mut |shape| noise.draw(shape);
    let restored = case.timed(|| networks.restore(image, size, &context, &settings, draw))?;
    noise.finish()?;
    outputs.insert("out.image".to_owned(), restored.into());
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// A single file's UNet and VAE: a case gives the prompts' states.
struct Prior {
    unet: UNet,
    vae: Vae,
    scaling_factor: f64,
}

impl Prior {
    fn load(folder: &Path, device: &Device) -> Result<Self> {
        let file = SingleFile::new(Tensors::at(folder)?)?;
        let (unet_config, unet) = file.unet()?;
        let (vae_config, vae) = file.vae()?;
        Ok(Self {
            unet: fill(UNet::new(&unet_config, device)?, unet, Precision::F32)?,
            vae: fill(Vae::new(&vae_config, device)?, vae, Precision::F32)?,
            scaling_factor: vae_config.scaling_factor,
        })
    }
}

fn timestep(arrays: &Arrays, device: &Device) -> Result<Tensor<1>> {
    arrays.tensor("in.timestep", device)
}

/// `in.image`, one picture.
fn one_picture(arrays: &Arrays, device: &Device) -> Result<Tensor<4>> {
    let image: Tensor<4> = arrays.tensor("in.image", device)?;
    let [batch, channels, ..] = image.dims();
    ensure!(batch == 1 && channels == 3, "in.image has shape {:?}, expected one picture", image.dims());
    Ok(image)
}

/// Height and width of `out.image`.
fn restored_size(arrays: &Arrays) -> Result<[usize; 2]> {
    let ([_, _, height, width], _) = arrays.shaped::<4>("out.image")?;
    Ok([height, width])
}

/// The noise `in.noise.{i}`, in order.
struct GivenNoise {
    noises: std::vec::IntoIter<Tensor<4>>,
    device: Device,
    /// Whether noise was drawn that is not there.
    missing: bool,
}

impl GivenNoise {
    fn read(arrays: &Arrays, device: &Device) -> Self {
        let of = |i: usize| arrays.tensor(&format!("in.noise.{i}"), device).ok();
        let noises: Vec<Tensor<4>> = (0..).map_while(of).collect();
        Self { noises: noises.into_iter(), device: device.clone(), missing: false }
    }

    fn draw(&mut self, shape: [usize; 4]) -> Tensor<4> {
        let next = self.noises.next().filter(|noise| noise.dims() == shape);
        self.missing |= next.is_none();
        next.unwrap_or_else(|| Tensor::zeros(shape, &self.device))
    }

    /// Checks that all of it was drawn, and nothing else.
    fn finish(mut self) -> Result<()> {
        let fits = !self.missing && self.noises.next().is_none();
        ensure!(fits, "in.noise.* are not as many, or not of the shape, that are needed");
        Ok(())
    }
}
