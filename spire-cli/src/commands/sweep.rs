//! `spire sweep`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use spire_train::distributed::ensure_single_process;
use spire_train::sweep;

use crate::signals::interruption;
use crate::stdout;

#[derive(clap::Args)]
pub struct Sweep {
    /// The sweep, TOML, such as configs/sweeps/smallest.toml
    config: PathBuf,
    /// List what would be trained, and for how long; train nothing
    #[arg(long)]
    dry_run: bool,
    /// Train failed cells again
    #[arg(long)]
    retry: bool,
    /// Override a key of the sweep, such as set.train.steps=100; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub fn run(args: Sweep) -> Result<ExitCode> {
    ensure_single_process("spire sweep")?;
    let sweep = sweep::Sweep::open(&args.config, &args.overrides)?;
    if args.dry_run {
        stdout::write(sweep.plan()?.to_string().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let interrupted = interruption("interrupted: each cell stops after its current step (again to stop at once)")?;
    let program = std::env::current_exe().context("can't find this program's own file")?;
    let results = sweep.run(&program, args.retry, &interrupted)?;
    say!("{}\n{}", sweep.write(&results)?, sweep.output.join("results.md").display())?;
    Ok(if results.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
