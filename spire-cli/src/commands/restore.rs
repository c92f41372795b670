//! `spire restore`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde::de::{DeserializeOwned, IntoDeserializer};
use spire_data::prompt;
use spire_model::feedforward::NetworkKind;
use spire_model::restore::ColourFix;
use spire_model::scheduler::SamplerKind;
use spire_model::weights::Precision;
use spire_restore::files::{FileSettings, FolderSummary, RestoredFile, Semantic};
use spire_restore::network::NetworkRestorer;

use super::model::Model;

#[derive(clap::Args)]
pub struct Restore {
    /// The picture, or a folder of pictures
    input: PathBuf,
    /// The restored picture, a PNG; or the folder for restored pictures
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    #[command(flatten)]
    model: Model,
    /// Restore with another author's network, without prompts: swinir, bsrnet or scunet
    #[arg(long = "model", value_name = "NETWORK", value_parser = by_name::<NetworkKind>, requires = "weights")]
    #[arg(conflicts_with_all = [
        "run", "base", "control", "precision", "semantic", "captions", "restoration", "negative", "steps", "guidance",
        "sampler", "strength", "colour_fix", "upscale", "seed", "variants",
    ])]
    network: Option<NetworkKind>,
    /// The published checkpoint of --model
    #[arg(long, value_name = "FILE", requires = "network")]
    weights: Option<PathBuf>,
    /// Float type of the text-to-image model: f32, bf16 or f16
    #[arg(long, value_parser = by_name::<Precision>)]
    precision: Option<Precision>,
    /// Semantic prompt: what the picture shows; may be empty
    #[arg(long, default_value = "")]
    semantic: String,
    /// Read each semantic prompt from the .txt file beside the picture
    #[arg(long, conflicts_with = "semantic")]
    captions: bool,
    /// Restoration prompt: what to undo
    #[arg(long, default_value = prompt::REMOVE_ALL)]
    restoration: String,
    /// Negative prompt: replaces the empty prompt in classifier-free guidance
    #[arg(long)]
    negative: Option<String>,
    /// Denoising steps
    #[arg(long)]
    steps: Option<usize>,
    /// Guidance scale: the weight of the semantic prompt; 1 for no guidance
    #[arg(long)]
    guidance: Option<f64>,
    /// ddim, dpm++2m or euler
    #[arg(long)]
    sampler: Option<SamplerKind>,
    /// Start from the degraded picture with noise and take this share of the steps (SDEdit); 1 starts from pure noise
    #[arg(long)]
    strength: Option<f64>,
    /// Take colours from the degraded picture: none, wavelet or adain
    #[arg(long, alias = "color-fix", value_parser = by_name::<ColourFix>)]
    colour_fix: Option<ColourFix>,
    /// Side of the tiles in which larger pictures are restored, in pixels; 0 for no tiles [default: the side for which
    /// the model was trained; 512 for --model]
    #[arg(long, value_name = "PIXELS")]
    tile: Option<usize>,
    /// Enlarge the picture by this factor first
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    upscale: f64,
    /// Seed of the initial noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Restore each picture this many times, with seeds from --seed on, and draw a contact sheet
    #[arg(long, default_value_t = 1)]
    variants: u64,
    /// Restore again even if the result exists, made in the same way
    #[arg(long)]
    overwrite: bool,
    /// flex (the CPU), cuda:0, vulkan, …
    #[arg(long)]
    device: Option<String>,
}

/// Parses a value by its name in a configuration.
fn by_name<T: DeserializeOwned>(name: &str) -> Result<T, serde::de::value::Error> {
    T::deserialize(name.into_deserializer())
}

pub fn run(args: Restore) -> Result<ExitCode> {
    ensure!(args.input.exists(), "there is no picture or folder {}", args.input.display());
    if let (Some(network), Some(weights)) = (args.network, &args.weights) {
        let restorer = NetworkRestorer::load(network, weights, args.tile, args.device.as_deref().unwrap_or("flex"))?;
        if args.input.is_dir() {
            return report(&restorer.restore_folder(&args.input, &args.output, args.overwrite)?, &args.output);
        }
        let output = png_path(&args.output, &args.input);
        print_files(&restorer.restore_file(&args.input, &output, None, args.overwrite)?);
        return Ok(ExitCode::SUCCESS);
    }
    let found = args.model.locate()?;
    let mut sampling = found.sampling.clone();
    sampling.steps = args.steps.unwrap_or(sampling.steps);
    sampling.guidance_scale = args.guidance.unwrap_or(sampling.guidance_scale);
    sampling.sampler = args.sampler.unwrap_or(sampling.sampler);
    sampling.negative = args.negative.unwrap_or(sampling.negative);
    sampling.strength = args.strength.unwrap_or(sampling.strength);
    sampling.colour_fix = args.colour_fix.unwrap_or(sampling.colour_fix);
    sampling.tile = args.tile.or(sampling.tile);
    let settings = FileSettings {
        semantic: if args.captions { Semantic::Captions } else { Semantic::Text(args.semantic) },
        restoration: args.restoration,
        seed: args.seed,
        variants: args.variants,
        upscale: args.upscale,
        sampling,
        batch_size: found.batch_size,
        overwrite: args.overwrite,
    };
    settings.validate()?;

    let mut restorer = found.load(args.device.as_deref(), args.precision)?;
    restorer.base.guide_by(settings.sampling.clip_guidance.as_ref())?;
    for unknown in restorer.trained.untrained(&settings.restoration) {
        tracing::warn!("the model was not trained on this part of the restoration prompt: {unknown}");
    }

    if !args.input.is_dir() {
        let output = png_path(&args.output, &args.input);
        print_files(&restorer.restore_file(&settings, &args.input, &output)?);
        return Ok(ExitCode::SUCCESS);
    }
    report(&restorer.restore_folder(&settings, &args.input, &args.output)?, &args.output)
}

fn print_files(restored: &RestoredFile) {
    let note = if restored.kept { " exists already, made in the same way (--overwrite to repeat)" } else { "" };
    restored.files.iter().for_each(|file| println!("{}{note}", file.display()));
}

/// Prints what became of a folder; a failure if a picture failed.
fn report(summary: &FolderSummary, output: &Path) -> Result<ExitCode> {
    println!(
        "{} restored, {} existed already, {} failed; see {}",
        summary.restored,
        summary.kept,
        summary.failed.len(),
        output.display()
    );
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The output file; a picture that is written into an existing folder keeps its name.
fn png_path(output: &Path, input: &Path) -> PathBuf {
    match output.is_dir() {
        true => output.join(input.file_name().unwrap_or_default()).with_extension("png"),
        false => output.to_owned(),
    }
}
