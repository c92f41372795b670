//! `spire sweep`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use spire_train::distributed::ensure_single_process;
use spire_train::sweep::{self, State};

use crate::signals::interruption;
use crate::stdout;

#[derive(clap::Args)]
pub struct Sweep {
    /// The sweep, TOML, such as configs/sweeps/smallest.toml
    config: PathBuf,
    /// List the numbered cells, what would be trained, and for how long; train nothing
    #[arg(long, visible_alias = "list")]
    dry_run: bool,
    /// Train only this cell of the list, as one of many tasks on several machines; then --collect writes the tables
    #[arg(long, value_name = "NUMBER", conflicts_with = "dry_run")]
    cell: Option<usize>,
    /// Train nothing: evaluate the cells that are done, and write the tables
    #[arg(long, conflicts_with_all = ["dry_run", "cell", "retry"])]
    collect: bool,
    /// Train failed cells again
    #[arg(long)]
    retry: bool,
    /// Override a key of the sweep, such as set.train.steps=100; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// The exit status of a cell that was stopped before its end, by which a job script knows that it must start it again: the
/// "temporary failure" of `sysexits.h`.
const STOPPED: u8 = 75;

pub fn run(args: Sweep) -> Result<ExitCode> {
    ensure_single_process("spire sweep")?;
    let sweep = sweep::Sweep::open(&args.config, &args.overrides)?;
    if args.dry_run {
        stdout::write(sweep.plan()?.to_string().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let interrupted = interruption("interrupted: each cell stops after its current step (again to stop at once)")?;
    let program = std::env::current_exe().context("can't find this program's own file")?;
    if let Some(number) = args.cell {
        return match sweep.run_cell(number, &program, args.retry, &interrupted)? {
            State::Done => Ok(ExitCode::SUCCESS),
            State::Failed { reason } => bail!("cell {number} failed (--retry trains it again): {reason}"),
            State::ToDo | State::CutOff { .. } => Ok(ExitCode::from(STOPPED)),
        };
    }
    let results = match args.collect {
        true => sweep.collect(&program, &interrupted)?,
        false => sweep.run(&program, args.retry, &interrupted)?,
    };
    say!("{}\n{}", sweep.write(&results)?, sweep.output.join("results.md").display())?;
    Ok(if results.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
