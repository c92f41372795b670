//! `spire restore`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use spire_core::atomic_write::check_output;
use spire_core::message::printable;
use spire_core::picture_file::PictureFormat;
use spire_core::progress;
use spire_core::shard::Shard;
use spire_data::prompt;
use spire_model::weights::Precision;
use spire_restore::files::{FileSettings, FolderSummary, Semantic, restore_folder};
use spire_restore::restorer::Restorer;
use spire_restore::sharing::Sharing;

use super::caption::Captioner;
use super::model::Model;
use super::other_model::{self, Order, OtherModel};
use super::sampling::{Sampling, by_name};

#[derive(clap::Args)]
pub struct Restore {
    /// The picture, or a folder of pictures
    input: PathBuf,
    /// The restored picture, .png, .jpg or .webp (lossless); or the folder for restored pictures, PNGs
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    #[command(flatten)]
    model: Model,
    /// Restore with another author's model: swinir, bsrnet, scunet, diffbir, diffbir-v2, diffbir-v2-denoising, diffbir-v2.1
    /// or stablesr
    #[arg(long = "model", value_name = "NAME", value_parser = other_model::by_name, requires = "weights")]
    #[arg(conflicts_with_all = ["run", "base", "control", "precision", "restoration", "variants", "latents"])]
    other: Option<OtherModel>,
    /// The published checkpoint of --model, or the folder with them for diffbir and stablesr
    #[arg(long, value_name = "PATH", requires = "other")]
    weights: Option<PathBuf>,
    /// A setting of --model diffbir or stablesr; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "other")]
    settings: Vec<String>,
    /// Float type of the text-to-image model: f32, bf16 or f16
    #[arg(long, value_parser = by_name::<Precision>)]
    precision: Option<Precision>,
    /// Semantic prompt: what the picture shows; may be empty
    #[arg(long, default_value = "")]
    semantic: String,
    /// Read each semantic prompt from the .txt file beside the picture
    #[arg(long, conflicts_with = "semantic")]
    captions: bool,
    #[command(flatten)]
    captioner: Captioner,
    /// Restoration prompt: what to undo
    #[arg(long, default_value = prompt::REMOVE_ALL)]
    restoration: String,
    #[command(flatten)]
    sampling: Sampling,
    /// Enlarge the picture by this factor first
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    upscale: f64,
    /// Seed of the initial noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Take the initial noise from this file instead: safetensors with "latents", standard normal, as diffusers' pipelines take it
    #[arg(long, value_name = "FILE", conflicts_with = "variants")]
    latents: Option<PathBuf>,
    /// Restore each picture this many times, with seeds from --seed on, and draw a contact sheet
    #[arg(long, default_value_t = 1)]
    variants: u64,
    /// Quality of a JPEG, from 1 to 100 [default: 95]
    #[arg(long)]
    quality: Option<u8>,
    /// Restore again even if the result exists, made in the same way
    #[arg(long)]
    overwrite: bool,
    /// flex (the CPU), cuda:0, vulkan, …; several share the pictures of a folder: cuda:0,cuda:1
    #[arg(long, visible_alias = "devices", value_name = "DEVICE", value_delimiter = ',')]
    device: Vec<String>,
    /// The part of a folder's pictures that this process restores, such as 3/8; every part must run once
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    shard: Shard,
    /// Print JSON: the files, and how many were restored, existed already or failed
    #[arg(long)]
    json: bool,
}

/// What a user must know who has no model of his own yet.
const BUILT_IN: &str = "note: the built-in model knows only the illustrated world that the program draws, and makes \
    nothing useful of photographs: for these, train a branch on a Stable Diffusion model (spire train CONFIG --set \
    model.base=stable-diffusion-v1-5/stable-diffusion-v1-5), and restore with --run RUN";

