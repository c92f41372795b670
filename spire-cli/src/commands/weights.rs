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
    /// List the parts of a model with the shapes and types of their tensors, and report what does not fit
    Inspect(Inspect),
}

#[derive(clap::Args)]
struct Inspect {
    /// A model folder or a folder of one part, a control branch, a single-file model, a file of weights, or a name on
    /// the Hugging Face Hub
    model: PathBuf,
    /// One line per part instead of every tensor
    #[arg(long)]
    summary: bool,
    /// Print JSON, for programs to read
    #[arg(long)]
    json: bool,
}

pub fn run(args: Weights) -> Result<ExitCode> {
    let Command::Inspect(args) = args.command;
    let inspection = inspect(&locate(&args.model)?, !args.summary)?;
    let printed = if args.json { serde_json::to_string_pretty(&inspection.json())? } else { inspection.to_string() };
    say!("{printed}")?;
    Ok(if inspection.fits() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
