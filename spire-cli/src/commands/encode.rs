//! `spire data encode`

use std::path::PathBuf;

use anyhow::Result;
use spire_core::message::printable;
use spire_core::settings;
use spire_core::shard::Shard;
use spire_train::distributed::ensure_single_process;
use spire_train::encoding::{EncodeSettings, Encoding, encode};

#[derive(clap::Args)]
pub struct Encode {
    /// Configuration of a run, TOML
    config: PathBuf,
    /// Folder for what is encoded [default: data.encoded]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The part of the files that this process writes, such as 3/8; every part must run once
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    shard: Shard,
    /// Crops of each picture, if data.crop is "random"; data.horizontal_flip encodes each of them mirrored too
    #[arg(long, value_name = "N", default_value_t = 1)]
    crops: usize,
    /// Encode pictures only; training then needs the text tower
    #[arg(long)]
    without_texts: bool,
    /// Of several captions of a picture, use the one that this CLIP ranks first: a folder as transformers publishes it, or one
    /// with image_encoder/, text_encoder/ and tokenizer/
    #[arg(long, value_name = "DIR")]
    captions_by: Option<PathBuf>,
    /// Pictures in a file; what a process loses if it is killed
    #[arg(long, value_name = "N", default_value_t = 128)]
    pictures_per_file: usize,
    /// Override a key of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub fn run(args: Encode) -> Result<()> {
    ensure_single_process("spire data encode")?;
    let settings = EncodeSettings {
        folder: args.output,
        crops: args.crops,
        texts: !args.without_texts,
        captions_by: args.captions_by,
        shard: args.shard,
        pictures_per_file: args.pictures_per_file,
    };
    let done = encode(settings::load(&args.config, &args.overrides)?, &settings)?;
    let Encoding { folder, manifest, written, found, pictures, skipped, took, vae_share } = &done;
    say!("folder      {}", printable(&folder.to_string_lossy()))?;
    say!("files       {written} written, {found} were there, {} in all", manifest.file_count())?;
    say!("pictures    {pictures} encoded now, {} latents each", manifest.variants())?;
    if *written > 0 {
        let seconds = took.as_secs_f64();
        let latents = (pictures * manifest.variants()) as f64 / seconds;
        say!(
            "speed       {latents:.2} latents/s in {seconds:.1} s; {:.1} % of the time in the VAE",
            100.0 * vae_share
        )?;
    }
    say!("skipped     {}", skipped.len())?;
    for skipped in skipped {
        say!("            {}: {}", printable(&skipped.name), printable(&skipped.reason))?;
    }
    Ok(())
}
