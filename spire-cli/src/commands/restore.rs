//! `spire restore`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::{DeserializeOwned, IntoDeserializer};
use spire_core::atomic_write::check_output;
use spire_core::message::printable;
use spire_core::picture_file::PictureFormat;
use spire_core::progress;
use spire_data::prompt;
use spire_model::feedforward::NetworkKind;
use spire_model::generative::GenerativeKind;
use spire_model::restore::{ColourFix, StartFrom};
use spire_model::scheduler::SamplerKind;
use spire_model::weights::Precision;
use spire_restore::files::{FileSettings, FolderSummary, Semantic};
use spire_restore::generative::{GenerativeRestorer, GenerativeTask};
use spire_restore::network::NetworkRestorer;

use super::model::Model;

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
    #[arg(long = "model", value_name = "NAME", value_parser = other_model, requires = "weights")]
    #[arg(conflicts_with_all = [
        "run", "base", "control", "precision", "restoration", "sampler", "variants", "control_start", "control_end",
    ])]
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
    /// Where all steps start: noise, or picture, the degraded picture with the noise of the first step
    #[arg(long, value_parser = by_name::<StartFrom>)]
    start: Option<StartFrom>,
    /// Factor of the control branch's effect; 0 is the text-to-image model alone
    #[arg(long, value_name = "FACTOR")]
    control_scale: Option<f64>,
    /// The control branch acts from this fraction of the steps on
    #[arg(long, value_name = "FRACTION")]
    control_start: Option<f64>,
    /// The control branch acts until this fraction of the steps
    #[arg(long, value_name = "FRACTION")]
    control_end: Option<f64>,
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
    /// Quality of a JPEG, from 1 to 100 [default: 95]
    #[arg(long)]
    quality: Option<u8>,
    /// Restore again even if the result exists, made in the same way
    #[arg(long)]
    overwrite: bool,
    /// flex (the CPU), cuda:0, vulkan, …
    #[arg(long)]
    device: Option<String>,
    /// Print JSON: the files, and how many were restored, existed already or failed
    #[arg(long)]
    json: bool,
}

/// What a user must know who has no model of his own yet.
const BUILT_IN: &str = "note: the built-in small model knows only the illustrated world that the program draws, and makes \
    nothing useful of photographs: for these, train a branch on a Stable Diffusion model (spire train CONFIG --set \
    model.base=stable-diffusion-v1-5/stable-diffusion-v1-5), and restore with --run RUN";

/// A model of other authors.
#[derive(Clone, Copy, Debug)]
enum OtherModel {
    Network(NetworkKind),
    Generative(GenerativeKind),
}

fn other_model(name: &str) -> Result<OtherModel> {
    by_name::<NetworkKind>(name)
        .map(OtherModel::Network)
        .or_else(|_| by_name::<GenerativeKind>(name).map(OtherModel::Generative))
        .map_err(|_| {
            anyhow!(
                "the models are swinir, bsrnet, scunet and {}",
                GenerativeKind::ALL.map(|kind| kind.to_string()).join(", ")
            )
        })
}

/// Parses a value by its name in a configuration.
pub fn by_name<T: DeserializeOwned>(name: &str) -> Result<T, serde::de::value::Error> {
    T::deserialize(name.into_deserializer())
}

