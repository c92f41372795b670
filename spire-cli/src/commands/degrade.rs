//! `spire degrade`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use spire_core::Picture;
use spire_core::atomic_write::check_output;
use spire_core::message::printable;
use spire_core::picture_file::{self, PictureFormat};
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
    /// The degraded picture, .png, .jpg or .webp (lossless) [default: IMAGE-degraded.png]
    #[arg(short, long, value_name = "PICTURE")]
    output: Option<PathBuf>,
    /// Quality of a JPEG, from 1 to 100 [default: 95]
    #[arg(long)]
    quality: Option<u8>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: Degrade) -> Result<ExitCode> {
    let steps = prompt::parse_steps(&args.prompt)?;
    let output = args.output.unwrap_or_else(|| {
        let stem = args.image.file_stem().unwrap_or_default().to_string_lossy();
        args.image.with_file_name(format!("{stem}-degraded.png"))
    });
    let format = PictureFormat::of(&output, args.quality)?;
    check_output(&output, &args.image)?;
    let clean = Picture::open(&args.image)?;
    let (degraded, _) = degrade::apply(&steps, &clean, &mut rng(args.seed, "degrade", 0))?;
    picture_file::save(&output, format, &degraded, None, None)?;
    say!("{}", printable(&output.to_string_lossy()))?;
    Ok(ExitCode::SUCCESS)
}
