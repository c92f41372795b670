//! Cases of networks.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use spire_model::clip::{ClipText, ClipTextConfig, ClipVision, ClipVisionConfig};
use spire_model::control::{Control, ControlConfig, ControlFeatures};
use spire_model::spire::Spire;
use spire_model::unet::{UNet, UNetConfig};
use spire_model::vae::{Vae, VaeConfig};

use super::case::{Case, Outputs, Worst, compare, relative_maximum};
use crate::arrays::{Array, Arrays};

/// `in.sample`, `in.timestep` and `in.context` to `out.sample`.
pub fn unet(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let config = UNetConfig::read(&folder)?;
    let unet = UNet::load(&folder, device)?;
    let sample = sample(&arrays, &config, device)?;
    let timestep = timestep(&arrays, &sample, device)?;
    let context = context("in.context", &arrays, &config, &sample, device)?;
    let output = case.timed(|| unet.forward(sample, timestep, context));
    compare(&arrays, &Outputs::from([("out.sample".to_owned(), output.into())]), &[], relative_maximum)
}

/// As [`unet`], with the residuals `in.down.{i}` and `in.mid`.
pub fn controlled_unet(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let config = UNetConfig::read(&folder)?;
    let unet = UNet::load(&folder, device)?;
    let sample = sample(&arrays, &config, device)?;
    let timestep = timestep(&arrays, &sample, device)?;
    let context = context("in.context", &arrays, &config, &sample, device)?;

    let skips = config.skip_channels();
    let given = arrays.names().filter(|name| name.starts_with("in.down.")).count();
    ensure!(given == skips.len(), "{given} tensors in.down.*, but the network has {} skips", skips.len());
    let residual = |name: &str, channels: usize| -> Result<Tensor<4>> {
        let residual: Tensor<4> = arrays.tensor(name, device)?;
        check_batch(name, residual.dims()[0], &sample)?;
        check_channels(name, &residual, channels)?;
        Ok(residual)
    };
    let down = skips
        .iter()
        .enumerate()
        .map(|(i, &channels)| residual(&format!("in.down.{i}"), channels))
        .collect::<Result<Vec<_>>>()?;
    let deepest = config.block_out_channels.last().context("config.json: no block_out_channels")?;
    let mid = residual("in.mid", *deepest)?;

    let output = case.timed(|| unet.forward_controlled(sample, timestep, context, down, mid));
    compare(&arrays, &Outputs::from([("out.sample".to_owned(), output.into())]), &[], relative_maximum)
}

/// `in.sample`, `in.timestep`, `in.context` and `in.condition` to `out.down.{i}` and `out.mid`.
pub fn controlnet(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let config = ControlConfig::read(&folder)?;
    let control = Control::load(&folder, device)?;
    let sample = sample(&arrays, &config.encoder, device)?;
    let timestep = timestep(&arrays, &sample, device)?;
    let context = context("in.context", &arrays, &config.encoder, &sample, device)?;
    let condition = condition("in.condition", &arrays, &config, &sample, device)?;
    let residuals =
        case.timed(|| control.residuals(control.features(sample, timestep, context, control.embed_values(condition))));
    compare(&arrays, &features("out.down", "out.mid", residuals), &[], relative_maximum)
}

/// `in.sample`, `in.timestep`, `in.semantic_context`, `in.restoration_context` and `in.degraded` to `out.sample`, and the
/// control encoder's features to whichever of `out.control.{i}` and `out.control.mid` are given.
pub fn spire(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let config = UNetConfig::read(&folder.join("unet"))?;
    let control_config = ControlConfig::read(&folder.join("control"))?;
    let spire = Spire::load(&folder, device)?;
    let sample = sample(&arrays, &config, device)?;
    let timestep = timestep(&arrays, &sample, device)?;
    let semantic = context("in.semantic_context", &arrays, &config, &sample, device)?;
    let restoration = context("in.restoration_context", &arrays, &control_config.encoder, &sample, device)?;
    let degraded = condition("in.degraded", &arrays, &control_config, &sample, device)?;

    let embedded = spire.control.embed_values(degraded.clone());
    let control = spire.control.features(sample.clone(), timestep.clone(), restoration.clone(), embedded);
    let mut outputs = features("out.control", "out.control.mid", control);
    let output = case.timed(|| spire.predict(sample, timestep, semantic, restoration, degraded));
    outputs.insert("out.sample".to_owned(), output.into());
    compare(&arrays, &outputs, &["out.control."], relative_maximum)
}