pub fn run(args: Restore) -> Result<ExitCode> {
    ensure!(args.input.exists(), "there is no picture or folder {}", args.input.display());
    let is_folder = args.input.is_dir();
    let output = if is_folder { args.output.clone() } else { output_file(&args.output, &args.input) };
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
    if let (Some(other), Some(weights)) = (args.other, &args.weights) {
        let device = args.device.as_deref().unwrap_or("flex");
        let summary = match other {
            OtherModel::Network(network) => {
                reject_options(&args, network)?;
                let restorer = NetworkRestorer::load(network, weights, args.tile, device)?;
                match is_folder {
                    true => restorer.restore_folder(&args.input, &output, args.overwrite)?,
                    false => restorer.restore_file(&args.input, &output, None, args.overwrite)?.into(),
                }
            }
            OtherModel::Generative(kind) => {
                let settings = kind.settings(&generative_keys(&args)?).context("the settings of --model")?;
                let task = generative_task(&args, kind)?;
                let restorer = GenerativeRestorer::load(kind, weights, settings, device)?;
                match is_folder {
                    true => restorer.restore_folder(&task, &args.input, &output)?,
                    false => restorer.restore_file(&task, &args.input, &output)?.into(),
                }
            }
        };
        return report(&summary, is_folder, &output, args.json);
    }
    let found = args.model.locate()?;
    let mut sampling = found.sampling.clone();
    sampling.steps = args.steps.unwrap_or(sampling.steps);
    sampling.guidance_scale = args.guidance.unwrap_or(sampling.guidance_scale);
    sampling.sampler = args.sampler.unwrap_or(sampling.sampler);
    sampling.negative = args.negative.unwrap_or(sampling.negative);
    sampling.strength = args.strength.unwrap_or(sampling.strength);
    sampling.start = args.start.unwrap_or(sampling.start);
    sampling.control_scale = args.control_scale.unwrap_or(sampling.control_scale);
    sampling.control_start = args.control_start.unwrap_or(sampling.control_start);
    sampling.control_end = args.control_end.unwrap_or(sampling.control_end);
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
        quality: args.quality,
        overwrite: args.overwrite,
    };
    settings.validate()?;

    let mut restorer = found.load(args.device.as_deref(), args.precision)?;
    restorer.guide_by(settings.sampling.clip_guidance.as_ref())?;
    if restorer.is_built_in {
        progress::print(BUILT_IN);
    }
    for unknown in restorer.trained.untrained(&settings.restoration) {
        tracing::warn!("the model was not trained on this part of the restoration prompt: {unknown}");
    }

    let summary = match is_folder {
        true => restorer.restore_folder(&settings, &args.input, &output)?,
        false => restorer.restore_file(&settings, &args.input, &output)?.into(),
    };
    let code = report(&summary, is_folder, &output, args.json)?;
    if restorer.is_built_in && summary.restored > 0 {
        progress::print(BUILT_IN);
    }
    Ok(code)
}

/// Refuses the options for prompts and sampling, which a network without prompts would ignore.
fn reject_options(args: &Restore, network: NetworkKind) -> Result<()> {
    let set = [
        ("--semantic", !args.semantic.is_empty()),
        ("--captions", args.captions),
        ("--negative", args.negative.is_some()),
        ("--steps", args.steps.is_some()),
        ("--guidance", args.guidance.is_some()),
        ("--strength", args.strength.is_some()),
        ("--start", args.start.is_some()),
        ("--control-scale", args.control_scale.is_some()),
        ("--colour-fix", args.colour_fix.is_some()),
        ("--upscale", args.upscale != 1.0),
        ("--seed", args.seed != 0),
        ("--set", !args.settings.is_empty()),
    ];
    match set.iter().find(|(_, is_set)| *is_set) {
        Some((option, _)) => {
            bail!("{option} cannot be used with --model {network}, which has no prompts and no sampling")
        }
        None => Ok(()),
    }
}

/// The settings that the options name, by their keys.
fn generative_keys(args: &Restore) -> Result<toml::Table> {
    let values: [(&str, Option<toml::Value>); 8] = [
        ("steps", args.steps.map(|steps| (steps as i64).into())),
        ("guidance_scale", args.guidance.map(Into::into)),
        ("negative", args.negative.clone().map(Into::into)),
        ("strength", args.strength.map(Into::into)),
        ("control_scale", args.control_scale.map(Into::into)),
        ("tile", args.tile.map(|tile| i64::try_from(tile).unwrap_or(i64::MAX).into())),
        ("start", args.start.map(toml::Value::try_from).transpose()?),
        ("colour_fix", args.colour_fix.map(toml::Value::try_from).transpose()?),
    ];
    let set = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let mut keys: toml::Table = set.collect();
    for setting in &args.settings {
        let (key, value) =
            setting.split_once('=').with_context(|| format!("--set {setting}: KEY=VALUE is expected"))?;
        let (key, value) = (key.trim(), value.trim());
        // A value that is no TOML is a text.
        let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
        let value = parsed.and_then(|mut parsed| parsed.remove("value")).unwrap_or_else(|| value.into());
        keys.insert(key.to_owned(), value);
    }
    Ok(keys)
}

fn generative_task(args: &Restore, kind: GenerativeKind) -> Result<GenerativeTask> {
    let prompted = args.captions || !args.semantic.is_empty();
    ensure!(
        !prompted || kind.reads_prompts(),
        "--semantic and --captions cannot be used with --model {kind}, which reads no prompts"
    );
    ensure!(args.quality.is_none(), "--quality cannot be used with --model");
    Ok(GenerativeTask {
        semantic: if args.captions { Semantic::Captions } else { Semantic::Text(args.semantic.clone()) },
        seed: args.seed,
        upscale: args.upscale,
        overwrite: args.overwrite,
    })
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
