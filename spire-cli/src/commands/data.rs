//! `spire data`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use spire_core::message::printable;
use spire_core::picture_file::{PictureFormat, save_rgb8};
use spire_core::settings;
use spire_core::sheet::{Note, Row, Sheet};
use spire_data::loader::Samples;
use spire_data::stats::{Stats, stats};
use spire_train::config::RunConfig;

use super::{caption, check_sheet, encode};

#[derive(clap::Args)]
pub struct Data {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make samples as a run would; print counts, speed, broken files and PSNR
    Stats(StatsArgs),
    /// Print restoration prompts as a run would draw them, with the degradations of each picture
    Prompts(Prompts),
    /// Ask a vision-language model on a server for a caption of each picture in a folder
    Caption(caption::Caption),
    /// Compute latents and text states before training, once; training reads them (data.encoded)
    Encode(encode::Encode),
}

#[derive(clap::Args)]
struct StatsArgs {
    /// Configuration of a run, TOML
    config: PathBuf,
    /// Number of samples
    #[arg(short = 'n', long, default_value_t = 256)]
    samples: u64,
    /// One pass over all pictures
    #[arg(long, conflicts_with = "samples")]
    all: bool,
    /// Threads [default: data.workers]
    #[arg(long)]
    threads: Option<usize>,
    /// Print JSON, with the figures of every sample
    #[arg(long)]
    json: bool,
    /// Draw a contact sheet of the first samples
    #[arg(long, value_name = "PICTURE")]
    sheet: Option<PathBuf>,
    /// Override a key of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(clap::Args)]
struct Prompts {
    /// Configuration of a run, TOML [default: the default of every key]
    config: Option<PathBuf>,
    /// Number of prompts
    #[arg(short = 'n', default_value_t = 20)]
    count: u64,
    /// Override a key of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// Rows of a contact sheet.
const ROWS: u64 = 12;

pub fn run(args: Data) -> Result<ExitCode> {
    match args.command {
        Command::Stats(args) => print_stats(&args)?,
        Command::Prompts(args) => print_prompts(&args)?,
        Command::Caption(args) => return caption::run(args),
        Command::Encode(args) => encode::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(config: Option<&Path>, overrides: &[String]) -> Result<(RunConfig, Samples)> {
    let config: RunConfig = match config {
        Some(config) => settings::load(config, overrides)?,
        None => settings::parse("", Path::new("the defaults"), overrides)?,
    };
    let samples = Samples::open(config.data.clone(), config.degradation.clone(), config.run.seed)?;
    Ok((config, samples))
}

fn print_stats(args: &StatsArgs) -> Result<()> {
    let (config, samples) = open(Some(&args.config), &args.overrides)?;
    let count = if args.all { samples.epoch_len() as u64 } else { args.samples };
    args.sheet.as_deref().map(check_sheet).transpose()?;
    let figures = stats(&samples, count, args.threads.unwrap_or(config.data.workers))?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&figures)?)?;
    } else {
        print_table(&figures)?;
    }
    if let Some(path) = &args.sheet {
        let mut sheet = Sheet::new(["clean", "degraded"]);
        for n in 0..ROWS.min(count) {
            let sample = samples.sample(n)?;
            sheet.rows.push(Row {
                pictures: vec![sample.clean, sample.degraded],
                notes: vec![
                    Note::new("semantic prompt", sample.semantic),
                    Note::new("restoration prompt", sample.restoration),
                    Note::new("picture", sample.name),
                ],
            });
        }
        save_rgb8(path, PictureFormat::of(path, None)?, &sheet.draw())?;
        say!("{}", printable(&path.to_string_lossy()))?;
    }
    Ok(())
}

fn print_table(figures: &Stats) -> Result<()> {
    let Stats { samples, pictures, source_pictures, threads, seconds, images_per_second, .. } = figures;
    say!("source      {source_pictures} pictures")?;
    say!("made        {samples} samples of {pictures} pictures in {seconds:.2} s on {threads} threads")?;
    let [smallest, middle, largest] = figures.sizes.map(|(width, height)| format!("{width}×{height}"));
    say!("sizes       {smallest} to {largest}, half of them up to {middle}")?;
    say!("speed       {images_per_second:.1} images/s")?;
    for (pipeline, count) in &figures.pipelines {
        say!("pipeline    {count} {pipeline}")?;
    }
    say!("prompts     {} blind, {} without a caption", figures.blind_prompts, figures.empty_captions)?;
    say!("degraded    PSNR {:.2} dB, standard deviation {:.2}", figures.psnr.mean, figures.psnr.std)?;
    say!("broken      {}", figures.broken.len())?;
    for (name, reason) in &figures.broken {
        say!("            {}: {}", printable(name), printable(reason))?;
    }
    Ok(())
}

fn print_prompts(args: &Prompts) -> Result<()> {
    let (_, samples) = open(args.config.as_deref(), &args.overrides)?;
    for n in 0..args.count {
        let sample = samples.sample(n)?;
        if !say!("{:<70} {}", sample.restoration, serde_json::to_string(&sample.steps)?)? {
            break;
        }
    }
    Ok(())
}
