//! `spire degrade`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use spire_core::Picture;
use spire_core::rng::rng;
use spire_data::degrade;
use spire_data::prompt;

#[derive(clap::Args)]
pub struct Degrade {
    /// The picture
    image: PathBuf,
    /// The restoration prompt, such as "Deblur with sigma 3.0; Dejpeg with quality 40"; every step needs its number
    #[arg(long)]
    prompt: String,
    /// The degraded picture, a PNG [default: IMAGE-degraded.png]
    #[arg(short, long, value_name = "PNG")]
    output: Option<PathBuf>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: Degrade) -> Result<ExitCode> {
    let steps = prompt::parse_steps(&args.prompt)?;
    let clean = Picture::open(&args.image)?;
    let (degraded, _) = degrade::apply(&steps, &clean, &mut rng(args.seed, "degrade", 0))?;
    let output = args.output.unwrap_or_else(|| {
        let stem = args.image.file_stem().unwrap_or_default().to_string_lossy();
        args.image.with_file_name(format!("{stem}-degraded.png"))
    });
    degraded.save_png(&output)?;
    println!("{}", output.display());
    Ok(ExitCode::SUCCESS)
}