/// `in.image` to `out.mean` and `out.logvar`, `in.latent` to `out.image`.
pub fn vae(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let config = VaeConfig::read(&folder)?;
    let vae = Vae::load(&folder, device)?;
    let (image, latent): (Tensor<4>, Tensor<4>) =
        (arrays.tensor("in.image", device)?, arrays.tensor("in.latent", device)?);
    check_channels("in.image", &image, config.in_channels)?;
    check_channels("in.latent", &latent, config.latent_channels)?;
    let (mean, logvar) = case.timed(|| vae.encode(image));
    let image = case.timed(|| vae.decode(latent));
    let outputs = Outputs::from([
        ("out.mean".to_owned(), mean.into()),
        ("out.logvar".to_owned(), logvar.into()),
        ("out.image".to_owned(), image.into()),
    ]);
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `in.input_ids` to `out.last_hidden_state`, `out.penultimate_hidden_state` and, from a model with a projection,
/// `out.text_embeds`.
pub fn clip_text(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let config = ClipTextConfig::read(&folder)?;
    let clip = ClipText::load(&folder, device)?;
    let ([_, length], ids) = arrays.shaped::<2>("in.input_ids")?;
    let longest = config.max_position_embeddings;
    ensure!(length <= longest, "in.input_ids has texts of {length} tokens, the network takes {longest}");
    let vocabulary = 0.0..config.vocab_size as f64;
    ensure!(ids.iter().all(|id| vocabulary.contains(id)), "in.input_ids holds ids outside {vocabulary:?}");
    let ids = arrays.integers("in.input_ids", device)?;
    let output = case.timed(|| clip.forward(ids));
    let mut outputs = Outputs::from([
        ("out.last_hidden_state".to_owned(), output.last_hidden_state.into()),
        ("out.penultimate_hidden_state".to_owned(), output.penultimate_hidden_state.into()),
    ]);
    if let Some(embeddings) = output.text_embeds {
        outputs.insert("out.text_embeds".to_owned(), embeddings.into());
    }
    compare(&arrays, &outputs, &[], relative_maximum)
}

/// `in.pixel_values` to `out.image_embeds`.
pub fn clip_vision(case: &Case, device: &Device) -> Result<Worst> {
    let arrays = case.arrays()?;
    let folder = case.weights()?;
    let config = ClipVisionConfig::read(&folder)?;
    let clip = ClipVision::load(&folder, device)?;
    let pixels: Tensor<4> = arrays.tensor("in.pixel_values", device)?;
    let expected = [config.num_channels, config.image_size, config.image_size];
    ensure!(
        pixels.dims()[1..] == expected,
        "in.pixel_values has shape {:?}, expected {expected:?} each",
        pixels.dims()
    );
    let embeddings = case.timed(|| clip.forward(pixels));
    compare(&arrays, &Outputs::from([("out.image_embeds".to_owned(), embeddings.into())]), &[], relative_maximum)
}

fn sample(arrays: &Arrays, config: &UNetConfig, device: &Device) -> Result<Tensor<4>> {
    let sample = arrays.tensor("in.sample", device)?;
    check_channels("in.sample", &sample, config.in_channels)?;
    Ok(sample)
}

/// One timestep per sample, or one for the whole batch.
fn timestep(arrays: &Arrays, sample: &Tensor<4>, device: &Device) -> Result<Tensor<1>> {
    let Array { shape, values } = arrays.get("in.timestep")?;
    let [batch, ..] = sample.dims();
    ensure!([1, batch].contains(&values.len()), "in.timestep has shape {shape:?}, in.sample is a batch of {batch}");
    let timesteps: Vec<f32> = values.iter().cycle().take(batch).map(|&value| value as f32).collect();
    Ok(Tensor::from_floats(timesteps.as_slice(), device))
}

fn context(name: &str, arrays: &Arrays, config: &UNetConfig, sample: &Tensor<4>, device: &Device) -> Result<Tensor<3>> {
    let context: Tensor<3> = arrays.tensor(name, device)?;
    let [batch, _, width] = context.dims();
    check_batch(name, batch, sample)?;
    let expected = config.cross_attention_dim.get(0).context("config.json: \"cross_attention_dim\" is empty")?;
    ensure!(width == expected, "{name} has tokens of width {width}, the network of {expected}");
    Ok(context)
}

/// The picture for the control branch: each stage of its embedding except the first halves height and width.
fn condition(
    name: &str,
    arrays: &Arrays,
    config: &ControlConfig,
    sample: &Tensor<4>,
    device: &Device,
) -> Result<Tensor<4>> {
    let condition: Tensor<4> = arrays.tensor(name, device)?;
    check_batch(name, condition.dims()[0], sample)?;
    check_channels(name, &condition, config.conditioning_channels)?;
    let halvings = config.conditioning_embedding_out_channels.len().saturating_sub(1);
    let halved = |side: usize| (0..halvings).fold(side, |side, _| side.div_ceil(2));
    let ([.., height, width], [.., rows, columns]) = (condition.dims(), sample.dims());
    ensure!(
        [halved(height), halved(width)] == [rows, columns],
        "{name} is of {height} by {width}, which does not come down to in.sample's {rows} by {columns}"
    );
    Ok(condition)
}

fn check_batch(name: &str, batch: usize, sample: &Tensor<4>) -> Result<()> {
    let [expected, ..] = sample.dims();
    ensure!(batch == expected, "{name} is a batch of {batch}, in.sample of {expected}");
    Ok(())
}

fn check_channels(name: &str, tensor: &Tensor<4>, expected: usize) -> Result<()> {
    let [_, channels, ..] = tensor.dims();
    ensure!(channels == expected, "{name} has {channels} channels, the network {expected}");
    Ok(())
}

fn features(down: &str, mid: &str, features: ControlFeatures) -> Outputs {
    let down = features.down.into_iter().enumerate().map(|(i, skip)| (format!("{down}.{i}"), skip.into()));
    down.chain([(mid.to_owned(), features.mid.into())]).collect()
}