pub fn run(args: Restore) -> Result<ExitCode> {
    ensure!(args.input.exists(), "there is no picture or folder {}", args.input.display());
    let is_folder = args.input.is_dir();
    let output = if is_folder { args.output } else { output_file(&args.output, &args.input) };
    if is_folder {
        ensure!(
            args.quality.is_none(),
            "--quality is for a single JPEG: the pictures of a folder are restored to PNGs"
        );
    } else {
        // Before the work.
        PictureFormat::of(&output, args.quality)?;
        check_output(&output, &args.input)?;
    }
    let named: Vec<String> = args.device.iter().map(|name| name.trim().to_owned()).collect();
    let sharing = |default: &str| {
        let devices = if named.is_empty() { vec![default.to_owned()] } else { named.clone() };
        let sharing = Sharing::new(devices, args.shard)?;
        if !is_folder {
            sharing.ensure_alone(&args.input.display().to_string())?;
        }
        anyhow::Ok(sharing)
    };
    if let (Some(model), Some(weights)) = (args.other, args.weights) {
        let sharing = sharing("flex")?;
        let order = Order {
            input: args.input,
            output: output.clone(),
            weights,
            sharing,
            sampling: args.sampling,
            settings: args.settings,
            semantic: semantic(args.captioner, args.captions, args.semantic),
            seed: args.seed,
            upscale: args.upscale,
            overwrite: args.overwrite,
        };
        return report(&order.restore(model)?, is_folder, &output, args.json);
    }
    let found = args.model.locate()?;
    let settings = FileSettings {
        semantic: semantic(args.captioner, args.captions, args.semantic),
        restoration: args.restoration,
        seed: args.seed,
        latents: args.latents,
        variants: args.variants,
        upscale: args.upscale,
        sampling: args.sampling.over(found.sampling.clone()),
        batch_size: found.batch_size,
        quality: args.quality,
        overwrite: args.overwrite,
    };
    settings.validate()?;

    let sharing = sharing(&found.device)?;
    let is_built_in = found.is_built_in()?;
    if is_built_in {
        progress::print(BUILT_IN);
    }
    for unknown in found.trained.untrained(&settings.restoration) {
        tracing::warn!("the model was not trained on this part of the restoration prompt: {unknown}");
    }

    let load = |device: &str| {
        let mut restorer = found.load(Some(device), args.precision)?;
        restorer.guide_by(settings.sampling.clip_guidance.as_ref())?;
        Ok(restorer)
    };
    let restore = |restorer: &Restorer, picture: &Path, place: &Path| restorer.restore_file(&settings, picture, place);
    let summary = match is_folder {
        true => restore_folder(&args.input, &output, &sharing, load, restore)?,
        false => restore(&load(sharing.first_device())?, &args.input, &output)?.into(),
    };
    let code = report(&summary, is_folder, &output, args.json)?;
    if is_built_in && summary.restored > 0 {
        progress::print(BUILT_IN);
    }
    Ok(code)
}

/// Where the semantic prompts come from.
fn semantic(captioner: Captioner, captions: bool, text: String) -> Semantic {
    match (captioner.endpoint(), captions) {
        (Some(endpoint), _) => Semantic::Model(endpoint),
        (None, true) => Semantic::Captions,
        (None, false) => Semantic::Text(text),
    }
}

/// Prints what became of the pictures; a failure if one failed.
fn report(summary: &FolderSummary, is_folder: bool, output: &Path, json: bool) -> Result<ExitCode> {
    if json {
        say!("{}", serde_json::to_string_pretty(summary)?)?;
    } else if is_folder {
        let FolderSummary { restored, kept, failed, .. } = summary;
        say!("{restored} restored, {kept} existed already, {} failed; see {}", failed.len(), output.display())?;
    } else {
        let note = if summary.kept > 0 { " exists already, made in the same way (--overwrite to repeat)" } else { "" };
        for file in &summary.files {
            say!("{}{note}", printable(&file.to_string_lossy()))?;
        }
    }
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The output file; a picture that is written into an existing folder keeps its name.
fn output_file(output: &Path, input: &Path) -> PathBuf {
    match output.is_dir() {
        true => output.join(input.file_name().unwrap_or_default()).with_extension("png"),
        false => output.to_owned(),
    }
}
