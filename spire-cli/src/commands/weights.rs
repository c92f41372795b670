//! `spire weights`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use spire_model::base::locate;
use spire_model::weights::inspect::inspect;

#[derive(clap::Args)]
pub struct Weights {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List a model's parts with the shapes and types of their tensors, and what does not fit
    Inspect(Inspect),
}

#[derive(clap::Args)]
struct Inspect {
    /// A model folder or the folder of a part of it, a control branch, a single-file model, a file of weights, or a name
    /// on the Hugging Face Hub
    model: PathBuf,
    /// Only a line for each part, not every tensor
    #[arg(long)]
    summary: bool,
}

pub fn run(args: Weights) -> Result<ExitCode> {
    let Command::Inspect(args) = args.command;
    let inspection = inspect(&locate(&args.model)?, !args.summary)?;
    println!("{inspection}");
    Ok(if inspection.fits() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
