//! The subcommands, one file each: arguments and wiring.

mod bench;
mod benchmark;
mod caption;
mod closing;
mod completions;
mod data;
mod degrade;
mod encode;
mod eval;
mod init;
mod man;
mod model;
mod other_model;
mod pretrain;
mod restore;
mod sampling;
mod serve;
mod sweep;
mod train;
mod verify;
mod walk;
mod weights;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use spire_core::atomic_write::check_replaceable;
use spire_core::picture_file::PictureFormat;

use crate::verbosity::Verbosity;

/// Text-driven image restoration (SPIRE): train, restore, degrade, evaluate.
#[derive(Parser)]
#[command(name = "spire", version = env!("SPIRE_VERSION"), about)]
pub struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

/// The commented reference configuration; `spire train --help` prints it.
const REFERENCE: &str = include_str!("../../../configs/reference.toml");

#[derive(Subcommand)]
enum Command {
    /// Write a commented configuration into the current folder
    Init(init::Init),
    /// Train a control branch on a frozen text-to-image model, evaluate it, write a run folder
    #[command(after_long_help = format!("Every key of a configuration, with its default:\n\n{REFERENCE}"))]
    Train(train::Train),
    /// Restore a picture, or a folder of pictures
    Restore(Box<restore::Restore>),
    /// Restore pictures in a browser: a page and an interface for programs
    Serve(serve::Serve),
    /// Degrade a picture as a restoration prompt describes
    Degrade(degrade::Degrade),
    /// Make test sets from recipes, and check them
    Benchmark(benchmark::Benchmark),
    /// Measure methods on test sets, and write tables
    Eval(eval::Eval),
    /// Train variants of a configuration with several seeds, and write a table of them
    Sweep(sweep::Sweep),
    /// Restore one picture with prompts that change step by step, and measure their effect
    Walk(Box<walk::Walk>),
    /// Show the training data as a run would read it, or encode it before training
    Data(data::Data),
    /// Show what is in files of weights
    Weights(weights::Weights),
    /// Compare this program's results with reference bundles
    Verify(verify::Verify),
    /// Measure the speed and memory of training and restoration
    Bench(bench::Bench),
    /// Train a small text-to-image model: CLIP, the VAE, the UNet and the judge of kinds
    Pretrain(pretrain::Pretrain),
    /// Print a script that completes this program's commands and options in a shell
    Completions(completions::Completions),
    /// Write this program's manual pages
    Man(man::Man),
}

/// Checks the name of a contact sheet before the work that it shows.
fn check_sheet(path: &Path) -> Result<()> {
    PictureFormat::of(path, None)?;
    Ok(check_replaceable(path)?)
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        self.verbosity.start_log();
        match self.command {
            Command::Init(args) => init::run(args),
            Command::Train(args) => train::run(args),
            Command::Restore(args) => restore::run(*args),
            Command::Serve(args) => serve::run(args),
            Command::Degrade(args) => degrade::run(args),
            Command::Benchmark(args) => benchmark::run(args),
            Command::Eval(args) => eval::run(args),
            Command::Sweep(args) => sweep::run(args),
            Command::Walk(args) => walk::run(*args),
            Command::Data(args) => data::run(args),
            Command::Weights(args) => weights::run(args),
            Command::Verify(args) => verify::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Pretrain(args) => pretrain::run(args),
            Command::Completions(args) => completions::run(args),
            Command::Man(args) => man::run(args),
        }
    }
}
