//! The `spire` command.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use spire_train::pretrain::{self, PretrainConfig, Stage};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train the small text-to-image model that the control branch builds on: CLIP, then the VAE, then the UNet
    Pretrain {
        /// Configuration, TOML
        config: PathBuf,
        /// Only this stage; may be given more than once
        #[arg(long = "stage", value_name = "STAGE")]
        stages: Vec<StageName>,
        /// Overrides a key of the configuration; may be given more than once
        #[arg(long = "set", value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum StageName {
    Clip,
    Vae,
    Unet,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Pretrain { config, stages, overrides } => {
            let config: PretrainConfig = spire_train::settings::load(&config, &overrides)?;
            let stages: Vec<_> = if stages.is_empty() {
                vec![Stage::Clip, Stage::Vae, Stage::UNet]
            } else {
                stages
                    .into_iter()
                    .map(|stage| match stage {
                        StageName::Clip => Stage::Clip,
                        StageName::Vae => Stage::Vae,
                        StageName::Unet => Stage::UNet,
                    })
                    .collect()
            };
            pretrain::pretrain(&config, &stages)
        }
    }
}
