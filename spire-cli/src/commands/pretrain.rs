//! `spire pretrain`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use spire_core::settings;
use spire_train::distributed::ensure_single_process;
use spire_train::pretrain::{PretrainConfig, Stage, pretrain};

use crate::signals::interruption;

#[derive(clap::Args)]
pub struct Pretrain {
    /// Configuration, TOML
    config: PathBuf,
    /// Only this stage; may be repeated
    #[arg(long = "stage", value_name = "STAGE")]
    stages: Vec<StageName>,
    /// Override a key of the configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum StageName {
    Clip,
    Prompts,
    Vae,
    Judge,
    Unet,
    Embedding,
}

pub fn run(args: Pretrain) -> Result<ExitCode> {
    ensure_single_process("spire pretrain")?;
    let config: PretrainConfig = settings::load(&args.config, &args.overrides)?;
    ensure!(!config.out.as_os_str().is_empty(), "out is empty: name the folder of the model");
    let stages = if args.stages.is_empty() { StageName::value_variants() } else { &args.stages };
    let stages: Vec<_> = stages
        .iter()
        .map(|stage| match stage {
            StageName::Clip => Stage::Clip,
            StageName::Prompts => Stage::Prompts,
            StageName::Vae => Stage::Vae,
            StageName::Judge => Stage::Judge,
            StageName::Unet => Stage::UNet,
            StageName::Embedding => Stage::Embedding,
        })
        .collect();
    let interrupted = interruption("interrupted: writing a checkpoint after this step (again to stop at once)")?;
    if !pretrain(&config, &args.overrides, &stages, &interrupted)? {
        say!("stopped; the same command continues from the last checkpoint in {}", config.out.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
