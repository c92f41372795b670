//! `spire restore`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde::de::{DeserializeOwned, IntoDeserializer};
use spire_data::prompt;
use spire_model::restore::ColourFix;
use spire_model::scheduler::SamplerKind;
use spire_model::weights::Precision;
use spire_train::restore_files::{Semantic, Task};

use super::model::Model;

#[derive(clap::Args)]
pub struct Restore {
    /// The picture, or a folder of pictures
    input: PathBuf,
    /// Where the restored picture is written, as PNG; for a folder of pictures, a folder
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    #[command(flatten)]
    model: Model,
    /// f32, bf16 or f16: in which the text-to-image model is kept and computes
    #[arg(long, value_parser = by_name::<Precision>)]
    precision: Option<Precision>,
    /// What the picture shows; may be empty
    #[arg(long, default_value = "")]
    semantic: String,
    /// Take what each picture shows from the .txt file beside it
    #[arg(long, conflicts_with = "semantic")]
    captions: bool,
    /// What is to be undone
    #[arg(long, default_value = prompt::REMOVE_ALL)]
    restoration: String,
    /// Replaces the empty prompt in classifier-free guidance
    #[arg(long)]
    negative: Option<String>,
    /// Denoising steps
    #[arg(long)]
    steps: Option<usize>,
    /// Weight of the semantic prompt; 1 is no guidance
    #[arg(long)]
    guidance: Option<f64>,
    /// ddim, dpm++2m or euler
    #[arg(long)]
    sampler: Option<SamplerKind>,
    /// Start from the degraded picture with noise, and take this share of the steps; 1 starts from noise alone
    #[arg(long)]
    strength: Option<f64>,
    /// none, wavelet or adain: take colours from the degraded picture
    #[arg(long, alias = "color-fix", value_parser = by_name::<ColourFix>)]
    colour_fix: Option<ColourFix>,
    /// Side of the tiles in which larger pictures are restored, in pixels; 0: never in tiles [default: the side that the
    /// model was made for]
    #[arg(long, value_name = "PIXELS")]
    tile: Option<usize>,
    /// Enlarge the picture this many times before it is restored
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    upscale: f64,
    /// Decides the initial noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Restore each picture so many times, with seeds from --seed on, and draw a contact sheet
    #[arg(long, default_value_t = 1)]
    variants: u64,
    /// Restore again what was restored the same way before
    #[arg(long)]
    overwrite: bool,
    /// flex (the CPU), cuda:0, vulkan, …
    #[arg(long)]
    device: Option<String>,
}

/// A value under the name that it has in a configuration.
fn by_name<T: DeserializeOwned>(name: &str) -> Result<T, serde::de::value::Error> {
    T::deserialize(name.into_deserializer())
}

pub fn run(args: Restore) -> Result<ExitCode> {
    ensure!(args.input.exists(), "there is no picture or folder {}", args.input.display());
    let found = args.model.locate()?;
    let config = &found.config;
    let mut sampling = config.evaluate.sampling.clone();
    sampling.steps = args.steps.unwrap_or(sampling.steps);
    sampling.guidance_scale = args.guidance.unwrap_or(sampling.guidance_scale);
    sampling.sampler = args.sampler.unwrap_or(sampling.sampler);
    sampling.negative = args.negative.unwrap_or(sampling.negative);
    sampling.strength = args.strength.unwrap_or(sampling.strength);
    sampling.colour_fix = args.colour_fix.unwrap_or(sampling.colour_fix);
    sampling.tile = args.tile.or(sampling.tile);
    let task = Task {
        semantic: if args.captions { Semantic::Captions } else { Semantic::Text(args.semantic) },
        restoration: args.restoration,
        seed: args.seed,
        variants: args.variants,
        upscale: args.upscale,
        sampling,
        batch_size: config.evaluate.batch_size,
        overwrite: args.overwrite,
    };
    task.validate()?;

    let mut restorer = found.load(args.device.as_deref(), args.precision)?;
    restorer.base.guide_by(task.sampling.clip_guidance.as_ref())?;
    for unknown in restorer.trained.untrained(&task.restoration) {
        tracing::warn!("the restoration prompt asks for what the model has never seen: {unknown}");
    }

    if !args.input.is_dir() {
        let output = png_path(&args.output, &args.input);
        let outcome = restorer.restore_file(&task, &args.input, &output)?;
        let note = if outcome.kept { " is there already, made the same way (--overwrite to repeat)" } else { "" };
        outcome.files.iter().for_each(|file| println!("{}{note}", file.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let tally = restorer.restore_folder(&task, &args.input, &args.output)?;
    println!(
        "{} restored, {} there already, {} failed; see {}",
        tally.restored,
        tally.kept,
        tally.failed.len(),
        args.output.display()
    );
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A picture that goes into an existing folder keeps its name.
fn png_path(output: &Path, input: &Path) -> PathBuf {
    match output.is_dir() {
        true => output.join(input.file_name().unwrap_or_default()).with_extension("png"),
        false => output.to_owned(),
    }
}
