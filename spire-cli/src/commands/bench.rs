//! `spire bench`

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use spire_core::atomic_write::{check_replaceable, write_atomic};
use spire_core::settings;
use spire_train::config::RunConfig;
use spire_train::distributed::ensure_single_process;
use spire_train::speed::{self, BenchSettings};

#[derive(clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Training steps of a configuration, on the samples of one step
    Train(WithDump),
    /// Restorations of evaluate.batch_size held-out pictures with evaluate.sampling
    Restore(WithDump),
    /// The sum of gradients over the devices of run.device; with one of CUDA, whether NCCL works
    AllReduce(Measure),
}

#[derive(clap::Args)]
struct Measure {
    /// Configuration of a run, TOML; no run folder is written
    config: PathBuf,
    /// Measured steps, restorations or sums
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Steps, restorations or sums before the measured ones
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// Write the measurement into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Override a key of the configuration, such as run.device=cuda:0; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(clap::Args)]
struct WithDump {
    #[command(flatten)]
    measure: Measure,
    /// Write inputs and weights into this folder, so that scripts/bench/train.py and restore.py can compute the same
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
}

pub fn run(args: Bench) -> Result<ExitCode> {
    ensure_single_process("spire bench")?;
    match args.command {
        Command::Train(args) => report(args.measure, args.dump, speed::train),
        Command::Restore(args) => report(args.measure, args.dump, speed::restore),
        Command::AllReduce(args) => report(args, None, speed::all_reduce),
    }
}

fn report<M: Serialize + Display>(
    args: Measure,
    dump: Option<PathBuf>,
    measure: impl Fn(RunConfig, &BenchSettings) -> Result<M>,
) -> Result<ExitCode> {
    let settings = BenchSettings { warmup: args.warmup, steps: args.steps, dump };
    args.json.as_deref().map(check_replaceable).transpose()?;
    let measurement = measure(settings::load(&args.config, &args.overrides)?, &settings)?;
    if let Some(file) = args.json {
        write_atomic(&file, &serde_json::to_vec_pretty(&measurement)?)?;
    }
    say!("{measurement}")?;
    Ok(ExitCode::SUCCESS)
}
