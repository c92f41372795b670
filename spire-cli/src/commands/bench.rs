//! `spire bench`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use spire_train::bench::{self, BenchSettings, Measurement};
use spire_train::config::RunConfig;
use spire_train::{ranks, settings};

#[derive(clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Steps of the training that a configuration describes, on one step's samples
    Train(Measure),
    /// Restorations of evaluate.batch_size held-out pictures, as evaluate.sampling says
    Restore(Measure),
}

#[derive(clap::Args)]
struct Measure {
    /// Configuration, TOML, as for spire train; no run folder is written
    config: PathBuf,
    /// Steps, or restorations, that are measured
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Steps before them, which do not count
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// Write what was measured into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write inputs and weights into this folder, for scripts/bench/train.py and restore.py to compute the same with
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Override a key of the configuration, such as run.device=cuda:0; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub fn run(args: Bench) -> Result<ExitCode> {
    ranks::ensure_alone("spire bench")?;
    match args.command {
        Command::Train(args) => report(args, bench::train),
        Command::Restore(args) => report(args, bench::restore),
    }
}

fn report(args: Measure, measure: impl Fn(RunConfig, &BenchSettings) -> Result<Measurement>) -> Result<ExitCode> {
    let settings = BenchSettings { warmup: args.warmup, steps: args.steps, dump: args.dump };
    let measurement = measure(settings::load(&args.config, &args.overrides)?, &settings)?;
    if let Some(file) = args.json {
        std::fs::write(&file, serde_json::to_vec_pretty(&measurement)?)
            .with_context(|| format!("can't write {}", file.display()))?;
    }
    println!("{measurement}");
    Ok(ExitCode::SUCCESS)
}
